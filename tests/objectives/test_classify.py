import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seqio
import tensorflow as tf

from coda_jax import testing
from coda_jax.checkpoints import pretrained
from coda_jax.data import vocabularies
from coda_jax.nn.router import Selection
from coda_jax.objectives.classify import Classify
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import evaluation, inputs, steps
from coda_jax.training.state import TrainState

pytestmark = pytest.mark.usefixtures("fresh_registry")

LABELS = ("Sport", "science news")
LENGTHS = {"inputs": 8, "targets": 4}
TEXTS = ["a goal", "an atom and a star", "a match", "an atom", "a goal"]
TOPICS = [0, 1, 0, 1, 0]


class Config(NamedTuple):
  vocab_size: int = 4200
  outputs: int = 2


class Bag(nn.Module):
  """The mean of the tokens' embeddings is the logits; it takes each token."""

  config: Config

  @nn.compact
  def __call__(
    self,
    encoder_input_tokens,
    encoder_token_types=None,
    encoder_mask=None,
    *,
    enable_dropout=True,
    return_routing=False,
  ):
    mask = encoder_input_tokens > 0
    if encoder_mask is not None:
      mask = encoder_mask
    embed = nn.Embed(self.config.vocab_size, self.config.outputs, name="embed")
    x = embed(encoder_input_tokens) * mask[..., None].astype(jnp.float32)
    if encoder_token_types is not None:
      x = x * (1 + encoder_token_types[..., None]).astype(jnp.float32)
    x = nn.Dropout(0.5)(x, deterministic=not enable_dropout)
    logits = x.sum(1) / jnp.maximum(mask.sum(1), 1)[:, None].astype(jnp.float32)
    everything = jnp.arange(mask.shape[1])[None].repeat(mask.shape[0], 0)
    routing = (Selection(everything, mask.astype(jnp.float32), mask),)
    return (logits, routing) if return_routing else logits


def make(outputs=2):
  model = Bag(Config(outputs=outputs))
  tokens = np.array([[5, 6, 1, 0], [7, 1, 0, 0], [0, 0, 0, 0]], np.int32)
  params = model.init(
    {"params": jax.random.key(0)}, tokens, enable_dropout=False
  )["params"]
  params = jax.tree.map(lambda x: 5 * x, params)
  batch = {
    "encoder_input_tokens": tokens,
    "labels": np.array([1, 0, 0], np.int32),
    "loss_weights": np.array([1, 1, 0], np.int32),
  }
  return model, params, batch


