import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio
import tensorflow as tf

from coda_jax import decoding, testing
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives import seq2seq
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("z_loss", [0.0, 0.1])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_cross_entropy(z_loss, label_smoothing):
  rng = np.random.default_rng(0)
  logits = 3 * rng.standard_normal((2, 3, 5)).astype(np.float32)
  targets = rng.integers(0, 5, (2, 3))
  wanted = np.full((2, 3, 5), label_smoothing / 5)
  np.put_along_axis(
    wanted, targets[..., None], 1 - 0.8 * label_smoothing, axis=-1
  )
  log_z = np.log(np.exp(logits.astype(np.float64)).sum(-1))
  expected = -(wanted * log_softmax(logits)).sum(-1) + z_loss * log_z**2
  loss = seq2seq.cross_entropy(
    jnp.asarray(logits),
    jnp.asarray(targets),
    z_loss=z_loss,
    label_smoothing=label_smoothing,
  )
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def make(**overrides):
  model = Transformer(testing.tiny_config(**overrides))
  batch = testing.token_batch(model.config.vocab_size)
  targets = batch["decoder_target_tokens"]
  batch["decoder_loss_weights"] = (targets > 0).astype(np.int32)
  return model, testing.random_params(model), batch


def test_sums_of_a_batch():
  model, params, batch = make(coda=CodaConfig(reduction=2, bottleneck_dim=4))
  sums = Seq2Seq().sums(model, params, batch, train=False)
  features = {k: x for k, x in batch.items() if "weights" not in k}
  logits = model.apply({"params": params}, **features, enable_dropout=False)
  targets = batch["decoder_target_tokens"]
  picked = np.take_along_axis(log_softmax(logits), targets[..., None], -1)
  real = targets > 0
  np.testing.assert_allclose(sums.loss, -picked[..., 0][real].sum(), rtol=1e-5)
  right = (np.asarray(logits).argmax(-1) == targets)[real].sum()
  assert sums.metrics == {"token_accuracy": float(right)}
  assert sums.weight == 8 and sums.tokens == 8 + 15
  np.testing.assert_array_equal(sums.mask, batch["encoder_input_tokens"] > 0)
  assert len(sums.routing) == 2
  assert sums.routing[0].indices.shape == (2, 6)


def test_terms_of_training_are_of_training_only():
  model, params, batch = make()
  rngs = {"dropout": jax.random.key(0)}
  plain, other = Seq2Seq(), Seq2Seq(z_loss=0.1, label_smoothing=0.2)
  losses = [
    float(one.sums(model, params, batch, train=train, rngs=rngs).loss)
    for one in (plain, other)
    for train in (False, True)
  ]
  # No dropout in this model.
  assert losses[0] == losses[1] == losses[2] != losses[3]


def test_shapes_are_those_of_batches():
  feature = seqio.Feature(seqio.PassThroughVocabulary(48), dtype=np.int32)
  features = {"inputs": feature, "targets": feature}
  lengths = {"inputs": 8, "targets": 3}
  examples = {name: np.array([[5, 1]], np.int32) for name in features}
  dataset = Seq2Seq().converter(features)(
    tf.data.Dataset.from_tensor_slices(examples), lengths
  )
  (batch,) = dataset.batch(1).as_numpy_iterator()
  shapes = Seq2Seq().shapes(testing.tiny_config(), 1, lengths)
  assert batch.keys() == shapes.keys()
  for name, x in batch.items():
    assert (x.shape, x.dtype) == (shapes[name].shape, shapes[name].dtype)


def test_answers_are_generated():
  model, params, batch = make()
  beam = {"method": "beam", "num_beams": 2}
  for given in (None, beam):
    objective = Seq2Seq(generate=given)
    tokens = objective.predict(model, params, batch, max_length=3)
    expected = decoding.generate(
      model,
      params,
      batch["encoder_input_tokens"],
      max_length=3,
      **(given or {}),
    ).tokens
    np.testing.assert_array_equal(tokens, expected)
    assert objective.answers(np.asarray(tokens)) == expected.tolist()


@pytest.mark.parametrize("lacking", ["inputs", "targets"])
def test_a_vocabulary_that_is_too_large(lacking):
  features = {
    name: seqio.Feature(seqio.PassThroughVocabulary(48 + (name == lacking)))
    for name in ("inputs", "targets")
  }
  with pytest.raises(ValueError, match=f"for '{lacking}' has 49 tokens, the"):
    Seq2Seq().check(features, testing.tiny_config())


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"z_loss": -1}, "Z_LOSS=-1; expected a number, 0 or more"),
    ({"label_smoothing": 1}, "LABEL_SMOOTHING=1; expected 0 or more, below 1"),
    ({"generate": {"top": 2}}, "GENERATE has 'top'; expected some of"),
  ],
)
def test_bad_values(given, message):
  with pytest.raises(ValueError, match=message):
    Seq2Seq(**given)
