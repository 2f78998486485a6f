"""The parameters of a model from a checkpoint's leaves, and fresh ones."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coda_jax import initialise
from coda_jax import params as params_lib
from coda_jax.checkpoints import checksums
from coda_jax.checkpoints import leaves as leaves_lib
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.params import is_added


def from_leaves(
  model: Any,
  leaves: Mapping[str, Leaf],
  key: jax.Array,
  source: str,
  *,
  dtype: Any = jnp.float32,
  shardings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """The parameters of a model from a checkpoint's leaves.

  Adapters and routers that only the model has are initialised; those that only
  the checkpoint has are left out.

  Args:
    model: of `backbones.build`.
    leaves: {parameter path: Leaf}.
    key: for what is initialised.
    source: the checkpoint's name, for messages.
    dtype: of the parameters.
    shardings: the tree of `partitioning.shardings`; each process then reads
      what its devices hold, a leaf at a time. None for one device.

  Raises:
    ValueError: a backbone leaf is missing on either side or has another shape;
      the message lists all such leaves. Or a leaf is damaged.
  """
  expected = params_lib.flatten(initialise.abstract_params(model))
  leaves_lib.check(
    {p: x for p, x in leaves.items() if p in expected or not is_added(p)},
    {p: x for p, x in expected.items() if p in leaves or not is_added(p)},
    source,
  )
  missing = expected.keys() - leaves.keys()

  def init_missing(key: jax.Array) -> dict[str, Any]:
    # What is not returned is not computed either.
    every = params_lib.flatten(initialise.fresh(model, key))
    return {path: every[path].astype(dtype) for path in missing}

  places = params_lib.flatten(shardings) if shardings else {}
  fresh = {}
  if missing:
    out = {path: places.get(path) for path in missing}
    fresh = jax.jit(init_missing, out_shardings=out)(key)
  return params_lib.unflatten(
    {
      path: fresh[path]
      if path in missing
      else place(leaves[path], places.get(path), dtype)
      for path in expected
    }
  )


def place(leaf: Leaf, sharding: Any | None, dtype: Any) -> jax.Array:
  """Reads a leaf onto the devices, each block of it once in each process.

  Where no process reads the whole leaf, the devices sum up what they were
  given, and all processes together check the leaf.

  Args:
    leaf: of any shape.
    sharding: where it is to be; None is the default device.
    dtype: of the array.

  Raises:
    ValueError: the leaf is not what its file's checksum says.
  """
  if sharding is None or sharding.is_fully_replicated or leaf.read_at is None:
    whole = leaf.astype(dtype).read()
    if sharding is None:
      return jnp.asarray(whole)
    return jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: whole[index]
    )
  # A checksum is that of the stored numbers; devices hold none of 8 bytes.
  is_checked = leaf.check is not None and leaf.dtype.itemsize <= 4
  if not is_checked:
    leaf = leaf.astype(dtype)
  blocks: dict[str, np.ndarray] = {}

  def read(index: tuple[slice, ...]) -> np.ndarray:
    if str(index) not in blocks:
      blocks[str(index)] = leaf.read_at(index)
    return blocks[str(index)]

  array = jax.make_array_from_callback(leaf.shape, sharding, read)
  if is_checked:
    leaf.check(checksums.of_leaves({"": array})[""])
  return array.astype(dtype)
