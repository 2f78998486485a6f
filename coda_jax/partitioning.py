"""From logical axes to devices: the mesh, the rules, and who holds what.

A mesh has three axes. Batches are cut along "data" and "fsdp", parameters along
"fsdp" and "model"; sequences stay whole, since tokens are routed within them.
`jax.jit` does the rest. All here is decided from shapes, before anything is
compiled or read; devices may be those of a topology that is not at hand.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax.linen import partitioning as flax_partitioning
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from coda_jax import initialise
from coda_jax import params as params_lib

AXES = ("data", "fsdp", "model")

# Earlier rules come first where two axes of an array ask for one of the mesh:
# an activation [batch, length, embed] gives "fsdp" to its batch.
RULES: Sequence[tuple[str, str | tuple[str, ...] | None]] = (
  ("batch", ("data", "fsdp")),
  ("vocab", "model"),
  ("mlp", "model"),  # The adapters' bottleneck, too.
  ("heads", "model"),
  ("joined_kv", "model"),
  ("embed", "fsdp"),
  ("length", None),
  ("kv", None),
  ("relpos_buckets", None),
  ("lora_rank", None),
  ("convolution", None),
  ("positions", None),  # These four are BERT's: too small to be cut.
  ("token_types", None),
  ("pooled", None),
  ("labels", None),
)


def make_mesh(
  data: int = 1,
  fsdp: int = 1,
  model: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """Arranges devices in a mesh with the axes "data", "fsdp" and "model".

  Args:
    data: devices that hold the same parameters, for different examples.
    fsdp: devices that share parameters and the optimizer's state, for different
      examples.
    model: devices that share the heads, the feed-forward width and the
      vocabulary, for the same examples.
    devices: those of this or of another machine; None takes all of this run.
      One axis can be -1, for as many as there are.

  Returns:
    A mesh of the first data * fsdp * model devices, in the order that suits
    their network where that is all of them.

  Raises:
    ValueError: a size that is not a whole number of 1 or more, or -1; a mesh
      that the devices do not divide into, or one without some of the processes.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = {"data": data, "fsdp": fsdp, "model": model}
  asked = ", ".join(f"{name}={size}" for name, size in sizes.items())
  for size in sizes.values():
    if type(size) is not int or not (size >= 1 or size == -1):
      raise ValueError(
        f"mesh {asked}; expected whole numbers, 1 or more, or -1 for as many "
        "devices as there are"
      )
  free = [name for name, size in sizes.items() if size == -1]
  if len(free) > 1:
    raise ValueError(f"mesh {asked} has -1 twice; give all but one of them")
  known = math.prod(size for size in sizes.values() if size != -1)
  count = len(devices)
  if count % known:
    raise ValueError(
      f"mesh {asked} needs a multiple of {known} devices, and there are "
      f"{count}; choose sizes whose product is one of {_divisors(count)}"
    )
  if free:
    sizes[free[0]] = count // known
  shape = tuple(sizes.values())
  used = math.prod(shape)
  hosts = {device.process_index for device in devices}
  if used < count and len(hosts) > 1:
    raise ValueError(
      f"mesh {asked} has {used} of the {count} devices of {len(hosts)} "
      f"processes; a run needs all of them: set one size to -1"
    )
  if used < count:
    return Mesh(np.array(devices[:used]).reshape(shape), AXES)
  return Mesh(mesh_utils.create_device_mesh(shape, devices), AXES)


def mesh_of(
  sizes: Mapping[str, int] | None, devices: Sequence[Any] | None = None
) -> Mesh:
  """The mesh of a run: `make_mesh` of all its devices.

  Args:
    sizes: of its axes, 1 where one is not named. Of none, or for None, it is
      one device, or all devices of several processes, for different examples.
    devices: those of another machine; None takes this run's.

  Raises:
    ValueError: another axis; see also `make_mesh`.
  """
  sizes = sizes or {}
  if unknown := [name for name in sizes if name not in AXES]:
    raise ValueError(
      f"MESH={dict(sizes)} has the axis {unknown[0]!r}; expected some of {AXES}"
    )
  if not sizes and jax.process_count() > 1:
    sizes = {"data": -1}
  try:
    return make_mesh(**sizes, devices=devices)
  except ValueError as error:
    raise ValueError(f"MESH={dict(sizes)}: {error}") from None


@contextlib.contextmanager
def under(mesh: Mesh) -> Iterator[None]:
  """Where models are traced, so that their constraints hold on the mesh."""
  with jax.set_mesh(mesh), flax_partitioning.axis_rules(RULES):
    yield


