"""T5's relative position bias, of tokens that stand anywhere in a sequence."""

import functools
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning
from jax import Array


def relative_position_bucket(
  distance: np.ndarray,
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> np.ndarray:
  """Maps distances, key position minus query position, to T5's buckets.

  Small distances have a bucket each, larger ones share logarithmically wider
  buckets up to `max_distance` (Raffel et al., 1910.10683, section 2.1).

  Args:
    distance: integers of any shape.
    bidirectional: half of the buckets for keys after the query; otherwise
      those keys fall into bucket 0.
    num_buckets: number of buckets in all.
    max_distance: the distance from which on all share the last bucket.

  Returns:
    int32 buckets in [0, num_buckets), the shape of `distance`.
  """
  bucket = np.zeros(distance.shape, np.int32)
  if bidirectional:
    num_buckets //= 2
    bucket += (distance > 0).astype(np.int32) * num_buckets
    distance = np.abs(distance)
  else:
    distance = np.maximum(-distance, 0)
  exact = num_buckets // 2
  # float32 with its epsilon, as T5 does: the edges of the buckets depend on it.
  ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
  wide = exact + (
    np.log(ratio) / math.log(max_distance / exact) * (num_buckets - exact)
  ).astype(np.int32)
  wide = np.minimum(wide, num_buckets - 1)
  return bucket + np.where(distance < exact, distance, wide).astype(np.int32)


def bucket_edges(length: int) -> tuple[int, ...]:
  """Where the table of bidirectional `RelativePositionBiases` changes.

  Returns:
    The distances in (0, length) whose bucket is another than that of the
    distance before them. Buckets before and after the query mirror each other.
  """
  buckets = relative_position_bucket(
    np.arange(length),
    bidirectional=True,
    num_buckets=RelativePositionBiases.num_buckets,
    max_distance=RelativePositionBiases.max_distance,
  )
  return tuple((np.flatnonzero(np.diff(buckets)) + 1).tolist())


def distance_buckets(length: int, *, bidirectional: bool) -> np.ndarray:
  """The bucket of every distance that occurs among `length` positions.

  Returns:
    int32 [2 * length - 1]; entry length - 1 + d is the bucket of a key d
    positions after the query.
  """
  return relative_position_bucket(
    np.arange(1 - length, length),
    bidirectional=bidirectional,
    num_buckets=RelativePositionBiases.num_buckets,
    max_distance=RelativePositionBiases.max_distance,
  )


class RelativePositionBiases(nn.Module):
  """T5's relative position bias, as a table over distances.

  Attributes:
    num_heads: number of attention heads.
  """

  num_buckets: ClassVar[int] = 32
  max_distance: ClassVar[int] = 128

  num_heads: int

  @nn.compact
  def __call__(self, buckets: Array) -> Array:
    """The bias of every distance.

    A table, not a [length, length] matrix: routed layers look the distances of
    their own tokens up in it (`from_table`).

    Args:
      buckets: int32 [2 * length - 1], see `distance_buckets`.

    Returns:
      float32 [num_heads, 2 * length - 1]; column length - 1 + d is the bias
      of a key d positions after the query.
    """
    embedding = partitioning.param_with_axes(
      "rel_embedding",
      nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
      (self.num_heads, self.num_buckets),
      jnp.float32,
      axes=("heads", "relpos_buckets"),
    )
    return embedding.astype(jnp.float32)[:, buckets]


def from_table(
  table: Array,
  query_positions: Array,
  key_positions: Array,
  *,
  bidirectional: bool,
) -> Array:
  """Looks up the relative position bias of queries and keys at any positions.

  Args:
    table: [num_heads, 2 * length - 1], see `RelativePositionBiases`.
    query_positions: integers [batch or 1, q] in [0, length).
    key_positions: integers [batch or 1, k] in [0, length).
    bidirectional: of the table. TPUs then compute the same bias without
      gathers, which are slow there.

  Returns:
    [batch or 1, num_heads, q, k], the dtype of `table`.

  Raises:
    ValueError: there are more keys than the table has positions.
  """
  length = table.shape[1] // 2 + 1
  if key_positions.shape[1] > length:
    raise ValueError(
      f"the position bias is for {length} positions, but there are "
      f"{key_positions.shape[1]} keys; decoding with a cache needs "
      "max_decode_length, the length of the cache"
    )
  distance = key_positions[:, None, :] - query_positions[:, :, None]
  if not bidirectional:
    return _by_index(table, distance)
  return jax.lax.platform_dependent(
    table,
    distance,
    tpu=functools.partial(by_comparison, edges=bucket_edges(length)),
    default=_by_index,
  )


def _by_index(table: Array, distance: Array) -> Array:
  column = distance + table.shape[1] // 2
  bias = table.at[:, column].get(mode="promise_in_bounds")
  return jnp.moveaxis(bias, 0, 1)


def by_comparison(table: Array, distance: Array, edges: Sequence[int]) -> Array:
  """The bias of distances, by comparing them with the edges of the buckets.

  A TPU has no fast gather: it would write all of [batch, heads, q, k] to
  memory. Comparisons fuse into the operation that uses the bias.

  Args:
    table: [num_heads, 2 * length - 1].
    distance: integers [batch, q, k] in (-length, length).
    edges: see `bucket_edges`.

  Returns:
    [batch, num_heads, q, k], the dtype of `table`.
  """
  zero = table.shape[1] // 2
  distance = distance[:, None]
  far = jnp.abs(distance)
  after = before = table[None, :, zero, None, None]
  for edge in edges:
    is_beyond = far >= edge
    after = jnp.where(is_beyond, table[None, :, zero + edge, None, None], after)
    before = jnp.where(
      is_beyond, table[None, :, zero - edge, None, None], before
    )
  return jnp.where(distance > 0, after, before)
