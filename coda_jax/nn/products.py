"""The matrix product of tokens with a kernel."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def product(
  x: Array, kernel: Any, dtype: DTypeLike, num_axes: int = 1
) -> Array:
  """Contracts the last axes of `x` with the first of `kernel`.

  Args:
    x: [..., *mapped], `num_axes` of these.
    kernel: [*mapped, features]; qwix may have put int8 in its place.
    dtype: of the computation and the result, float32 or bfloat16.
    num_axes: how many axes are contracted.

  Returns:
    [..., features].
  """
  dtype = jnp.dtype(dtype)
  axes = (tuple(range(x.ndim - num_axes, x.ndim)), tuple(range(num_axes)))
  multiply = functools.partial(
    jax.lax.dot_general, dimension_numbers=(axes, ((), ()))
  )
  with_float32_sum = functools.partial(
    multiply, preferred_element_type=jnp.float32
  )
  if dtype == jnp.float32 and x.dtype == kernel.dtype == jnp.bfloat16:
    # The same numbers as of float32 copies, whose kernel would be twice as long
    # to read: products of bfloat16 are exact in float32.
    return with_float32_sum(x, kernel)
  x = x.astype(dtype)
  if kernel.dtype != dtype:
    kernel = kernel.astype(dtype)
  if dtype == jnp.float32 or not isinstance(kernel, jax.Array):
    return multiply(x, kernel)
  # XLA's CPU compiler has bfloat16 products only with float32 sums: asked for
  # bfloat16 it makes float32 copies of both sides. Elsewhere the product with a
  # float32 result would make a float32 product of its gradient.
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, kernel: with_float32_sum(x, kernel).astype(dtype),
    default=multiply,
  )