def add_task(name, targets, *, keep_text=True, metric=None):
  def accuracy(targets, predictions):
    pairs = zip(targets, predictions, strict=True)
    return {"accuracy": float(np.mean([a == b for a, b in pairs]))}

  def read(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices(
      {"inputs": TEXTS, "targets": targets}
    )

  feature = seqio.Feature(vocabularies.load("tiny"), dtype=tf.int32)
  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(read, splits=("train", "validation")),
    preprocessors=[
      functools.partial(
        seqio.preprocessors.tokenize, copy_pretokenized=keep_text
      ),
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=[metric or accuracy],
  )
  return name


def batches(task, objective, batch_size=5):
  return list(
    inputs.eval_batches(
      task,
      "validation",
      objective=objective,
      lengths=LENGTHS,
      batch_size=batch_size,
      vocab_size=4200,
    )
  )


@pytest.mark.parametrize("keep_text", [True, False])
def test_batches_have_the_places_of_labels(keep_text):
  objective = Classify(LABELS)
  targets = [LABELS[i] for i in TOPICS]
  task = add_task("topics", targets, keep_text=keep_text)
  first, last = batches(task, objective, batch_size=3)
  assert first["labels"].tolist() == TOPICS[:3]
  assert last["labels"].tolist() == [*TOPICS[3:], 0]
  assert last["loss_weights"].tolist() == [1, 1, 0]
  encoded = vocabularies.load("tiny").encode(TEXTS[0])
  row = first["encoder_input_tokens"][0].tolist()
  assert row == [*encoded, 1, *[0] * (7 - len(encoded))]
  shapes = objective.shapes(Config(), 3, LENGTHS)
  assert first.keys() == shapes.keys()
  for name, x in first.items():
    assert (x.shape, x.dtype) == (shapes[name].shape, shapes[name].dtype)


def test_models_of_the_package(bert_folder):
  """They have a head, of these labels in this order."""
  feature = seqio.Feature(seqio.PassThroughVocabulary(20))
  features = {"inputs": feature, "targets": feature}
  folder = bert_folder()
  head = {"head": "classification"}
  model = pretrained.model_of(folder, **head, labels=LABELS)
  Classify(LABELS).check(features, model.config)
  with pytest.raises(
    ValueError, match=r"made for 2 labels \('Sport', .* order"
  ):
    Classify(LABELS[::-1]).check(features, model.config)
  with pytest.raises(ValueError, match="made for 2 labels"):
    Classify(("a", "b", "c")).check(features, model.config)
  unnamed = dataclasses.replace(model.config, labels=())
  Classify(LABELS[::-1]).check(features, unnamed)
  for config in (
    pretrained.model_of(folder).config,
    testing.tiny_config(),
    testing.tiny_bert_config(head="token_classification", num_labels=2),
  ):
    with pytest.raises(ValueError, match="need a model with a head for class"):
      Classify(LABELS).check(features, config)
  with pytest.raises(ValueError, match="Seq2Seq needs an encoder-decoder"):
    Seq2Seq().check(features, model.config)


def test_padding_is_what_the_model_calls_so(bert_folder):
  """0 is a token of RoBERTa, and 1 is none."""
  folder = bert_folder(family="roberta")
  model = pretrained.model_of(
    folder, head="classification", labels=LABELS, fields={"remat": True}
  )
  assert model.config.remat
  params = testing.random_params(model)
  batch = {
    "encoder_input_tokens": np.array([[0, 5, 2, 1]], np.int32),
    "labels": np.array([1], np.int32),
    "loss_weights": np.array([1], np.int32),
  }
  objective = Classify(LABELS)
  sums = objective.sums(model, params, batch, train=False)
  assert sums.tokens == 3
  # seqio pads so, and `converter` makes the mask.
  batch["encoder_input_tokens"] = np.array([[0, 5, 2, 0]], np.int32)
  batch["encoder_mask"] = np.array([[1, 1, 1, 0]], np.int32)
  masked = objective.sums(model, params, batch, train=False)
  np.testing.assert_allclose(masked.loss, sums.loss, rtol=1e-5)
  assert masked.tokens == 3


def test_an_unknown_label():
  task = add_task("topics", ["Sport", "news", "Sport", "Sport", "Sport"])
  objective = Classify(LABELS)
  with pytest.raises(
    ValueError,
    match=r"'validation' of 'topics': LABELS=\('Sport', 'science news'\) lack "
    "the target 'news'; name all",
  ):
    batches(task, objective)
  train = inputs.train_batches(
    task, objective=objective, lengths=LENGTHS, batch_size=4, seed=0
  )
  with pytest.raises(ValueError, match="'train' of 'topics': .* lack"):
    next(train)
  with pytest.raises(ValueError, match="'news' is not a number|'Sport' is not"):
    batches(task, Classify(("score",)))


def test_sums_of_a_batch():
  model, params, batch = make()
  sums = Classify(LABELS).sums(model, params, batch, train=False)
  logits = np.asarray(
    model.apply(
      {"params": params}, batch["encoder_input_tokens"], enable_dropout=False
    ),
    np.float64,
  )
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  np.testing.assert_allclose(sums.loss, -log_p[0, 1] - log_p[1, 0], rtol=1e-5)
  right = (logits[:2].argmax(-1) == [1, 0]).sum()
  assert sums.metrics == {"label_accuracy": float(right)}
  assert sums.weight == 2 and sums.tokens == 5


def test_optional_inputs_reach_the_model():
  model, params, batch = make()
  objective = Classify(LABELS)
  plain = objective.sums(model, params, batch, train=False)
  batch["encoder_mask"] = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4], bool)
  masked = objective.sums(model, params, batch, train=False)
  assert masked.tokens == 2 and masked.loss != plain.loss
  batch["encoder_token_types"] = np.ones((3, 4), np.int32)
  assert objective.sums(model, params, batch, train=False).loss != masked.loss


