"""The state of training, and its checkpoints."""

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from coda_jax.checkpoints import checksums
from coda_jax.checkpoints import run as run_lib
from coda_jax.training import hosts


@flax.struct.dataclass
class TrainState:
  """All that changes during training, and all that a checkpoint holds.

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

  Saving returns when the files are written. They have a temporary name until
  they are complete, so a killed run leaves only complete checkpoints.
  Incomplete ones are moved out of the way, with a warning.
  """

  def __init__(
    self,
    model_dir: str | Path,
    *,
    keep: int = 1,
    run: Mapping[str, Any] | None = None,
  ):
    """Opens the folder.

    Args:
      model_dir: of the run.
      keep: how many checkpoints to keep, the newest.
      run: {name: setting} that must not change during the run; JSON-ready.
    """
    import orbax.checkpoint as ocp

    self._folder = Path(model_dir).absolute() / "checkpoints"
    self._ocp = ocp
    self._run = json.loads(json.dumps(run or {}))  # Tuples as lists.
    skipped = hosts.from_first(lambda: _skip_cut_off(self._folder))
    for message in skipped if hosts.is_first() else ():
      warnings.warn(message, stacklevel=2)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=False
      ),
      item_handlers=ocp.StandardCheckpointHandler(),
    )

  def save(self, state: TrainState) -> None:
    """Saves `state`, once a step.

    Raises:
      OSError: it can't be written, such as on a full disk.
    """
    step = int(state.step)
    if step == self._manager.latest_step():
      return
    try:
      self._manager.save(
        step,
        args=self._ocp.args.StandardSave(state),
        custom_metadata={
          "run": self._run,
          "checksums": checksums.of_leaves(state),
        },
      )
    except (ValueError, OSError) as error:  # tensorstore's are ValueErrors.
      raise OSError(
        f"cannot write to {self._folder / str(step)} ({error}). Earlier "
        "checkpoints are kept: free some space and run the same command to "
        "resume"
      ) from error

  def restore(self, state: TrainState) -> TrainState:
    """The newest saved state, or `state` itself if none is saved.

    Raises:
      ValueError: the newest state is of another run, of other parameters or
        of another optimizer, or its files are damaged.
    """
    step = self._manager.latest_step()
    if step is None:
      return state
    folder = self._folder / str(step)
    with _damage_named(folder):
      saved = _shapes(self._manager.item_metadata(step).tree)
      about = self._manager.metadata(step).custom_metadata or {}
    self._check_run(folder, run_lib.fixed(about.get("run", {})))
    wanted = _shapes(state)
    if saved != wanted:
      names = [n for n in {**saved, **wanted} if saved.get(n) != wanted.get(n)]
      raise ValueError(
        f"{folder} belongs to a run with another model, method or optimizer: "
        f"{len(names)} leaves differ, such as {names[0]}, "
        f"{saved.get(names[0])} there and {wanted.get(names[0])} here; choose "
        "another MODEL_DIR, or remove that folder to start over"
      )
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    with _damage_named(folder):
      restored = self._manager.restore(
        step, args=self._ocp.args.StandardRestore(abstract)
      )
      sums, expected = checksums.of_leaves(restored), about.get("checksums")
      if expected and sums != expected:
        name = next(n for n in sums if sums[n] != expected.get(n))
        raise ValueError(f"the checksum of {name} differs")
    return restored

  def _check_run(self, folder: Path, before: Mapping[str, Any]) -> None:
    for name in before.keys() & self._run.keys():
      if before[name] != self._run[name]:
        raise ValueError(
          f"{folder} belongs to a run with {name} = {before[name]!r}, but it "
          f"is {self._run[name]!r} now; use the original value, or choose "
          "another MODEL_DIR"
        )

  def close(self) -> None:
    """Releases orbax's threads."""
    self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in leaves
  }


@contextlib.contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
  try:
    yield
  # orbax raises many kinds of errors for incomplete files.
  except (ValueError, OSError, LookupError, TypeError, AttributeError) as error:
    raise ValueError(
      f"{folder} is damaged: {error}. Remove it to resume from the checkpoint "
      "before it, or to start over"
    ) from error


def _skip_cut_off(folder: Path) -> list[str]:
  """Moves incomplete checkpoints out of the way; returns a message for each.

  Folders with orbax's temporary names are removed. An incomplete folder N is
  renamed, because it may be the user's. Other folders are not touched.
  """
  if not folder.is_dir():
    return []
  messages = []
  for path in sorted(folder.iterdir()):
    if not path.is_dir():
      continue
    if re.fullmatch(r"\d+\.orbax-checkpoint-tmp.*", path.name):
      shutil.rmtree(path)
      messages.append(f"{path} is incomplete: removed")
    elif path.name.isdigit() and not (path / "default" / "_METADATA").exists():
      aside = path.with_name(f"{path.name}.cut_off")
      shutil.rmtree(aside, ignore_errors=True)
      path.rename(aside)
      messages.append(
        f"{path} is incomplete: skipped, and renamed to {aside.name}"
      )
  return messages
