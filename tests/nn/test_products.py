import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.nn import products


def random(*shape, dtype, seed=0):
  x = np.random.default_rng(seed).standard_normal(shape)
  return jnp.asarray(x, dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("num_axes", [1, 2])
def test_a_product_and_its_gradients(dtype, num_axes):
  mapped = (3, 300)[-num_axes:]
  x = random(2, 5, *mapped, dtype=dtype)
  kernel = random(*mapped, 7, dtype=dtype, seed=1)
  weights = random(2, 5, 7, dtype=dtype, seed=2)
  found, pull_back = jax.vjp(
    lambda x, kernel: products.product(x, kernel, dtype, num_axes), x, kernel
  )
  exact = [np.asarray(a).astype(np.float64) for a in (x, kernel, weights)]
  rows, matrix = exact[0].reshape(10, -1), exact[1].reshape(-1, 7)
  weights_exact = exact[2].reshape(10, 7)
  # One rounding, of the sum: 300 roundings to bfloat16 would be far off.
  tolerance = 1e-5 if dtype == jnp.float32 else 2**-8
  for got, expected in [
    (found, rows @ matrix),
    (pull_back(weights)[0], weights_exact @ matrix.T),
    (pull_back(weights)[1], rows.T @ weights_exact),
  ]:
    assert got.dtype == dtype
    np.testing.assert_allclose(
      np.asarray(got).astype(np.float64).ravel(),
      expected.ravel(),
      rtol=tolerance,
      atol=1e-4,
    )


def test_a_cpu_multiplies_bfloat16_as_it_is():
  """And not float32 copies of both sides."""
  x, kernel = jnp.ones((4, 16), jnp.bfloat16), jnp.ones((16, 8), jnp.bfloat16)
  for dtype in (jnp.bfloat16, jnp.float32):
    function = jax.jit(functools.partial(products.product, dtype=dtype))
    compiled = function.lower(x, kernel).compile().as_text()
    assert "f32[16,8]" not in compiled
    assert "f32[4,16]" not in compiled


def test_bfloat16_in_float32_is_what_float32_copies_give():
  x = random(5, 300, dtype=jnp.bfloat16)
  kernel = random(300, 7, dtype=jnp.bfloat16, seed=1)
  found = products.product(x, kernel, jnp.float32)
  copies = [a.astype(jnp.float32) for a in (x, kernel)]
  expected = products.product(*copies, jnp.float32)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  # Kept as they are only if both are: a float32 kernel is not rounded.
  kernel = random(300, 7, dtype=jnp.float32, seed=1)
  found = products.product(x, kernel, jnp.float32)
  expected = products.product(copies[0], kernel, jnp.float32)
  np.testing.assert_array_equal(found, expected)
