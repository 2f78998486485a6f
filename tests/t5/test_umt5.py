"""UMT5: a position bias in every layer, with what CoDA does to layers."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer
from coda_jax.training import optimizers, state, steps

CODA = CodaConfig(reduction=2.0, bottleneck_dim=4)
BATCH = testing.token_batch(48, (9, 6), (5, 3))


def umt5(coda=None, **fields):
  return Transformer(
    testing.tiny_config(relpos_bias_per_layer=True, coda=coda, **fields)
  )


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch):
  return model.apply({"params": params}, **batch, enable_dropout=False)


def logits(model, params, batch=BATCH):
  out = apply(model, params, batch)
  return np.asarray(out)[batch["decoder_target_tokens"] > 0]


def test_equal_biases_are_a_t5s():
  model, params = umt5(), testing.random_params(umt5())
  leaves = params_lib.flatten(params)
  shared = {}
  for path, leaf in leaves.items():
    stack, _, rest = path.partition("/")
    if path.endswith("rel_embedding"):
      rest, leaf = (
        "relpos_bias/rel_embedding",
        leaves[f"{stack}/layers_0/relpos_bias/rel_embedding"],
      )
    shared[f"{stack}/{rest}"] = leaf
  leaves |= {
    p: shared[f"{p.split('/')[0]}/relpos_bias/rel_embedding"]
    for p in leaves
    if p.endswith("rel_embedding")
  }
  t5 = Transformer(testing.tiny_config())
  np.testing.assert_allclose(
    logits(model, params_lib.unflatten(leaves)),
    logits(t5, params_lib.unflatten(shared)),
    rtol=1e-5,
    atol=1e-5,
  )
  # And those that differ are not.
  assert not np.allclose(
    logits(model, params), logits(t5, params_lib.unflatten(shared)), atol=1e-3
  )


@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_with_every_token_routed_it_is_dense(attention):
  dense = umt5(dataclasses.replace(CODA, reduction=1))
  routed = umt5(
    dataclasses.replace(CODA, reduction=1 + 1e-6, attention=attention)
  )
  params = testing.random_params(routed)
  np.testing.assert_allclose(
    logits(routed, params), logits(dense, params), rtol=1e-5, atol=1e-5
  )


def test_padding_and_loops_change_nothing():
  model = umt5(CODA)
  params = testing.random_params(model)
  expected = logits(model, params)
  longer = testing.token_batch(48, (9, 6), (5, 3), padding=5)
  np.testing.assert_allclose(
    logits(model, params, longer), expected, rtol=1e-5, atol=1e-5
  )
  looped = umt5(CODA, scan_layers=True, remat=True)
  np.testing.assert_allclose(
    logits(looped, params), expected, rtol=1e-5, atol=1e-5
  )


def test_a_step_trains_what_a_task_owns():
  model = umt5(CODA)
  trained, frozen = params_lib.split(
    testing.random_params(model), params_lib.TASK_PATTERNS
  )
  assert not any("relpos_bias" in p for p in params_lib.flatten(trained))
  optimizer = optimizers.adamw(optimizers.constant(0.1))
  before = jax.tree.map(np.asarray, trained)
  step = steps.make_train_step(model, optimizer, Seq2Seq())
  batch = BATCH | {"decoder_loss_weights": BATCH["decoder_target_tokens"] > 0}
  current, metrics = step(
    state.TrainState.create(trained, optimizer),
    frozen,
    batch,
    jax.random.key(0),
  )
  assert np.isfinite(metrics["loss"])
  changed = jax.tree.map(
    lambda a, b: not np.array_equal(a, b), before, current.trained
  )
  assert all(jax.tree.leaves(changed))
