"""Dot-product attention against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.nn import dot_product

HEADS, DIM = 2, 3


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attend(query, key, value, mask, bias):
  """One query at a time: softmax(q . k + bias) over what it may see."""
  out = np.zeros(query.shape, np.float64)
  for b, h, i in np.ndindex(query.shape[:3]):
    seen = np.flatnonzero(mask[b, h, i])
    scores = np.array(
      [
        float(query[b, h, i].astype(np.float64) @ key[b, h, j])
        + bias[b, h, i, j]
        for j in seen
      ]
    )
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    out[b, h, i] = sum(
      w * value[b, h, j] for w, j in zip(weights, seen, strict=False)
    )
  return out


def test_attention_equals_loops():
  query = random(2, HEADS, 4, DIM, seed=1)
  key, value = (random(2, HEADS, 6, DIM, seed=s) for s in (2, 3))
  bias = random(2, HEADS, 4, 6, seed=4)
  mask = np.random.default_rng(5).random((2, HEADS, 4, 6)) < 0.6
  mask[..., 0] = True
  found = dot_product.dot_product_attention(query, key, value, mask, bias)
  expected = attend(query, key, value, mask, bias)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def small_blocks(monkeypatch):
  """Attention of more than two queries is in blocks of two."""
  monkeypatch.setattr(dot_product, "_LOGITS_IN_CACHE", 1)
  monkeypatch.setattr(dot_product, "_QUERY_BLOCK", 2)


@pytest.mark.parametrize("queries", [1, 2, 4, 5])
@pytest.mark.parametrize("shape", ["own", "shared", "none"])
def test_queries_in_blocks_equal_loops(small_blocks, queries, shape):
  query = random(2, HEADS, queries, DIM, seed=1)
  key, value = (random(2, HEADS, 6, DIM, seed=s) for s in (2, 3))
  whole = (2, HEADS, queries, 6)
  mask, bias = np.ones(whole, bool), np.zeros(whole, np.float32)
  given = (None, None)
  if shape != "none":
    # Masks of padding are the same for every query; biases may be.
    of = (2, HEADS, queries, 6) if shape == "own" else (2, 1, 1, 6)
    bias = random(*of, seed=4)
    mask = np.random.default_rng(5).random(of) < 0.6
    mask[..., 0] = True
    given = (mask, bias)
    mask, bias = (np.broadcast_to(x, whole) for x in given)
  attention_of = jax.jit(dot_product.dot_product_attention)
  found = attention_of(query, key, value, *given)
  expected = attend(query, key, value, mask, bias)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_gradient_is_the_same_in_blocks(small_blocks):
  query, key, value, weights = (
    random(2, HEADS, 5, DIM, seed=s) for s in range(4)
  )
  mask = np.arange(5) < np.array([3, 5])[:, None, None, None]
  bias = random(1, HEADS, 5, 5, seed=5)

  def gradients(attend):
    return jax.grad(
      lambda q, k, v, b: (attend(q, k, v, mask, b) * weights).sum(),
      argnums=(0, 1, 2, 3),
    )(query, key, value, bias)

  def plain(query, key, value, mask, bias):
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key) + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)

  for found, expected in zip(
    gradients(dot_product.dot_product_attention), gradients(plain), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_softmax_is_float32_in_bfloat16():
  # 300 equal keys: a bfloat16 sum of their weights would stop at 256.
  query = jnp.zeros((1, 1, 1, DIM), jnp.bfloat16)
  key = jnp.zeros((1, 1, 300, DIM), jnp.bfloat16)
  value = jnp.ones((1, 1, 300, DIM), jnp.bfloat16)
  found = dot_product.dot_product_attention(query, key, value)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(found.astype(jnp.float32), 1.0, rtol=2**-7)
  # A difference of 0.5 at 1000 is lost in bfloat16, whose step there is 4.
  query = jnp.array([[[[1.0, 1.0]]]], jnp.bfloat16)
  key = jnp.array([[[[1000.0, 0.5], [1000.0, 0.0]]]], jnp.bfloat16)
  value = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]], jnp.bfloat16)
  found = dot_product.dot_product_attention(query, key, value)
  expected = [1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.5))]
  np.testing.assert_allclose(found[0, 0, 0].astype(np.float32), expected, 0.01)


@pytest.mark.parametrize("keys", [3, 128, 129, 200])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_average_on_tpu(keys, dtype):
  weights = np.exp(random(2, HEADS, 5, keys))
  value = jnp.asarray(random(2, HEADS, keys, DIM), dtype)
  found = dot_product.average_on_tpu(jnp.asarray(weights), value)
  assert found.dtype == jnp.float32
  exact = weights.astype(np.float64)
  exact /= exact.sum(-1, keepdims=True)
  exact = exact @ np.asarray(value).astype(np.float64)
  tolerance = 1e-5 if dtype == jnp.float32 else 4e-3
  np.testing.assert_allclose(found, exact, tolerance, tolerance)


def test_row_without_keys_gives_no_nan():
  x = random(1, HEADS, 3, DIM)
  mask = jnp.zeros((1, 1, 3, 3), bool)

  def total(x):
    return dot_product.dot_product_attention(x, x, x, mask).sum()

  assert np.isfinite(total(x))
  assert np.isfinite(jax.grad(total)(x)).all()
