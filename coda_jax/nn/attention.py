"""Multi-head attention in T5's way: no scaling, relative position bias."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from coda_jax.nn import config, layers

# Finite: a row whose keys are all masked then averages them, without NaN.
_MASKED = -1e10

# Columns of a TPU's matrix unit.
_TPU_COLUMNS = 128

# The most logits that fit in a CPU's cache: 32 MiB of float32.
_LOGITS_IN_CACHE = 2**23

# Queries per block, when the logits exceed the cache.
_QUERY_BLOCK = 128


def bias_from_table(
  table: Array,
  query_positions: Array,
  key_positions: Array,
  edges: Sequence[int] | None = None,
) -> Array:
  """Looks up the relative position bias of queries and keys at any positions.

  Args:
    table: [num_heads, 2 * length - 1], of `layers.RelativePositionBiases`.
    query_positions: integers [batch or 1, q] in [0, length).
    key_positions: integers [batch or 1, k] in [0, length).
    edges: `layers.bucket_edges(length)`, if the table is bidirectional. TPUs
      then compute the same bias without gathers, which are slow there.

  Returns:
    [batch or 1, num_heads, q, k], the dtype of `table`.
  """
  distance = key_positions[:, None, :] - query_positions[:, :, None]
  if edges is None:
    return _bias_by_index(table, distance)
  return jax.lax.platform_dependent(
    table,
    distance,
    tpu=functools.partial(bias_by_comparison, edges=edges),
    default=_bias_by_index,
  )


def _bias_by_index(table: Array, distance: Array) -> Array:
  column = distance + table.shape[1] // 2
  bias = table.at[:, column].get(mode="promise_in_bounds")
  return jnp.moveaxis(bias, 0, 1)


def bias_by_comparison(
  table: Array, distance: Array, edges: Sequence[int]
) -> Array:
  """The bias of distances, by comparing them with the edges of the buckets.

  A TPU has no fast gather: it would write all of [batch, heads, q, k] to
  memory. Comparisons fuse into the operation that uses the bias.

  Args:
    table: [num_heads, 2 * length - 1].
    distance: integers [batch, q, k] in (-length, length).
    edges: of `layers.bucket_edges(length)`.

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


def dot_product_attention(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  bias: Array | None = None,
  dropout: nn.Dropout | None = None,
  deterministic: bool = True,
) -> Array:
  """softmax(query key^T + bias) value, unscaled; the softmax in float32.

  Heads come before length, the layout that matrix products read directly.

  Args:
    query: [batch, heads, q, head_dim].
    key: [batch, heads, k, head_dim].
    value: [batch, heads, k, head_dim].
    mask: bool, broadcasts against [batch, heads, q, k]; True may be attended.
    bias: broadcasts against [batch, heads, q, k].
    dropout: applied to the attention weights.
    deterministic: turns dropout off.

  Returns:
    [batch, heads, q, head_dim], the dtype of `value`.
  """
  if dropout is not None and not deterministic:
    weights = _weights(query, key, mask, bias)
    dropped = dropout(weights, deterministic=False)
    x = _average(dropped, value, weights.sum(axis=-1, keepdims=True))
    return x.astype(value.dtype)
  by_platform = {
    "tpu": functools.partial(_attend, average=average_on_tpu),
    "default": _attend,
  }
  # A program that is exported may have a batch of any size.
  sizes = [*query.shape[:3], key.shape[2]]
  num_logits = math.prod(size for size in sizes if isinstance(size, int))
  if num_logits > _LOGITS_IN_CACHE and query.shape[2] > _QUERY_BLOCK:
    by_platform["cpu"] = attend_in_blocks
  return jax.lax.platform_dependent(
    query, key, value, mask, bias, **by_platform
  )


@jax.custom_vjp
def attend_in_blocks(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None = None,
  bias: Array | None = None,
) -> Array:
  """`dot_product_attention` in blocks of queries, for CPUs.

  Logits and weights then stay in the processor's cache. Under differentiation
  it runs in one block: the backward pass needs all weights.
  """
  whole = query.shape[2] // _QUERY_BLOCK * _QUERY_BLOCK

  def attend(start: ArrayLike, size: int) -> Array:
    rows = functools.partial(
      jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size, axis=2
    )
    mask_rows, bias_rows = (
      rows(x) if x is not None and x.shape[2] > 1 else x for x in (mask, bias)
    )
    return _attend(rows(query), key, value, mask_rows, bias_rows)

  # [blocks, batch, heads, block, head_dim]
  blocks = jax.lax.map(
    lambda start: attend(start, _QUERY_BLOCK),
    jnp.arange(0, whole, _QUERY_BLOCK),
  )
  x = jnp.moveaxis(blocks, 0, 2)
  x = x.reshape(*query.shape[:2], whole, value.shape[-1])
  if rest := query.shape[2] - whole:
    x = jnp.concatenate([x, attend(whole, rest)], axis=2)
  return x


