"""The matrix product of tokens with a kernel."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def product(x: Array, kernel: Any, num_axes: int = 1) -> Array:
  """Contracts the last axes of `x` with the first of `kernel`.

  Args:
    x: [..., *mapped], `num_axes` of these.
    kernel: [*mapped, features], the dtype of `x`, or qwix's int8 in its place.
    num_axes: how many axes are contracted.

  Returns:
    [..., features], the dtype of `x`.
  """
  axes = (tuple(range(x.ndim - num_axes, x.ndim)), tuple(range(num_axes)))
  multiply = functools.partial(
    jax.lax.dot_general, dimension_numbers=(axes, ((), ()))
  )
  if x.dtype != jnp.bfloat16 or not isinstance(kernel, jax.Array):
    return multiply(x, kernel)

  # XLA's CPU compiler has bfloat16 products only with float32 sums: asked for
  # bfloat16 it makes float32 copies of both sides. Elsewhere the product with a
  # float32 result would make a float32 product of its gradient.
  def with_float32_sum(x: Array, kernel: Array) -> Array:
    return multiply(x, kernel, preferred_element_type=jnp.float32).astype(
      x.dtype
    )

  return jax.lax.platform_dependent(
    x, kernel, cpu=with_float32_sum, default=multiply
  )
