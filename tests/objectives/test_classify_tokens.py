import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from coda_jax import testing
from coda_jax.bert.network import Bert
from coda_jax.data import token_tasks
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.classify import Classify
from coda_jax.objectives.classify_tokens import ClassifyTokens
from coda_jax.training import evaluation, inputs

pytestmark = pytest.mark.usefixtures("fresh_registry")

LABELS = ("O", "B-x", "I-x")
SENTENCES = [
  (["w1", "w2-w3", "w4"], ["O", "B-x", "I-x"]),  # 2 + 5 tokens
  (["w5"], ["B-x"]),
  ([f"w{i}" for i in range(12)], ["O", "B-x", "I-x"] * 4),  # 14 tokens: cut
]
LENGTHS = {"inputs": 8, "targets": 1}


@pytest.fixture
def task(tmp_path, bert_folder):
  lines = [json.dumps({"tokens": w, "tags": t}) for w, t in SENTENCES]
  for split in ("train", "validation"):
    (tmp_path / f"x-{split}.jsonl").write_text("\n".join(lines))
  return token_tasks.token_table_task(
    f"{tmp_path}/x-{{split}}.jsonl",
    name="tagged",
    vocabulary=str(bert_folder()),
  )


def read(task, objective, split="validation", batch_size=4):
  return inputs.eval_batches(
    task, split, objective=objective, lengths=LENGTHS, batch_size=batch_size
  )


def make(coda=None):
  model = Bert(
    testing.tiny_bert_config(
      head="token_classification", num_labels=3, labels=LABELS, coda=coda
    )
  )
  return model, testing.random_params(model)


def batch_of(lengths=(9, 4, 1), padded=9):
  """Rows of random tokens, about half of which start a word."""
  rng = np.random.default_rng(0)
  shape = len(lengths), max(lengths)
  mask = np.arange(max(lengths))[None] < np.array(lengths)[:, None]
  batch = {
    "encoder_input_tokens": rng.integers(1, 48, shape) * mask,
    "encoder_token_types": np.zeros(shape),
    "encoder_mask": mask,
    "labels": rng.integers(0, 3, shape) * mask,
    "loss_weights": (rng.random(shape) < 0.5) * mask,
  }
  batch["loss_weights"][:, 0] = 1
  more = padded - max(lengths)
  return {
    name: np.pad(x.astype(np.int32), [(0, 0), (0, more)])
    for name, x in batch.items()
  }


def reference(logits, batch):
  """In float64: (summed loss, labels, right ones, d loss/d logits)."""
  logits = np.asarray(logits, np.float64)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  loss, right, gradient = 0.0, 0, np.zeros_like(logits)
  places = np.argwhere(batch["loss_weights"])
  for row, place in places:
    label = batch["labels"][row, place]
    loss -= np.log(p[row, place, label])
    right += p[row, place].argmax() == label
    gradient[row, place] = p[row, place] - np.eye(3)[label]
  return loss, len(places), right, gradient


def test_batches(task):
  objective = ClassifyTokens(LABELS)
  (batch,) = read(task, objective)
  # [CLS] w1 w2 - w3 w4 [SEP], where "-" is unknown.
  first = [2, 5, 6, 1, 7, 8, 3, 0]
  assert batch["encoder_input_tokens"][0].tolist() == first
  assert batch["encoder_mask"].sum(1).tolist() == [7, 3, 8, 0]
  assert batch["loss_weights"].tolist() == [
    [0, 1, 1, 0, 0, 1, 0, 0],
    [0, 1, 0, 0, 0, 0, 0, 0],
    [0, 1, 1, 1, 1, 1, 1, 0],  # Six words, and a token that ends the row.
    [0] * 8,
  ]
  assert batch["labels"].tolist() == [
    [0, 0, 1, 0, 0, 2, 0, 0],
    [0, 1, 0, 0, 0, 0, 0, 0],
    [0, 0, 1, 2, 0, 1, 2, 0],
    [0] * 8,
  ]
  shapes = objective.shapes(None, 4, LENGTHS)
  assert batch.keys() == shapes.keys()
  for name, x in batch.items():
    assert (x.shape, x.dtype) == (shapes[name].shape, shapes[name].dtype)


