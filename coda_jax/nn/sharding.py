"""How activations are sharded: along the batch, never along the sequence.

It has an effect only where a program is traced under a mesh and rules, those of
`coda_jax.partitioning` or t5x's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax import Array


def constrain(x: Array, last: str | None) -> Array:
  """Keeps `x` sharded along its batch, however the parameters are sharded.

  Parameters are sharded along their inputs, to save memory. Without a
  constraint the compiler would shard activations the same way, and send tokens
  between devices instead of parameters.

  Args:
    x: [batch, ..., features], two axes or more.
    last: the logical name of its last axis.
  """
  names = ("batch", *[None] * (x.ndim - 2), last)
  return partitioning.with_sharding_constraint(x, names)


def top_k(x: Array, k: int) -> tuple[Array, Array]:
  """`jax.lax.top_k` of [batch, n], each row on its device; no gradient.

  XLA can't partition its TopK by rows and would gather them all on every
  device. It can partition a sort, which takes ten times as long on a CPU.
  """
  x = jax.lax.stop_gradient(x)
  if jax.sharding.get_abstract_mesh().size <= 1:
    return jax.lax.top_k(x, k)
  positions = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
  negative, indices = jax.lax.sort((-x, positions), num_keys=1)
  return -negative[:, :k], indices[:, :k]


def map_examples(function: Callable[..., Any], *args: Any) -> Any:
  """`jax.vmap` over the examples of a batch, which stay on their devices.

  Inside, the batch is one, which cannot be sharded. So the mapped axis is
  sharded as `constrain` would shard the batch.

  Args:
    function: of one example.
    *args: arrays, or trees of them, with a leading batch axis.
  """
  rules = partitioning.get_axis_rules()
  axes = dict(rules).get("batch")
  if axes is None or jax.sharding.get_abstract_mesh().empty:
    return jax.vmap(function)(*args)
  axes = (axes,) if isinstance(axes, str) else tuple(axes)
  inner = [(name, axis) for name, axis in rules if not _overlap(axis, axes)]
  with partitioning.axis_rules(inner):
    return jax.vmap(function, spmd_axis_name=axes)(*args)


def _overlap(axis: str | Sequence[str] | None, axes: Sequence[str]) -> bool:
  names = (axis,) if isinstance(axis, str) else axis or ()
  return not set(names).isdisjoint(axes)