def test_one_label_is_a_number():
  model, params, batch = make(outputs=1)
  objective = Classify(("score",))
  batch["labels"] = np.array([1.5, -2, 0], np.float32)
  sums = objective.sums(model, params, batch, train=False)
  numbers = objective.predict(model, params, batch, max_length=1)
  expected = np.square(np.asarray(numbers)[:2] - [1.5, -2]).sum()
  np.testing.assert_allclose(sums.loss, expected, rtol=1e-5)
  assert sums.metrics == {} and sums.weight == 2
  answers = objective.answers(np.array([3.8, -2], np.float32))
  assert answers == ["3.8", "-2.0"]
  task = add_task("scores", ["3.8", "0", "-1", "2", "5.0"])
  (batch,) = batches(task, objective)
  np.testing.assert_allclose(batch["labels"], [3.8, 0, -1, 2, 5])
  assert batch["labels"].dtype == np.float32


def test_a_step_learns_the_labels():
  """And the task's metric sees the very texts of the labels."""
  # The vocabulary has neither upper case nor the characters of one label.
  labels = ("Sport", "sciénce_news")
  task = add_task("topics", [labels[i] for i in TOPICS])
  model, params, _ = make()
  objective = Classify(labels)
  optimizer = optax.adam(0.3)
  step = steps.make_train_step(model, optimizer, objective)
  state = TrainState.create(params, optimizer)
  measure = evaluation.Evaluation(
    model,
    task,
    split="validation",
    task_feature_lengths=LENGTHS,
    batch_size=2,
    objective=objective,
  )
  (batch,) = batches(task, objective)
  losses = []
  for _ in range(30):
    state, metrics = step(state, {}, batch, jax.random.key(0))
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.2 * losses[0]
  assert metrics["weight"] == 5
  zeros = jax.tree.map(jnp.zeros_like, state.trained)
  measure(zeros)
  (remark,) = measure.remarks
  assert remark.startswith("warning: every answer to 'topics' is 'Sport': the")
  results, texts = measure.with_predictions(state.trained)
  assert measure.remarks == []
  assert results.keys() == {
    "loss",
    "label_accuracy",
    "accuracy",
    "routing/mean_weight",
    "routing/sum_over_k",
    "routing/selected_share",
    "routing/never_selected",
  }
  assert results["label_accuracy"] == results["accuracy"] == 1
  assert results["routing/selected_share"] == 1
  assert [x["prediction"] for x in texts[task]] == [labels[i] for i in TOPICS]
  assert [x["input"] for x in texts[task]] == TEXTS


@pytest.mark.parametrize("parts", [1, 2])
def test_rows_of_padding_weigh_nothing(parts):
  model, params, batch = make()
  optimizer = optax.sgd(0.1)
  step = steps.make_train_step(
    model, optimizer, Classify(LABELS), microbatches=parts
  )
  batch = {
    k: np.pad(x, [(0, 1)] + [(0, 0)] * (x.ndim - 1)) for k, x in batch.items()
  }
  state = TrainState.create(jax.tree.map(jnp.array, params), optimizer)
  _, metrics = step(state, {}, batch, jax.random.key(0))
  assert metrics["weight"] == 2 and np.isfinite(metrics["loss"])


def test_what_does_not_fit():
  model, params, batch = make(outputs=3)
  for call in (
    lambda: Classify(LABELS).sums(model, params, batch, train=False),
    lambda: Classify(LABELS).predict(model, params, batch, max_length=1),
  ):
    with pytest.raises(ValueError, match=r"are 2, .* shape \(3, 3\); expected"):
      call()
  with pytest.raises(ValueError, match="pack=True; a classifier"):
    Classify(LABELS).converter({}, pack=True)
  feature = seqio.Feature(seqio.PassThroughVocabulary(5000))
  with pytest.raises(ValueError, match="'inputs' has 5000 tokens"):
    Classify(LABELS).check({"inputs": feature, "targets": feature}, Config())


@pytest.mark.parametrize("labels", ["yes", (), ("a", "a"), ("a", 1), ("",)])
def test_bad_labels(labels):
  with pytest.raises(ValueError, match="^LABELS=.*; expected the texts of a"):
    Classify(labels)
