import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer
from coda_jax.training import steps
from coda_jax.training.state import TrainState


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def make(**overrides):
  model = Transformer(testing.tiny_config(**overrides))
  batch = testing.token_batch(model.config.vocab_size)
  params = testing.random_params(model)
  targets = batch["decoder_target_tokens"]
  batch["decoder_loss_weights"] = (targets > 0).astype(np.int32)
  return model, params, batch


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch):
  return model.apply({"params": params}, **batch, enable_dropout=False)


def expected_loss(model, params, batch):
  batch = dict(batch)
  weights = batch.pop("decoder_loss_weights")
  logits = apply(model, params, batch)
  targets = batch["decoder_target_tokens"]
  log_p = np.take_along_axis(log_softmax(logits), targets[..., None], -1)
  correct = np.asarray(logits).argmax(-1) == targets
  return (
    -(log_p[..., 0] * weights).sum() / weights.sum(),
    (correct * weights).sum() / weights.sum(),
  )


def test_train_step_follows_the_gradient_of_trained_leaves():
  model, params, batch = make(coda=CodaConfig(reduction=2, bottleneck_dim=4))
  trained, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  optimizer = optax.sgd(1.0)
  state = TrainState.create(jax.tree.map(jnp.array, trained), optimizer)
  step = steps.make_train_step(model, optimizer, Seq2Seq())
  after, metrics = step(state, frozen, batch, jax.random.key(0))
  loss, accuracy = expected_loss(model, params, batch)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
  np.testing.assert_allclose(metrics["token_accuracy"], accuracy)
  assert metrics["weight"] == 8 and metrics["tokens"] == 8 + 15
  assert after.step == 1
  # Against finite differences of the loss, along the gradient itself.
  gradient = jax.tree.map(
    lambda a, b: a - np.asarray(b), trained, after.trained
  )
  norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(gradient)))
  np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)
  assert params_lib.flatten(gradient).keys() == {
    path
    for path in params_lib.flatten(params)
    if "/adapter/" in path or "/router/" in path or path.endswith("norm/scale")
  }
  moved = [
    expected_loss(
      model,
      params_lib.merge(
        jax.tree.map(
          lambda x, g, h=h: x + np.float32(h / norm) * g, trained, gradient
        ),
        frozen,
      ),
      batch,
    )[0]
    for h in (3e-3, -3e-3)
  ]
  np.testing.assert_allclose((moved[0] - moved[1]) / 6e-3, norm, rtol=0.02)


@pytest.mark.parametrize("parts", [2, 4])
def test_microbatches_are_the_whole_batch(parts):
  model, params, _ = make()
  # Rows with unlike numbers of targets: their losses weigh unlike, too.
  batch = testing.token_batch(48, (9, 6, 3, 8), (5, 3, 1, 4))
  targets = batch["decoder_target_tokens"]
  batch["decoder_loss_weights"] = (targets > 0).astype(np.int32)
  optimizer = optax.sgd(1.0)
  results = []
  for microbatches in (1, parts):
    state = TrainState.create(jax.tree.map(jnp.array, params), optimizer)
    step = steps.make_train_step(
      model, optimizer, Seq2Seq(), microbatches=microbatches
    )
    results.append(step(state, {}, batch, jax.random.key(0)))
  (whole, metrics), (summed, others) = results
  for name, value in metrics.items():
    np.testing.assert_allclose(others[name], value, rtol=1e-5, err_msg=name)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    summed.trained,
    whole.trained,
  )


def test_dropout_depends_on_the_step_alone():
  model, params, batch = make(dropout_rate=0.5)
  optimizer = optax.sgd(0.0)
  step = steps.make_train_step(model, optimizer, Seq2Seq())

  def loss(number):
    state = TrainState.create(jax.tree.map(jnp.array, params), optimizer)
    state = state.replace(step=jnp.asarray(number, jnp.int32))
    return float(step(state, {}, batch, jax.random.key(0))[1]["loss"])

  assert loss(0) == loss(0) != loss(1)


def test_eval_step_sums_and_ignores_rows_of_padding():
  model, params, batch = make(coda=CodaConfig(reduction=2, bottleneck_dim=4))
  step = steps.make_eval_step(model, Seq2Seq())
  sums = step(params, batch)
  loss, accuracy = expected_loss(model, params, batch)
  np.testing.assert_allclose(sums["loss"], 8 * loss, rtol=1e-5)
  np.testing.assert_allclose(sums["token_accuracy"], 8 * accuracy)
  assert sums["weight"] == 8 and sums["input_tokens"] == 15
  # Of 9 and 6 tokens, each of the layers takes 5 and 3.
  np.testing.assert_allclose(sums["routing/selected_share"], 8)
  padded = {k: np.pad(x, ((0, 2), (0, 0))) for k, x in batch.items()}
  for name, value in step(params, padded).items():
    np.testing.assert_allclose(value, sums[name], rtol=1e-5)


def test_dense_model_has_no_routing_statistics():
  model, params, batch = make()
  assert not any(
    name.startswith("routing/")
    for name in steps.make_eval_step(model, Seq2Seq())(params, batch)
  )
