import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from coda_jax.training.state import Checkpoints, TrainState


def make(optimizer, value=1.0, shape=(3, 2)):
  return TrainState.create({"a": {"b": jnp.full(shape, value)}}, optimizer)


def test_round_trip_of_the_newest(tmp_path):
  checkpoints = Checkpoints(tmp_path, keep=1)
  empty = make(optax.adam(0.1))
  assert checkpoints.restore(empty) is empty
  for step in (1, 2):
    state = make(optax.adam(0.1), value=step + 0.5)
    state = state.replace(step=jnp.asarray(step, jnp.int32))
    checkpoints.save(state)
    checkpoints.save(state)  # Of the same step: nothing to do.
  checkpoints.close()
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]
  again = Checkpoints(tmp_path)
  restored = again.restore(empty)
  again.close()
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.parametrize(
  ("other", "message"),
  [
    (make(optax.sgd(0.1, momentum=0.9)), "opt_state/0/.*None"),
    (
      make(optax.adam(0.1), shape=(4,)),
      r"3 leaves differ, such as opt_state/0/mu/a/b, \(3, 2\) there and \(4,\)",
    ),
  ],
)
def test_another_run_in_the_folder(tmp_path, other, message):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(make(optax.adam(0.1)))
  with pytest.raises(ValueError, match=f"{message}.*choose another MODEL_DIR"):
    checkpoints.restore(other)
  checkpoints.close()


def save(folder, *numbers):
  checkpoints = Checkpoints(folder, keep=3)
  for step in numbers:
    state = make(optax.adam(0.1), value=float(step))
    checkpoints.save(state.replace(step=jnp.asarray(step, jnp.int32)))
  checkpoints.close()
  return folder / "checkpoints"


def test_a_full_disk_loses_nothing(tmp_path):
  """As far as a limit of the system's on files' sizes is one."""
  checkpoints = Checkpoints(tmp_path)
  rng = np.random.default_rng(0)
  states = [
    make(optax.sgd(0.1), rng.normal(size=(3000, 2)), (3000, 2)).replace(
      step=jnp.asarray(step, jnp.int32)
    )
    for step in (1, 2)
  ]
  checkpoints.save(states[0])
  _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
  try:
    with pytest.raises(OSError, match=r"cannot write to .*checkpoints/2"):
      checkpoints.save(states[1])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoints.close()
  with pytest.warns(UserWarning, match="incomplete"):
    again = Checkpoints(tmp_path)
  restored = again.restore(states[1])
  jax.tree.map(np.testing.assert_array_equal, restored, states[0])
  again.save(states[1])
  again.close()


@pytest.mark.parametrize("renamed", [True, False])
def test_a_checkpoint_that_was_cut_off_is_skipped(tmp_path, renamed):
  folder = save(tmp_path, 1, 2)
  if renamed:
    (folder / "2" / "default" / "_METADATA").unlink()
  else:
    (folder / "2").rename(folder / "2.orbax-checkpoint-tmp")
  with pytest.warns(UserWarning, match=r"checkpoints/2.* is incomplete"):
    checkpoints = Checkpoints(tmp_path, keep=3)
  restored = checkpoints.restore(make(optax.adam(0.1)))
  assert restored.step == 1 and (restored.trained["a"]["b"] == 1).all()
  checkpoints.save(restored.replace(step=jnp.asarray(2, jnp.int32)))
  checkpoints.close()
  left = {"2.cut_off"} if renamed else set()
  assert {path.name for path in folder.iterdir()} == {"1", "2"} | left


def test_other_folders_are_let_alone(tmp_path):
  folder = save(tmp_path, 1)
  for name in ("t5_base", "4_backup", "7"):
    (folder / name).mkdir()
    (folder / name / "model.safetensors").write_text(name)
  with pytest.warns(
    UserWarning, match=r"/7 is incomplete.*renamed to 7.cut_off"
  ):
    checkpoints = Checkpoints(tmp_path)
  assert checkpoints.restore(make(optax.adam(0.1))).step == 1
  checkpoints.close()
  for name in ("t5_base", "4_backup", "7.cut_off"):
    assert (folder / name / "model.safetensors").exists()


def test_a_damaged_checkpoint_is_named(tmp_path):
  folder = save(tmp_path, 1, 2)
  for path in (folder / "2" / "default").rglob("*"):
    if path.is_file() and "d/" in str(path):
      path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")
  checkpoints = Checkpoints(tmp_path, keep=3)
  with pytest.raises(
    ValueError, match=r"(?s)checkpoints/2 is damaged.*Remove it"
  ):
    checkpoints.restore(make(optax.adam(0.1)))
  checkpoints.close()
  assert (folder / "2").exists()


def test_a_bit_that_flips_is_noticed(tmp_path, monkeypatch):
  """Wherever it is: orbax's files may come back whole, and other than saved."""
  folder = save(tmp_path, 1)
  restore = ocp.CheckpointManager.restore

  def flip(self, step, **kwargs):
    state = restore(self, step, **kwargs)
    bits = np.asarray(state.trained["a"]["b"]).view(np.uint32).copy()
    bits[2, 1] ^= 1
    return state.replace(
      trained={"a": {"b": jnp.asarray(bits.view(np.float32))}}
    )

  monkeypatch.setattr(ocp.CheckpointManager, "restore", flip)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(
    ValueError, match="checkpoints/1 is damaged.*the checksum of trained/a/b"
  ):
    checkpoints.restore(make(optax.adam(0.1)))
  checkpoints.close()
  assert (folder / "1").exists()


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"tree_metadata": 5}'])
def test_damaged_metadata_is_named(tmp_path, content):
  folder = save(tmp_path, 1)
  (folder / "1" / "default" / "_METADATA").write_text(content)
  checkpoints = Checkpoints(tmp_path)
  with pytest.raises(ValueError, match="checkpoints/1 is "):
    checkpoints.restore(make(optax.adam(0.1)))
  checkpoints.close()


def test_what_a_run_was_begun_with(tmp_path):
  def restore(**run):
    checkpoints = Checkpoints(tmp_path, run=run)
    try:
      return checkpoints.restore(make(optax.adam(0.1)))
    finally:
      checkpoints.close()

  checkpoints = Checkpoints(tmp_path, run={"seed": 1, "trained": ("a", "b")})
  checkpoints.save(make(optax.adam(0.1)))
  checkpoints.close()
  assert restore(seed=1, trained=("a", "b"), new="of a later version").step == 0
  with pytest.raises(ValueError, match=r"with seed = 1, but it is 2 now; use"):
    restore(seed=2, trained=("a", "b"))
