import random

import numpy as np
import pytest

from coda_jax import backbones, testing
from coda_jax.inference import labels
from coda_jax.inference.sources import Example
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.classify import Classify


def make(number, **overrides):
  """A routed classifier with `number` outputs."""
  config = testing.tiny_bert_config(
    head="classification",
    num_labels=number,
    coda=CodaConfig(reduction=2, bottleneck_dim=4, epsilon=0.5),
    **overrides,
  )
  model = backbones.build(config)
  return model, testing.random_params(model)


def examples(count=11):
  """Pairs of several lengths, in no order."""
  rng = random.Random(0)
  found = []
  for i in range(count):
    length = rng.choice((5, 16, 19))
    tokens = [rng.randint(4, 47) for _ in range(length)]
    types = [int(place > length // 2) for place in range(length)]
    found.append(Example(i, f"text {i}", None, tokens, [], types))
  return found


def alone(model, params, example):
  """The logits of an input without padding."""
  batch = {
    "encoder_input_tokens": np.array([example.input_tokens]),
    "encoder_token_types": np.array([example.token_types]),
    "encoder_mask": np.ones((1, len(example.input_tokens)), np.int32),
  }
  return model.apply({"params": params}, **batch, enable_dropout=False)[0]


def answer(model, params, objective, some, **kwargs):
  return labels.answer(
    model,
    params,
    some,
    objective=objective,
    batch_size=4,
    task_feature_lengths={"inputs": 20},
    **kwargs,
  )


@pytest.mark.parametrize(
  "shape",
  [{}, {"family": "roberta", "pad_id": 1, "max_length": 24}],
  ids=["bert", "roberta"],
)
def test_batches_and_padding_change_no_label(shape):
  model, params = make(3, **shape)
  # So that no label is always the likeliest.
  means = np.mean([alone(model, params, one) for one in examples()], axis=0)
  last = params["encoder"]["head"]["logits_dense"]
  last["bias"] = last["bias"] - means
  reports = []
  found = answer(
    model,
    params,
    Classify(("a", "b", "c")),
    examples(),
    report=lambda *counts: reports.append(counts),
  )
  wanted = [alone(model, params, one).argmax() for one in examples()]
  assert found == ["abc"[place] for place in wanted] and len(set(found)) > 1
  tokens = sum(len(one.input_tokens) for one in examples())
  assert np.sum(reports, axis=0).tolist() == [11, tokens]


def test_numbers():
  model, params = make(1)
  found = answer(model, params, Classify(("score",)), examples())
  wanted = [alone(model, params, one)[0] for one in examples()]
  np.testing.assert_allclose([float(x) for x in found], wanted, rtol=1e-4)


@pytest.mark.parametrize("labels", [("score",), ("a", "b")])
def test_damaged_parameters(labels):
  model, params = make(len(labels))
  norm = params["encoder"]["layers_0"]["attention_norm"]
  norm["scale"] = norm["scale"].at[0].set(np.nan)
  with pytest.raises(FloatingPointError, match="answer to input .* is not a n"):
    answer(model, params, Classify(labels), examples())


def test_tokens_that_the_model_lacks():
  model, params = make(2)
  bad = Example(5, "text", None, [2, 48, 3], [])
  with pytest.raises(ValueError, match="input 5 has the token id 48"):
    answer(model, params, Classify(("a", "b")), [bad])