def shardings(model: Any, mesh: Mesh) -> dict[str, Any]:
  """Where each parameter of a model is: a tree of `NamedSharding`s.

  Raises:
    ValueError: an axis of the mesh does not divide what it should share, all
      such named; or `RULES` lacks a logical axis.
  """
  shapes = params_lib.flatten(initialise.abstract_params(model))
  known = {name for name, _ in RULES}
  specs = {}
  for path, names in initialise.logical_axes(model).items():
    if missing := [name for name in names if name not in known]:
      raise ValueError(
        f"{path} has the logical axis {missing[0]!r}, for which there is no "
        f"rule; partitioning.RULES has {sorted(known)}"
      )
    specs[path] = flax_partitioning.logical_to_mesh_axes(names, RULES)
  _check_divides(mesh, specs, shapes)
  return params_lib.unflatten(
    {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Where a batch's rows are; what follows the first axis is whole."""
  return NamedSharding(mesh, PartitionSpec(dict(RULES)["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
  """All of an array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Any, parameters: Mapping[str, Any]) -> Any:
  """Where a training state's leaves are: a tree like `state`.

  What has the path and the shape of a trained leaf is where that is, as Adam's
  moments are. The rest, counters and Adafactor's rows and columns, is small,
  and on every device.

  Args:
    state: a `TrainState`, of arrays or of their shapes.
    parameters: the tree of `shardings`.
  """
  trained = params_lib.flatten(state.trained)
  flat = params_lib.flatten(parameters)
  everywhere = replicated(next(iter(flat.values())).mesh)

  def place(path: Any, leaf: Any) -> NamedSharding:
    keys = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
    for i in range(len(keys)):
      owner = "/".join(keys[i:])
      if owner in trained and leaf.shape == trained[owner].shape:
        return flat[owner]
    return everywhere

  return jax.tree_util.tree_map_with_path(place, state)


def batch_parts(mesh: Mesh) -> int:
  """How many parts of its rows a batch is cut into."""
  return _parts(mesh, dict(RULES)["batch"])


def check_batch(batch_size: int, mesh: Mesh, name: str = "batch_size") -> None:
  """Refuses a batch that the mesh can't share.

  Args:
    batch_size: examples.
    mesh: to share them.
    name: of the batch size, for the message.

  Raises:
    ValueError: naming sizes that it can.
  """
  parts = batch_parts(mesh)
  if batch_size % parts:
    above = -(-batch_size // parts) * parts
    near = [str(n) for n in (above - parts, above) if n]
    raise ValueError(
      f"{name}={batch_size} does not divide among data={mesh.shape['data']} x "
      f"fsdp={mesh.shape['fsdp']} = {parts} devices; choose a multiple of "
      f"{parts}, such as {' or '.join(near)}, or another mesh"
    )


def rows_here(batch_size: int, sharding: NamedSharding) -> np.ndarray:
  """The rows of a batch that this process's devices hold, ascending."""
  held = sharding.addressable_devices_indices_map((batch_size,))
  rows = np.arange(batch_size)
  return np.unique(np.concatenate([rows[index] for index in held.values()]))


def place_batch(
  batch: Mapping[str, np.ndarray],
  batch_size: int,
  rows: np.ndarray,
  sharding: NamedSharding,
) -> dict[str, jax.Array]:
  """A batch on the mesh, from the rows that this process has of it.

  Args:
    batch: {name: [rows, ...]}.
    batch_size: of the whole batch.
    rows: which rows those are, ascending: those of `rows_here`, or more.
    sharding: of `batch_sharding`.

  Returns:
    {name: [batch_size, ...]}.
  """

  def place(x: np.ndarray) -> jax.Array:
    def read(index: tuple[slice, ...]) -> np.ndarray:
      return x[np.searchsorted(rows, np.arange(batch_size)[index[0]])]

    return jax.make_array_from_callback(
      (batch_size, *x.shape[1:]), sharding, read
    )

  return {name: place(x) for name, x in batch.items()}


def _check_divides(
  mesh: Mesh,
  specs: Mapping[str, PartitionSpec],
  shapes: Mapping[str, Any],
) -> None:
  """Refuses a mesh with an axis that does not divide what it should share."""
  shared: dict[Any, dict[int, str]] = {}  # {mesh axis: {size: a leaf's path}}
  for path, spec in specs.items():
    for size, axis in zip(shapes[path].shape, spec, strict=True):
      if axis is not None:
        shared.setdefault(axis, {}).setdefault(size, path)
  problems = []
  for axis, sizes in shared.items():
    parts = _parts(mesh, axis)
    bad = [size for size in sizes if size % parts]
    if bad:
      where = ", ".join(
        f"{size} of {sizes[size]} {shapes[sizes[size]].shape}" for size in bad
      )
      problems.append(
        f"{axis}={parts} does not divide {where}; choose {axis} from "
        f"{_divisors(math.gcd(*sizes))}"
      )
  if problems:
    raise ValueError("this mesh does not fit the model: " + "; ".join(problems))


def _parts(mesh: Mesh, axis: str | tuple[str, ...] | None) -> int:
  names = (axis,) if isinstance(axis, str) else axis or ()
  return math.prod(mesh.shape[name] for name in names)


def _divisors(n: int) -> list[int]:
  return [i for i in range(1, n + 1) if n % i == 0]
