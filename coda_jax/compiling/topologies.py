"""TPU slices by name, and the figures of their devices.

`libtpu` compiles for any of them on a machine without a TPU.
"""

import importlib.util
import os
import re
from typing import Any, NamedTuple

from jax.experimental import topologies


class Chip(NamedTuple):
  """One device of a TPU generation, as jax counts them.

  Attributes:
    hbm_bytes: memory that a program can have; the compiler's own limit.
    flops: bfloat16 operations a second, the published peak.
    bandwidth: of that memory, bytes a second, published.
    clock_hz: cycles a second: the published peak over the operations a cycle
      of the matrix units.
    link_bandwidth: of one link to a neighbour, bytes a second and direction.
    slices: shapes that the compiler knows, smallest first; complete for
      generations with two dimensions.
  """

  hbm_bytes: int
  flops: float
  bandwidth: float
  clock_hz: float
  link_bandwidth: float
  slices: tuple[str, ...]


_GIB = 2**30
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")

# Memory is what the compiler named when a program asked for too much of it; the
# rest is from Google's pages on each generation, and "How to scale your model"
# (jax-ml.github.io/scaling-book) for links. A v4 chip is two devices.
CHIPS = {
  "v4": Chip(int(15.25 * _GIB), 137.5e12, 614e9, 1.05e9, 45e9, _CUBES),
  "v5e": Chip(int(15.75 * _GIB), 197e12, 819e9, 1.5e9, 45e9, _FLAT),
  "v5p": Chip(int(95.74 * _GIB), 459e12, 2765e9, 1.75e9, 90e9, _CUBES),
  "v6e": Chip(int(31.25 * _GIB), 918e12, 1640e9, 1.75e9, 90e9, _FLAT),
}

# libtpu would ask the machine for these, and wait long for no answer.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Nothing here holds a device.
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
}


class Slice(NamedTuple):
  """A slice to compile for.

  Attributes:
    name: such as "v5e:4x4".
    chip: the kind of each device.
    devices: devices to build a mesh of; they can't hold arrays.
  """

  name: str
  chip: Chip
  devices: list[Any]


def parse(name: str) -> tuple[str, tuple[int, ...]]:
  """The generation and the shape of a slice: "v5e:4x4" -> ("v5e", (4, 4)).

  Raises:
    ValueError: an unknown generation, or not one of its shapes.
  """
  match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", name)
  generation = match[1] if match else name.partition(":")[0]
  if generation not in CHIPS:
    raise ValueError(
      f"no TPU slice {name!r}; expected GENERATION:SHAPE, such as "
      f"{'; '.join(map(_examples, CHIPS))}"
    )
  shape = tuple(map(int, match[2].split("x"))) if match else ()
  known = CHIPS[generation].slices
  # The compiler would accept any flat shape of whole hosts, however large.
  if len(shape) != known[0].count("x") + 1 or (
    len(shape) == 2 and match[2] not in known
  ):
    raise ValueError(
      f"no TPU slice {name!r}; expected one such as {_examples(generation)}"
    )
  return generation, shape


def get(name: str) -> Slice:
  """A slice by its name.

  Raises:
    ModuleNotFoundError: libtpu is not installed.
    ValueError: an unknown slice.
  """
  generation, shape = parse(name)
  if importlib.util.find_spec("libtpu") is None:
    raise ModuleNotFoundError(
      f"compiling for {name} needs libtpu, the TPU's compiler, which is not "
      "installed; it needs no TPU: pip install 'coda_jax[tpu]'",
      name="libtpu",
    )
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  # By default libtpu takes four chips a host, and refuses a single chip.
  bounds = {"chips_per_host_bounds": (1, 1, 1)} if set(shape) == {1} else {}
  try:
    topology = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **bounds
    )
  except RuntimeError as error:
    raise ValueError(
      f"no TPU slice {name!r}; expected one such as {_examples(generation)}. "
      f"The compiler says: {error}"
    ) from error
  return Slice(name, CHIPS[generation], list(topology.devices))


def _examples(generation: str) -> str:
  return f"{generation}:{', '.join(CHIPS[generation].slices)}"
