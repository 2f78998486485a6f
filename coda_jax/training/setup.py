"""The start of a run, on its devices, and its final files."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding

from coda_jax import backbones, initialise, objectives, partitioning
from coda_jax import params as params_lib
from coda_jax.checkpoints import adapter as adapter_files
from coda_jax.checkpoints import assemble, checksums, formats, model_folder, run
from coda_jax.nn.config import Conditional
from coda_jax.training import hosts, inherited, inputs, router_start, state

# The arguments of `loop.train` that must not change when a run resumes.
_FIXED = (
  "mixture_or_task_name",
  "task_feature_lengths",
  "batch_size",
  "trained_patterns",
  "reductions",
  "seed",
  "pack",
  "frozen_dtype",
)


def inherit(
  model: nn.Module, initial_checkpoint_path: str | None
) -> tuple[nn.Module, list[str]]:
  """The model with the settings of the checkpoint that it starts from.

  Args:
    model: of `backbones.build`, as the gin files describe it.
    initial_checkpoint_path: see `load_pretrained`; None starts from scratch.

  Returns:
    (model, lines on what differs from the checkpoint), see `inherited.inherit`.

  Raises:
    FileNotFoundError, ValueError: a checkpoint that can't be read or that does
      not fit.
  """
  if initial_checkpoint_path is None:
    return model, []
  saved = formats.read_config(initial_checkpoint_path)
  family = backbones.of(saved)
  if formats.detect(initial_checkpoint_path) == "t5x" and family.assume:
    saved = family.assume(saved, model.config)
  config, lines = inherited.inherit(
    model.config, saved, str(initial_checkpoint_path)
  )
  return backbones.build(config), lines


def describe_run(
  config: Conditional, frozen: Any, arguments: Mapping[str, Any]
) -> dict[str, Any]:
  """The settings that must not change when a run resumes, by argument name.

  Args:
    config: of the model. How it computes may change: `nn.config.COMPUTE`.
    frozen: the parameters that are not trained.
    arguments: of `loop.train`, by name.
  """
  return {
    **run.describe(config),
    **{name: arguments[name] for name in _FIXED if name in arguments},
    run.FROZEN: checksums.of_all(frozen),
  }


def describe(mesh: Mesh) -> str:
  """The mesh in a line, and what it leaves idle."""
  sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  line = f"mesh: {sizes}"
  if jax.process_count() > 1:
    line += f", in {jax.process_count()} processes"
  if idle := jax.device_count() - mesh.size:
    line += f"; {idle} of {jax.device_count()} devices are idle (MESH)"
  return line


@dataclasses.dataclass(frozen=True)
class Start:
  """A run before its first step.

  Attributes:
    state: to be trained.
    frozen: the parameters that are not.
    shardings: of the state.
    key: of the run, for dropout and routing.
  """

  state: state.TrainState
  frozen: Any
  shardings: state.TrainState
  key: jax.Array


def start(
  model: nn.Module,
  transform: optax.GradientTransformation,
  mesh: Mesh,
  *,
  trained_patterns: Sequence[str],
  initial_checkpoint_path: str | None,
  seed: int,
  frozen_dtype: str = "float32",
) -> Start:
  """Puts parameters and the optimizer's state on a mesh, each in its place.

  Args:
    model: of `backbones.build`.
    transform: the optimizer.
    mesh: of `partitioning.mesh_of`.
    trained_patterns: see `params.split`.
    initial_checkpoint_path: see `load_pretrained`; None starts from scratch.
    seed: of what is initialised, and of the run's key.
    frozen_dtype: of the leaves that are not trained.

  Raises:
    FileNotFoundError, ValueError: a mesh or a checkpoint that does not fit.
  """
  shardings = partitioning.shardings(model, mesh)
  everywhere = partitioning.replicated(mesh)
  with partitioning.under(mesh):
    init_key, key = jax.jit(
      lambda: tuple(jax.random.split(jax.random.key(seed))),
      out_shardings=everywhere,
    )()
    if initial_checkpoint_path is None:
      params = initialise.init_params(model, init_key, shardings)
    else:
      params = assemble.from_leaves(
        model,
        formats.read_to_start(initial_checkpoint_path),
        init_key,
        str(initial_checkpoint_path),
        shardings=shardings,
      )
    trained, frozen = params_lib.split(params, trained_patterns)
    del params  # So that a leaf goes as soon as there is another in its place.
    frozen = params_lib.flatten(frozen)
    for path in frozen:
      frozen[path] = frozen[path].astype(frozen_dtype)
    frozen = params_lib.unflatten(frozen)

    def create(trained: Any) -> state.TrainState:
      return state.TrainState.create(trained, transform)

    places = partitioning.state_shardings(
      jax.eval_shape(create, trained), shardings
    )
    # The trained leaves exist already, and are not copied.
    rest = jax.jit(
      lambda trained: create(trained).replace(trained=()),
      out_shardings=places.replace(trained=()),
    )(trained)
  return Start(rest.replace(trained=trained), frozen, places, key)


def start_routers(
  model: nn.Module,
  current: state.TrainState,
  frozen: Any,
  read_batches: Callable[[], Generator[objectives.Batch, None, None]],
  *,
  number: int,
  initial_checkpoint_path: str | None,
) -> tuple[state.TrainState, str]:
  """Fits the routers to what the dense layers do, see `router_start`.

  Args:
    model: of `backbones.build`.
    current: before the first step.
    frozen: the parameters that are not trained.
    read_batches: starts reading.
    number: of batches to fit to.
    initial_checkpoint_path: whose routers, if it has some, are kept.

  Returns:
    (state, a line that says what was done).
  """
  leaves = params_lib.flatten(current.trained)
  mine = [p.path for p in router_start.places(model.config) if p.path in leaves]
  if not mine:
    return current, "router start: no router is trained"
  if initial_checkpoint_path is None:
    return current, "router start: random, since the layers are random too"
  if formats.read_config(initial_checkpoint_path).is_routed:
    return current, f"router start: that of {initial_checkpoint_path}"
  with contextlib.closing(read_batches()) as batches:
    kernels = router_start.kernels(
      model,
      params_lib.merge(current.trained, frozen),
      list(itertools.islice(batches, number)),
    )
  for path in mine:
    leaves[path] = jax.device_put(kernels[path], leaves[path].sharding)
  trained = params_lib.unflatten(leaves)
  return (
    current.replace(trained=trained),
    f"router start: {len(mine)} fitted to {number} batches",
  )


def train_batches(
  name: str, sharding: NamedSharding, *, batch_size: int, **options: Any
) -> Generator[dict[str, jax.Array], None, None]:
  """The batches of `inputs.train_batches`, on the devices.

  Args:
    name: seqio task or mixture.
    sharding: of batches; this process reads the rows of its devices.
    batch_size: examples a batch.
    **options: further arguments of `inputs.train_batches`.
  """
  rows = partitioning.rows_here(batch_size, sharding)
  batches = inputs.train_batches(
    name, batch_size=batch_size, rows=rows, **options
  )
  return placed(batches, batch_size, rows, sharding)


def placed(
  batches: Generator[inputs.Batch, None, None],
  batch_size: int,
  rows: np.ndarray,
  sharding: NamedSharding,
) -> Generator[dict[str, jax.Array], None, None]:
  """Each batch through `partitioning.place_batch`; closes the batches."""
  with contextlib.closing(batches):
    for batch in batches:
      yield partitioning.place_batch(batch, batch_size, rows, sharding)


class Saver:
  """Writes the trained parameters: an adapter, or else a whole model.

  The frozen parameters stay the same during a run, so the fingerprint that an
  adapter has of them is taken once, at the first save.
  """

  def __init__(
    self,
    model: nn.Module,
    frozen: Any,
    *,
    dtype: str,
    base_model: str | None = None,
  ):
    """Keeps what does not change.

    Args:
      model: of `backbones.build`.
      frozen: the parameters that are not trained.
      dtype: of `model/`.
      base_model: the checkpoint that `adapter/` names as its own.
    """
    self._model, self._frozen, self._dtype = model, frozen, dtype
    self._base_model = base_model
    self._backbone: str | None = None  # In the first process only.

  def __call__(self, trained: Any, folder: Path) -> Path:
    """Saves; all processes call it, and the first one writes.

    Args:
      trained: the parameters that are trained.
      folder: gets `adapter/` or `model/`.

    Returns:
      The folder that was written.
    """
    params = params_lib.merge(trained, self._frozen)
    if all(
      params_lib.matches(path, params_lib.TASK_PATTERNS)
      for path in params_lib.flatten(trained)
    ):
      folder = folder / "adapter"
      hosts.write_together(params, lambda tree: self._adapter(folder, tree))
    else:
      folder = folder / "model"
      hosts.write_together(
        params,
        lambda tree: model_folder.save_model(
          folder, self._model.config, tree, dtype=self._dtype
        ),
      )
    return folder

  def _adapter(self, folder: Path, params: Any) -> None:
    if self._backbone is None:
      self._backbone = adapter_files.backbone_fingerprint(params)
    adapter_files.save_adapter(
      folder,
      self._model,
      params,
      backbone=self._backbone,
      base_model=self._base_model,
    )
