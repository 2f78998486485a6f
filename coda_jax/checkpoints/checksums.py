"""Checksums of arrays: whether a file has the numbers that were saved.

Neither the files of a checkpoint nor their compression notice a bit that has
flipped. These sums do, whatever mesh an array is on: they are of integers, and
the order of adding those does not matter. A run's checkpoints, our model
folders and adapters all have them, one for each leaf.

The other digest of this package, `leaves.digest`, tells models apart. It is a
SHA-256, which brings every leaf to the host. Adapters name their backbone by
it, and results of `coda_jax.infer` their model, and both are compared with
files of earlier versions. A run names its frozen leaves by `of_all`: that is
computed at each start, on the mesh, where no host has to hold the leaves.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

_BITS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
# Numbers per block on the host: three such blocks of uint32 fit in a cache.
_BLOCK = 2**16


def of_leaves(tree: Any) -> dict[str, int]:
  """{path: sum} of each array, modulo 2^32; keys joined by "/"."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
  ]
  sums = _sums([leaf for _, leaf in leaves])
  # Scalars are in every process, whichever of them hold the arrays.
  return {name: int(value) for name, value in zip(names, sums, strict=True)}


def of_array(array: np.ndarray) -> int:
  """The sum of one array in the host's memory, without a device or a compiler.

  An array whose numbers are wider than 4 bytes counts as one of uint32.
  """
  flat = np.ascontiguousarray(array).reshape(-1)
  bits = flat.view(_BITS[min(flat.dtype.itemsize, 4)])
  place = 2 * np.arange(_BLOCK, dtype=np.uint32) + np.uint32(1)
  product, total = np.empty_like(place), np.zeros_like(place)
  for start in range(0, bits.size, _BLOCK):
    block = bits[start : start + _BLOCK]
    size = block.size
    np.multiply(block, place[:size], out=product[:size], dtype=np.uint32)
    total[:size] += product[:size]
    place += np.uint32(2 * _BLOCK)
  return int(total.sum(dtype=np.uint32))


def of_all(tree: Any) -> int:
  """One number for the names and the contents of all leaves."""
  return of_sums(of_leaves(tree))


def of_sums(sums: Mapping[str, int]) -> int:
  """The number of `of_all`, from the `of_leaves`."""
  return zlib.crc32(json.dumps(sorted(sums.items())).encode())


@jax.jit
def _sums(leaves: list[Array]) -> list[Array]:
  return [_sum(leaf) for leaf in leaves]


def _sum(x: Array) -> Array:
  """The uint32 sum of the bits, each number times an odd factor of its own."""
  bits = lax.bitcast_convert_type(x, _BITS[x.dtype.itemsize])
  place = jnp.ones(x.shape, jnp.uint32)
  for axis in range(x.ndim):
    stride = 2 * math.prod(x.shape[axis + 1 :]) % 2**32
    index = lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    place += index * jnp.uint32(stride)
  return jnp.sum(bits.astype(jnp.uint32) * place, dtype=jnp.uint32)