@pytest.mark.parametrize(
  "coda", [None, CodaConfig(reduction=3, bottleneck_dim=4)], ids=["dense", "r3"]
)
def test_loss_and_gradients(coda):
  """Tokens that no layer picks are labelled like the others."""
  model, params = make(coda)
  batch = batch_of()
  objective = ClassifyTokens(LABELS)
  arguments = {n: x for n, x in batch.items() if n.startswith("encoder_")}

  @jax.jit
  def hidden(params):
    return model.apply(
      {"params": params},
      **arguments,
      enable_dropout=False,
      method="encode",
      return_routing=True,
    )

  @jax.jit
  @functools.partial(jax.value_and_grad, has_aux=True)
  def measure(params):
    sums = objective.sums(model, params, batch, train=False)
    return sums.loss / sums.weight, sums._replace(routing=())

  (mean, sums), gradients = measure(params)
  x, routing = hidden(params)
  x = np.asarray(x, np.float64)
  head = params["encoder"]["head"]["logits_dense"]
  logits = x @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
  loss, number, right, gradient = reference(logits, batch)
  assert int(sums.weight) == number == batch["loss_weights"].sum()
  np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
  np.testing.assert_allclose(mean, loss / number, rtol=1e-5)
  assert int(sums.metrics["token_accuracy"]) == right
  assert sums.tokens == 14
  found = gradients["encoder"]["head"]["logits_dense"]
  np.testing.assert_allclose(
    found["kernel"],
    np.einsum("bnd,bnl->dl", x, gradient) / number,
    rtol=1e-4,
    atol=1e-6,
  )
  np.testing.assert_allclose(
    found["bias"], gradient.sum((0, 1)) / number, rtol=1e-4, atol=1e-6
  )
  if coda is not None:
    picked = [set(np.asarray(one.indices[0]).tolist()) for one in routing]
    labelled = set(np.flatnonzero(batch["loss_weights"][0]).tolist())
    assert labelled - set.union(*picked), "each labelled token is picked"


@pytest.mark.parametrize(
  "coda", [None, CodaConfig(reduction=3, bottleneck_dim=4)], ids=["dense", "r3"]
)
def test_padding_changes_nothing(coda):
  model, params = make(coda)
  objective = ClassifyTokens(LABELS)
  short, long = batch_of(), batch_of(padded=14)
  long["encoder_input_tokens"][:, 9:] = 7  # Whatever it is.
  long = {name: np.pad(x, [(0, 2), (0, 0)]) for name, x in long.items()}

  @jax.jit
  def run(params, batch):
    sums = objective.sums(model, params, batch, train=False)
    places = objective.predict(model, params, batch, max_length=1)
    return sums._replace(routing=(), mask=()), places

  sums, places = run(params, short)
  padded, more = run(params, long)
  np.testing.assert_allclose(padded.loss, sums.loss, rtol=1e-5)
  assert padded.weight == sums.weight and padded.tokens == sums.tokens
  assert padded.metrics == sums.metrics
  assert objective.answers(np.asarray(more)) == [
    *objective.answers(np.asarray(places)),
    "",
    "",
  ]


def test_predictions():
  model, params = make()
  objective, batch = ClassifyTokens(LABELS), batch_of()
  places = objective.predict(model, params, batch, max_length=1)
  logits = model.apply(
    {"params": params},
    batch["encoder_input_tokens"],
    batch["encoder_token_types"],
    batch["encoder_mask"],
    enable_dropout=False,
  )
  best = np.asarray(logits).argmax(-1)
  np.testing.assert_array_equal(
    places, np.where(batch["loss_weights"] == 1, best, -1)
  )
  del batch["loss_weights"]
  every = objective.predict(model, params, batch, max_length=1)
  np.testing.assert_array_equal(
    every, np.where(batch["encoder_mask"] == 1, best, -1)
  )
  params["encoder"]["head"]["logits_dense"]["bias"] = jnp.full(3, jnp.nan)
  damaged = objective.predict(model, params, batch, max_length=1)
  np.testing.assert_array_equal(
    damaged, np.where(batch["encoder_mask"] == 1, -2, -1)
  )
  with pytest.raises(FloatingPointError, match="logits of an answer are not n"):
    objective.answers(np.asarray(damaged))
  answers = objective.answers(np.array([[-1, 1, -1, 2, 0], [-1] * 5]))
  assert answers == ["B-x I-x O", ""]


