"""Arrays that stay on disk until they are asked for.

Every format reads into {parameter path: Leaf} and writes from it, so that a
checkpoint can be converted one leaf at a time.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from coda_jax import params as params_lib
from coda_jax.checkpoints import checksums

# The dtypes of a checkpoint's parameters. float16 can be read; nothing here
# writes it, since T5 overflows in it.
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Leaf:
  """An array that is read each time `read` is called.

  Attributes:
    shape: of the array.
    dtype: of the array; bfloat16 is that of ml_dtypes.
    read: returns it.
    read_at: returns it at an index, a slice for each axis or what NumPy takes
      besides, without reading the rest; None where its file can't do that.
    check: raises ValueError unless it is given the `checksums` sum of the
      whole array, as it is in the file. `read` calls it. `read_at` can't, since
      a part has no sum of its own: whoever puts the parts together calls it
      with the sum of the whole. None where the file has no checksum, and for
      leaves that are computed from others, whose `read` checks those.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]
  read_at: Callable[[Any], np.ndarray] | None = None
  check: Callable[[int], None] | None = None

  @property
  def size(self) -> int:
    """The number of elements."""
    return math.prod(self.shape)

  @property
  def nbytes(self) -> int:
    """The number of bytes."""
    return self.size * self.dtype.itemsize

  def at(self, index: Any, shape: tuple[int, ...]) -> "Leaf":
    """The part of the array at a NumPy index; `shape` is the part's shape."""
    read_at = self.read_at or (lambda index: self.read()[index])
    return Leaf(shape, self.dtype, lambda: read_at(index))

  def transposed(self) -> "Leaf":
    """The same array with its axes turned around; read in blocks only."""
    return self._mapped(
      lambda x: x.T, shape=self.shape[::-1], index=lambda i: tuple(i)[::-1]
    )

  def astype(self, dtype: Any) -> "Leaf":
    """The same array in another dtype."""
    dtype = jnp.dtype(dtype)
    if dtype == self.dtype:
      return self
    return self._mapped(lambda x: x.astype(dtype), dtype=dtype)

  def times(self, factor: float) -> "Leaf":
    """The same array, scaled."""
    # In float32, so that bfloat16 is rounded once.
    return self._mapped(
      lambda x: (x.astype(np.float32) * np.float32(factor)).astype(self.dtype)
    )

  def _mapped(self, change, *, shape=None, dtype=None, index=lambda i: i):
    read_at = self.read_at
    return Leaf(
      self.shape if shape is None else shape,
      dtype or self.dtype,
      lambda: change(self.read()),
      read_at and (lambda i: change(read_at(index(i)))),
    )


def checked(leaf: Leaf, saved: int, name: str, remedy: str) -> Leaf:
  """A leaf that is compared with its checksum when it is read.

  Args:
    leaf: of a file.
    saved: the sum of the array that was saved.
    name: file and leaf, for messages.
    remedy: what to do about a damaged file, for messages.
  """

  def check(found: int) -> None:
    if found != saved:
      raise ValueError(
        f"{name} is damaged: its checksum is {found:08x}, expected "
        f"{saved:08x}; {remedy}"
      )

  def read() -> np.ndarray:
    array = leaf.read()
    check(checksums.of_array(array))
    return array

  return dataclasses.replace(leaf, read=read, check=check)


def digest(leaves: Mapping[str, Leaf]) -> str:
  """A SHA-256 over paths, shapes and values, read one leaf at a time."""
  whole = hashlib.sha256()
  for path, leaf in sorted(leaves.items()):
    whole.update(f"{path} {leaf.shape}\n".encode())
    whole.update(leaf.read().tobytes())
  return whole.hexdigest()


def leaf_of(array: Any) -> Leaf:
  """A leaf of an array in memory, NumPy's or jax's."""
  return Leaf(
    tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array)
  )


def leaves_of(params: params_lib.Params) -> dict[str, Leaf]:
  """{parameter path: Leaf} of a tree in memory."""
  return {p: leaf_of(x) for p, x in params_lib.flatten(params).items()}


def check_dtypes(leaves: Mapping[str, Leaf], source: str) -> None:
  """Refuses leaves that can't be parameters.

  Raises:
    ValueError: a dtype is not floating point; the message names the first leaf.
  """
  for path, leaf in leaves.items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise ValueError(
        f"{source}: {path} has dtype {leaf.dtype.name}; expected floating "
        "point, as parameters are"
      )


def check(
  leaves: Mapping[str, Any], expected: Mapping[str, Any], source: str
) -> None:
  """Refuses leaves that are missing, left over, or of another shape.

  Args:
    leaves: {path: anything with a shape}, of the file.
    expected: {path: anything with a shape}, of the model.
    source: the file's name.

  Raises:
    ValueError: leaves do not fit; the message names all of them.
  """
  problems = [
    f"{path}: {tuple(leaves[path].shape)} in the file, {tuple(leaf.shape)} in "
    "the model"
    for path, leaf in expected.items()
    if path in leaves and tuple(leaves[path].shape) != tuple(leaf.shape)
  ]
  problems += [f"{p}: not in the file" for p in expected if p not in leaves]
  problems += [f"{p}: not in the model" for p in leaves if p not in expected]
  if problems:
    raise ValueError(
      f"{source} does not fit the model; use the size and the method that it "
      "was made with:\n  " + "\n  ".join(problems)
    )
