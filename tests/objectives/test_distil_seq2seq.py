"""Self-distillation of T5 against NumPy, with the teacher run by itself."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
import seqio

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.distil_seq2seq import DistilSeq2Seq
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.objectives.teacher import TEACHER
from coda_jax.t5.network import Transformer
from coda_jax.training import state, steps

CODA = CodaConfig(reduction=2.0, bottleneck_dim=4, shared_router=True)
CALLED = (
  "encoder_input_tokens",
  "decoder_input_tokens",
  "decoder_target_tokens",
)


def make(coda=CODA):
  model = Transformer(testing.tiny_config(coda=coda))
  batch = testing.token_batch(model.config.vocab_size)
  targets = batch["decoder_target_tokens"]
  batch["decoder_loss_weights"] = (targets > 0).astype(np.int32)
  return model, testing.random_params(model), batch


def run(coda, params, batch):
  """(encoded, logits), in float64."""
  model = Transformer(testing.tiny_config(coda=coda))
  tokens = batch["encoder_input_tokens"]
  given = {"variables": {"params": params}, "enable_dropout": False}
  return [
    np.float64(
      model.apply(**given, encoder_input_tokens=tokens, method="encode")
    ),
    np.float64(model.apply(**given, **{k: batch[k] for k in CALLED})),
  ]


def test_loss_is_that_of_the_two_models():
  model, params, batch = make()
  teacher = {
    path: leaf
    for path, leaf in params_lib.flatten(params).items()
    if not params_lib.is_added(path)
  }
  found = run(CODA, params, batch)
  expected = run(None, params_lib.unflatten(teacher), batch)
  p, q = (np.exp(x) for x in (expected[1], found[1]))
  p, q = (x / x.sum(-1, keepdims=True) for x in (p, q))
  weights = batch["decoder_loss_weights"]
  divergence = ((p * np.log(p / q)).sum(-1) * weights).sum()
  error = 0.0
  for row, tokens in enumerate(batch["encoder_input_tokens"]):
    a, b = (x[0][row][tokens > 0] for x in (found, expected))
    error += weights[row].sum() * ((a - b) ** 2).sum() / (b**2).sum()
  own = Seq2Seq().sums(model, params, batch, train=False)
  sums = DistilSeq2Seq(targets=0.5, logits=2.0, hidden=3.0).sums(
    model, params, batch, train=False
  )
  np.testing.assert_allclose(sums.metrics["cross_entropy"], own.loss, rtol=1e-6)
  np.testing.assert_allclose(sums.metrics["divergence"], divergence, rtol=1e-4)
  np.testing.assert_allclose(sums.metrics["hidden_error"], error, rtol=1e-4)
  np.testing.assert_allclose(
    sums.loss, 0.5 * float(own.loss) + 2 * divergence + 3 * error, rtol=1e-4
  )
  assert divergence > 0.01 and error > 0.01
  assert sums.weight == own.weight and sums.tokens == own.tokens
  assert sums.metrics["token_accuracy"] == own.metrics["token_accuracy"]


def after_layer(coda, params, batch, number, change):
  """The tokens after a layer, over their root mean square, in float64.

  They are what an encoder of the layers up to it returns, if the scale of its
  last norm is 1.
  """
  config = testing.tiny_config(
    coda=coda, num_encoder_layers=number + 1, **change
  )
  cut = jax.tree.map(lambda leaf: leaf, params)
  cut["encoder"]["encoder_norm"]["scale"] = np.ones(config.emb_dim, np.float32)
  tokens = batch["encoder_input_tokens"]
  return np.float64(
    Transformer(config).apply(
      {"params": cut}, tokens, enable_dropout=False, method="encode"
    )
  )


@pytest.mark.parametrize("change", [{}, {"scan_layers": True, "remat": True}])
def test_tokens_after_layers_count_by_their_direction(change):
  coda = dataclasses.replace(CODA, shared_router=False)
  model = Transformer(testing.tiny_config(coda=coda, **change))
  _, _, batch = make()
  params = testing.random_params(model)
  teacher = params_lib.unflatten(
    {
      path: leaf
      for path, leaf in params_lib.flatten(params).items()
      if not params_lib.is_added(path)
    }
  )
  plain = DistilSeq2Seq().sums(model, params, batch, train=False)
  weights = batch["decoder_loss_weights"].sum(axis=1)
  total = float(plain.metrics["hidden_error"])
  for layer in (0, 1):
    found = after_layer(coda, params, batch, layer, change)
    expected = after_layer(None, teacher, batch, layer, change)
    for row, tokens in enumerate(batch["encoder_input_tokens"]):
      a, b = found[row][tokens > 0], expected[row][tokens > 0]
      total += weights[row] * ((a - b) ** 2).sum() / (b**2).sum()
  objective = DistilSeq2Seq(hidden_layers=(0, -1))
  sums = jax.jit(
    lambda params: objective.sums(model, params, batch, train=False)
  )(params)
  np.testing.assert_allclose(sums.metrics["hidden_error"], total / 3, rtol=1e-4)
  assert float(plain.metrics["divergence"]) == pytest.approx(
    float(sums.metrics["divergence"]), rel=1e-4
  )


def test_without_routing_and_adapters_it_is_its_teacher():
  model, params, batch = make(CodaConfig(reduction=1, bottleneck_dim=0))
  sums = DistilSeq2Seq().sums(model, params, batch, train=False)
  assert abs(float(sums.loss)) < 1e-5


@pytest.mark.parametrize("microbatches", [1, 2])
def test_steps_bring_the_model_to_its_teacher(microbatches):
  model, params, batch = make()
  objective = DistilSeq2Seq(targets=0.1)
  trained, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  frozen = {**frozen, **objective.constants(trained)}
  # The norms, which are trained, exist twice; nothing else does.
  own = params_lib.flatten(frozen[TEACHER])
  assert own and all("norm" in path for path in own)
  optimizer = optax.adam(0.02)
  step = steps.make_train_step(
    model, optimizer, objective, microbatches=microbatches
  )
  current = state.TrainState.create(trained, optimizer)
  losses = []
  for _ in range(20):
    current, metrics = step(current, frozen, batch, jax.random.key(0))
    losses.append([float(metrics[k]) for k in ("divergence", "hidden_error")])
  assert (np.array(losses[-1]) < 0.6 * np.array(losses[0])).all()


def test_what_can_not_be():
  with pytest.raises(ValueError, match=r"logits=-1; expected a number"):
    DistilSeq2Seq(logits=-1)
  features = dict.fromkeys(
    ("inputs", "targets"), seqio.Feature(seqio.PassThroughVocabulary(20))
  )
  with pytest.raises(ValueError, match="self-distillation of a plain model"):
    DistilSeq2Seq().check(features, testing.tiny_config())
  with pytest.raises(ValueError, match=r"hidden_layers='12'; expected numbers"):
    DistilSeq2Seq(hidden_layers="12")
  with pytest.raises(ValueError, match=r"has layers 0 to 1, not \[2\]"):
    DistilSeq2Seq(hidden_layers=(-2, 2)).check(
      features, testing.tiny_config(coda=CODA)
    )