def test_the_answers_are_measured(task):
  """A cut sentence misses the entities that it lost."""
  model, params = make()
  objective = ClassifyTokens(LABELS)

  class Right:
    """Answers what is asked for."""

    def __getattr__(self, name):
      return getattr(objective, name)

    def predict(self, model, params, batch, *, max_length):
      return jnp.where(batch["loss_weights"] > 0, batch["labels"], -1)

  measure = evaluation.Evaluation(
    model,
    task,
    split="validation",
    task_feature_lengths=LENGTHS,
    batch_size=2,
    objective=Right(),
  )
  found, texts = measure.with_predictions(params)
  assert found["precision"] == 1 and found["recall"] == 4 / 6
  assert found["f1"] == pytest.approx(8 / 10)
  assert found["accuracy"] == 10 / 16
  (batch,) = read(task, objective)
  sums = objective.sums(model, params, batch, train=False)
  np.testing.assert_allclose(found["loss"], float(sums.loss) / 10, rtol=1e-5)
  assert texts["tagged"][0] == {
    "input": "w1 w2-w3 w4",
    "target": "O B-x I-x",
    "prediction": "O B-x I-x",
  }
  assert texts["tagged"][2]["prediction"] == "O B-x I-x O B-x I-x"


def test_a_task_without_words():
  feature = seqio.Feature(seqio.PassThroughVocabulary(20), add_eos=False)

  def dataset(split, shuffle_files, seed=None):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(
      {"inputs": [[1, 2]], "targets": [[3]]}
    )

  seqio.TaskRegistry.add(
    "plain",
    source=seqio.FunctionDataSource(dataset, splits=("train",)),
    preprocessors=[],
    output_features={"inputs": feature, "targets": feature},
  )
  with pytest.raises(
    ValueError, match="do not say where words start; use task"
  ):
    next(read("plain", ClassifyTokens(LABELS), "train"))


def test_an_unknown_tag(task):
  with pytest.raises(
    ValueError,
    match=r"'validation' of 'tagged': LABELS=\('O', 'B-x'\) lack the tag 'I-x'",
  ):
    next(read(task, ClassifyTokens(("O", "B-x"))))


def test_what_does_not_fit():
  features = {"inputs": seqio.Feature(seqio.PassThroughVocabulary(20))}
  objective = ClassifyTokens(LABELS)
  model, params = make()
  objective.check(features, model.config)
  with pytest.raises(ValueError, match=r"for 3 labels \('O', .* their order"):
    ClassifyTokens(LABELS[::-1]).check(features, model.config)
  for config in (
    testing.tiny_bert_config(),
    testing.tiny_bert_config(head="classification", num_labels=3),
    testing.tiny_config(),
  ):
    with pytest.raises(
      ValueError, match="head for token_classification, .* with HEAD='token_cl"
    ):
      objective.check(features, config)
  with pytest.raises(ValueError, match="need a model with a head for classif"):
    Classify(LABELS).check(features, model.config)
  with pytest.raises(ValueError, match=r"pack=True; .* use pack=False"):
    objective.converter(features, pack=True)
  with pytest.raises(
    ValueError, match=r"are 2, .* expected \[batch, length, 2"
  ):
    ClassifyTokens(LABELS[:2]).sums(model, params, batch_of(), train=False)
  with pytest.raises(ValueError, match="'B x', with a space in it"):
    ClassifyTokens(("O", "B x"))
  with pytest.raises(ValueError, match="^LABELS='O'; expected the texts of a"):
    ClassifyTokens("O")
