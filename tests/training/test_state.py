import jax
import jax.numpy as jnp
import numpy as np
import optax
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
