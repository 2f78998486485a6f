"""The position bias, by the index of a distance and by comparisons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.nn import position_bias

HEADS = 2


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def exact_bucket(distance, bidirectional, num_buckets=32, max_distance=128):
  """T5's rule with integers only: e + floor(w log(d/e) / log(max/e))."""
  offset = 0
  if bidirectional:
    num_buckets //= 2
    offset = num_buckets if distance > 0 else 0
    distance = abs(distance)
  else:
    distance = max(-distance, 0)
  exact = num_buckets // 2
  wide = num_buckets - exact
  if distance < exact:
    return offset + distance
  # The largest j below `wide` with (d / e)^wide >= (max / e)^j.
  j = 0
  while j + 1 < wide and (
    distance**wide * exact ** (j + 1) >= max_distance ** (j + 1) * exact**wide
  ):
    j += 1
  return offset + exact + j


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_equal_integer_arithmetic(bidirectional):
  distances = np.arange(-1100, 1101)
  buckets = position_bias.relative_position_bucket(
    distances,
    bidirectional=bidirectional,
    num_buckets=32,
    max_distance=128,
  )
  expected = [exact_bucket(int(d), bidirectional) for d in distances]
  np.testing.assert_array_equal(buckets, expected)
  assert buckets.dtype == np.int32


def test_bias_table_has_a_column_for_each_distance():
  table = random(3, 32)
  biases = position_bias.RelativePositionBiases(num_heads=3)
  for bidirectional in (True, False):
    buckets = position_bias.distance_buckets(20, bidirectional=bidirectional)
    found = biases.apply({"params": {"rel_embedding": table}}, buckets)
    assert found.shape == (3, 39)
    for d in range(-19, 20):
      bucket = exact_bucket(d, bidirectional)
      np.testing.assert_array_equal(found[:, 19 + d], table[:, bucket])


@pytest.mark.parametrize("length", [1, 9, 40, 300])
def test_bias_by_comparison_is_the_bias_by_index(length):
  buckets = position_bias.distance_buckets(length, bidirectional=True)
  table = position_bias.RelativePositionBiases(HEADS).apply(
    {"params": {"rel_embedding": jnp.asarray(random(HEADS, 32))}}, buckets
  )
  rng = np.random.default_rng(length)
  k = min(length, 50)
  rows = [rng.permutation(length)[:k] for _ in range(3)]
  positions = jnp.asarray(np.stack(rows), jnp.int32)
  expected = position_bias.from_table(
    table, positions, positions, bidirectional=True
  )
  distance = positions[:, None, :] - positions[:, :, None]
  edges = position_bias.bucket_edges(length)
  found = position_bias.by_comparison(table, distance, edges)
  np.testing.assert_array_equal(found, expected)

  weights = random(3, HEADS, k, k)
  gradient, expected_gradient = (
    jax.grad(lambda table, f=f: (f(table) * weights).sum())(table)
    for f in (
      lambda table: position_bias.by_comparison(table, distance, edges),
      lambda table: position_bias.from_table(
        table, positions, positions, bidirectional=True
      ),
    )
  )
  # The table's columns of a bucket are one parameter.
  embed = lambda g: jax.vjp(
    lambda p: position_bias.RelativePositionBiases(HEADS).apply(
      {"params": {"rel_embedding": p}}, buckets
    ),
    jnp.asarray(random(HEADS, 32)),
  )[1](g)[0]
  np.testing.assert_allclose(
    embed(gradient), embed(expected_gradient), rtol=1e-4, atol=1e-4
  )


def test_edges_are_where_t5_changes_its_bucket():
  # Raffel et al.: 8 exact distances, then 8 buckets to 128, each 2^0.5 wider.
  wide = [8 * 2 ** (i / 2) for i in range(1, 8)]
  expected = [*range(1, 9), *(int(np.ceil(x)) for x in wide)]
  assert list(position_bias.bucket_edges(512)) == sorted(set(expected))
  assert position_bias.bucket_edges(10) == (1, 2, 3, 4, 5, 6, 7, 8)


def test_bias_is_looked_up_at_the_given_positions():
  length = 7
  table = jnp.asarray(random(HEADS, 2 * length - 1))
  query_positions = np.array([[6, 0, 3], [2, 5, 1]])
  key_positions = np.array([[4, 6], [0, 5]])
  found = position_bias.from_table(
    table, query_positions, key_positions, bidirectional=False
  )
  assert found.shape == (2, HEADS, 3, 2)
  for b, h, i, j in np.ndindex(found.shape):
    distance = key_positions[b, j] - query_positions[b, i]
    assert found[b, h, i, j] == table[h, length - 1 + distance]


def test_a_table_that_is_too_short_is_refused():
  """A cache that was made without its length."""
  positions = np.arange(5)[None, :]
  with pytest.raises(ValueError, match=r"4 positions.* 5 keys.*max_decode_len"):
    position_bias.from_table(
      jnp.zeros((HEADS, 7)), positions[:, :1], positions, bidirectional=False
    )