def _weights(
  query: Array, key: Array, mask: Array | None, bias: Array | None
) -> Array:
  """Float32 [batch, heads, q, k], not normalised."""
  logits = jnp.einsum(
    "bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32
  )
  if bias is not None:
    logits += bias.astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, _MASKED)
  peak = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
  return jnp.exp(logits - peak)


def _average(weights: Array, value: Array, total: Array | None = None) -> Array:
  """Float32 [batch, heads, q, k] and [batch, heads, k, d] -> [..., q, d].

  Divides after the sum over the keys: [q, head_dim] numbers, not [q, k].
  """
  if total is None:
    total = weights.sum(axis=-1, keepdims=True)
  return _weighted_sum(weights, value) / total


def average_on_tpu(weights: Array, value: Array) -> Array:
  """The average of values, without a separate pass to sum the weights.

  With many keys, a column of ones next to the values sums the weights: a matrix
  unit has 128 columns, and heads are smaller. With few keys it is cheaper to
  divide the weights, which fuses into their product. The choice follows the
  compiler's estimates for v5e.

  Args:
    weights: float32 [batch, heads, q, k], not normalised.
    value: [batch, heads, k, head_dim].

  Returns:
    float32 [batch, heads, q, head_dim].
  """
  if weights.shape[-1] <= _TPU_COLUMNS:
    return _weighted_sum(weights / weights.sum(axis=-1, keepdims=True), value)
  ones = jnp.ones((*value.shape[:-1], 1), value.dtype)
  x = _weighted_sum(weights, jnp.concatenate([value, ones], axis=-1))
  return x[..., :-1] / x[..., -1:]


def _weighted_sum(weights: Array, value: Array) -> Array:
  return jnp.einsum(
    "bhqk,bhkd->bhqd",
    weights.astype(value.dtype),
    value,
    preferred_element_type=jnp.float32,
  )


def _attend(
  query: Array,
  key: Array,
  value: Array,
  mask: Array | None,
  bias: Array | None,
  average: Callable[[Array, Array], Array] = _average,
) -> Array:
  x = average(_weights(query, key, mask, bias), value)
  return x.astype(value.dtype)


attend_in_blocks.defvjp(
  lambda *inputs: jax.vjp(_attend, *inputs),
  lambda pull_back, gradient: pull_back(gradient),
)


