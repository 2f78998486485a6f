"""What a run starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coda_jax
from coda_jax import params as params_lib
from coda_jax import partitioning, testing
from coda_jax.checkpoints import adapter
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer
from coda_jax.training import optimizers, setup, steps


@pytest.fixture(scope="module")
def model():
  return Transformer(
    testing.tiny_config(
      num_encoder_layers=1, num_decoder_layers=1, coda=CodaConfig(2.0)
    )
  )


def start(model, dtype):
  return setup.start(
    model,
    optimizers.adamw(optimizers.constant(0.1)),
    partitioning.make_mesh(),
    trained_patterns=params_lib.TASK_PATTERNS,
    initial_checkpoint_path=None,
    seed=0,
    frozen_dtype=dtype,
  )


def test_frozen_leaves_are_rounded_and_trained_ones_are_not(model):
  plain, rounded = start(model, "float32"), start(model, "bfloat16")
  jax.tree.map(
    np.testing.assert_array_equal, plain.state.trained, rounded.state.trained
  )
  assert jax.tree.leaves(plain.frozen)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a.astype(jnp.bfloat16), b),
    plain.frozen,
    rounded.frozen,
  )


def test_a_run_hashes_its_backbone_once(model, tmp_path, monkeypatch):
  begun = start(model, "bfloat16")
  trained, taken = begun.state.trained, []
  hashed = adapter.fingerprint

  def count(leaves):
    taken.append(hashed(leaves))
    return taken[-1]

  monkeypatch.setattr(adapter, "fingerprint", count)
  save = setup.Saver(model, begun.frozen, dtype="float32")
  assert not taken
  folders = [save(trained, tmp_path / name) for name in ("best", "end")]
  assert len(taken) == 1
  params = params_lib.merge(trained, begun.frozen)
  coda_jax.save_adapter(tmp_path / "alone", model, params)
  for folder in folders:
    assert adapter.read_config(folder) == adapter.read_config(
      tmp_path / "alone"
    )
  save = setup.Saver(model, {}, dtype="float32")
  assert save(params, tmp_path).name == "model"


def test_a_step_with_rounded_leaves_is_nearly_the_same(model):
  tokens = testing.token_batch(48)
  batch = {
    **tokens,
    "decoder_loss_weights": tokens["decoder_target_tokens"] > 0,
  }
  step = steps.make_train_step(
    model, optimizers.adamw(optimizers.constant(0.1)), Seq2Seq()
  )
  losses = []
  for dtype in ("float32", "bfloat16"):
    begin = start(model, dtype)
    state, metrics = step(begin.state, begin.frozen, batch, begin.key)
    losses.append(metrics["loss"])
    dtypes = {x.dtype for x in jax.tree.leaves(state.trained)}
    assert dtypes == {jnp.dtype("float32")}
  np.testing.assert_allclose(*losses, rtol=0.02)
  assert losses[0] != losses[1]
