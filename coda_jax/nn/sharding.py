"""Where activations are: batches cut, sequences whole.

Nothing here has an effect unless a program is traced under a mesh and rules,
those of `coda_jax.partitioning` or t5x's.
"""

import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax import Array


def constrain(x: Array, last: str | None) -> Array:
  """Keeps `x` cut along its batch, whatever the parameters are cut along.

  Parameters are cut along their inputs, to save memory; without a constraint
  the compiler would rather cut activations likewise, and send tokens around
  instead of parameters.

  Args:
    x: [batch, ..., features], two axes or more.
    last: the logical name of its last axis.
  """
  names = ("batch", *[None] * (x.ndim - 2), last)
  return partitioning.with_sharding_constraint(x, names)


def top_k(x: Array, k: int) -> tuple[Array, Array]:
  """`jax.lax.top_k` of [batch, n], each row where it is; not differentiated.

  XLA can't partition its TopK by rows and would gather them all on every
  device. It can partition a sort, which takes ten times as long on a CPU.
  """
  x = jax.lax.stop_gradient(x)
  if jax.sharding.get_abstract_mesh().size <= 1:
    return jax.lax.top_k(x, k)
  positions = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
  negative, indices = jax.lax.sort((-x, positions), num_keys=1)
  return -negative[:, :k], indices[:, :k]