class MultiHeadDotProductAttention(nn.Module):
  """Attention with query, key, value and out projections and a decode cache.

  Attributes:
    num_heads: number of heads.
    head_dim: size of each.
    dropout_rate: dropout of the attention weights, broadcast over queries.
    lora: see `layers.DenseGeneral`.
    dtype: dtype of the computation; logits and softmax are float32.
  """

  num_heads: int
  head_dim: int
  dropout_rate: float = 0.0
  lora: config.LoraConfig | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    inputs_q: Array,
    inputs_kv: Array,
    mask: Array | None = None,
    *,
    bias_table: Array | None = None,
    bias_edges: Sequence[int] | None = None,
    query_positions: Array | None = None,
    key_positions: Array | None = None,
    decode: bool = False,
    keep_kv: bool = False,
    deterministic: bool = True,
  ) -> Array:
    """Attends from `inputs_q` to `inputs_kv`.

    Args:
      inputs_q: [batch, q, emb_dim].
      inputs_kv: [batch, k, emb_dim].
      mask: bool, broadcasts against [batch, heads, q, k].
      bias_table: relative position bias, see `bias_from_table`.
      bias_edges: its `edges`.
      query_positions: [batch or 1, q]; by default 0, 1, 2, ...
      key_positions: [batch or 1, k]; by default 0, 1, 2, ...
      decode: keep keys and values in the "cache" collection. The first call,
        at full length, makes the cache; each later call adds one token.
      keep_kv: put keys and values into the "encoded_kv" collection if it is
        mutable, and read them from it in later calls. The batch of `inputs_q`
        may then be a multiple of theirs: rows that share keys, such as the
        beams of one input, stand next to each other.
      deterministic: turns dropout off.

    Returns:
      [batch, q, emb_dim].
    """
    project = functools.partial(
      layers.DenseGeneral,
      self.num_heads * self.head_dim,
      ("embed", "joined_kv"),
      lora=self.lora,
      dtype=self.dtype,
    )
    # T5 does not scale the logits: 1 / sqrt(head_dim) is in the initializer.
    query_init = nn.initializers.variance_scaling(
      1.0 / self.head_dim, "fan_in", "normal"
    )
    attention_init = layers.attention_init
    query = project(kernel_init=query_init, name="query")(inputs_q)
    if keep_kv and self.has_variable("encoded_kv", "encoded_key"):
      key = self.get_variable("encoded_kv", "encoded_key")
      value = self.get_variable("encoded_kv", "encoded_value")
    else:
      key = project(kernel_init=attention_init, name="key")(inputs_kv)
      value = project(kernel_init=attention_init, name="value")(inputs_kv)
      key, value = self._split_heads(key), self._split_heads(value)
    if keep_kv:
      # [batch * beams, q, ...] -> [batch, beams * q, ...]
      query = query.reshape(key.shape[0], -1, query.shape[-1])
      mutable = self.is_mutable_collection("encoded_kv")
      if mutable and not self.is_initializing():
        self.put_variable("encoded_kv", "encoded_key", key)
        self.put_variable("encoded_kv", "encoded_value", value)
    query = self._split_heads(query)

    if decode and self.has_variable("cache", "cached_key"):
      key, value, query_positions = self._append_to_cache(key, value)
      visible = jnp.arange(key.shape[2])[None, :] <= query_positions
      visible = visible[:, None, None, :]
      mask = visible if mask is None else mask & visible
    elif decode:
      self._make_cache(key, value)

    bias = None
    if bias_table is not None:
      if query_positions is None:
        query_positions = jnp.arange(query.shape[2])[None, :]
      if key_positions is None:
        if key.shape[2] > bias_table.shape[1] // 2 + 1:
          raise ValueError(
            f"bias_table is for {bias_table.shape[1] // 2 + 1} positions, but "
            f"there are {key.shape[2]} keys; decoding with a cache needs "
            "max_decode_length, the length of the cache"
          )
        key_positions = jnp.arange(key.shape[2])[None, :]
      bias = bias_from_table(
        bias_table, query_positions, key_positions, bias_edges
      )

    x = dot_product_attention(
      query,
      key,
      value,
      mask,
      bias,
      nn.Dropout(self.dropout_rate, broadcast_dims=(-2,)),
      deterministic,
    )
    # [batch, heads, q, head_dim] -> [batch, q, emb_dim]
    x = jnp.swapaxes(x, 1, 2)
    return layers.DenseGeneral(
      inputs_q.shape[-1],
      ("joined_kv", "embed"),
      attention_init,
      num_axes=2,
      lora=self.lora,
      dtype=self.dtype,
      name="out",
    )(x.reshape(*inputs_q.shape[:-1], self.num_heads, self.head_dim))

  def _split_heads(self, x: Array) -> Array:
    x = x.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
    x = partitioning.with_sharding_constraint(
      x, ("batch", "length", "heads", "kv")
    )
    # [batch, heads, length, head_dim]: the layout in which each step of
    # decoding reads keys and values, without a copy.
    return jnp.swapaxes(x, 1, 2)

  def _make_cache(self, key: Array, value: Array) -> None:
    self.variable("cache", "cached_key", jnp.zeros, key.shape, key.dtype)
    self.variable("cache", "cached_value", jnp.zeros, value.shape, value.dtype)
    self.variable("cache", "cache_index", jnp.zeros, (), jnp.int32)

  def _append_to_cache(
    self, key: Array, value: Array
  ) -> tuple[Array, Array, Array]:
    """Writes one position; returns all keys and values, and its position."""
    if key.shape[2] != 1:
      raise ValueError(
        f"decoding adds one token a step, got {key.shape[2]}; make a new "
        "cache for a new sequence"
      )
    cached_key = self.variable("cache", "cached_key", lambda: None)
    cached_value = self.variable("cache", "cached_value", lambda: None)
    cache_index = self.variable("cache", "cache_index", lambda: None)
    index = cache_index.value
    # [batch, heads, length, head_dim]
    for cached, new in ((cached_key, key), (cached_value, value)):
      cached.value = jax.lax.dynamic_update_slice_in_dim(
        cached.value, new, index, axis=2
      )
    cache_index.value = index + 1
    return cached_key.value, cached_value.value, jnp.full((1, 1), index)
