"""What training carries from step to step, and where it starts and resumes."""

from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array


@flax.struct.dataclass
class TrainState:
  """What changes while training, and all that a checkpoint holds.

  Attributes:
    step: int32 scalar, the updates done.
    trained: the trained leaves of the parameters, float32.
    opt_state: the optimizer's state, for the trained leaves.
  """

  step: Array
  trained: Any
  opt_state: Any

  @classmethod
  def create(
    cls, trained: Any, optimizer: optax.GradientTransformation
  ) -> "TrainState":
    """The state before the first step."""
    return cls(
      step=jnp.zeros((), jnp.int32),
      trained=trained,
      opt_state=optimizer.init(trained),
    )


class Checkpoints:
  """The `TrainState`s under `MODEL_DIR/checkpoints`, through orbax.

  Saving returns when the files are written, under a temporary name until they
  are whole: a run that dies leaves only whole checkpoints.
  """

  def __init__(self, model_dir: str | Path, *, keep: int = 1):
    import orbax.checkpoint as ocp

    self._folder = Path(model_dir).absolute() / "checkpoints"
    self._ocp = ocp
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False
      ),
    )

  def save(self, state: TrainState) -> None:
    """Saves `state`, once a step."""
    step = int(state.step)
    if step != self._manager.latest_step():
      self._manager.save(step, args=self._ocp.args.StandardSave(state))

  def restore(self, state: TrainState) -> TrainState:
    """The newest state saved, or `state` itself if there is none.

    Raises:
      ValueError: the newest state is of other parameters or another optimizer.
    """
    step = self._manager.latest_step()
    if step is None:
      return state
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    try:
      return self._manager.restore(
        step, args=self._ocp.args.StandardRestore(abstract)
      )
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{self._folder}/{step} was saved by a run with another model, method "
        "or optimizer; choose another MODEL_DIR, or remove that folder to "
        f"start over ({error})"
      ) from error

  def close(self) -> None:
    """Releases orbax's threads."""
    self._manager.close()
