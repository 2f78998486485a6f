"""Multi-head attention, by default in T5's way: unscaled and without biases."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jax import Array
from jax.typing import DTypeLike

from coda_jax.nn import config, layers
from coda_jax.nn.dot_product import dot_product_attention

# The bias of attention's logits, [batch or 1, heads, q, k]: of the positions of
# queries and keys, int32 [batch or 1, q] and [batch or 1, k].
PositionBias = Callable[[Array, Array], Array]


class MultiHeadDotProductAttention(nn.Module):
  """Attention with query, key, value and out projections and a decode cache.

  Attributes:
    num_heads: number of heads.
    head_dim: size of each.
    scale: of the logits; T5 has 1, most others 1 / sqrt(head_dim).
    use_bias: see `layers.DenseGeneral`.
    dropout_rate: dropout of the attention weights.
    broadcast_dropout: drop the same weights for all queries, as T5 does.
    lora: see `layers.DenseGeneral`.
    dtype: dtype of the computation; logits and softmax are float32.
  """

  num_heads: int
  head_dim: int
  scale: float = 1.0
  use_bias: bool = False
  dropout_rate: float = 0.0
  broadcast_dropout: bool = True
  lora: config.LoraConfig | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    inputs_q: Array,
    inputs_kv: Array,
    mask: Array | None = None,
    *,
    position_bias: PositionBias | None = None,
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
      position_bias: added to the logits, see `PositionBias`.
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
      use_bias=self.use_bias,
      lora=self.lora,
      dtype=self.dtype,
    )
    # The initializer holds what `scale` lacks of 1 / sqrt(head_dim): all of it
    # in T5, which does not scale the logits.
    query_init = nn.initializers.variance_scaling(
      1.0 / (self.head_dim * self.scale**2), "fan_in", "normal"
    )
    attention_init = layers.attention_init
    query = project(kernel_init=query_init, name="query")(inputs_q)
    if self.scale != 1:
      # In float32: bfloat16 would round the scale itself.
      scaled = query.astype(jnp.float32) * self.scale
      query = scaled.astype(query.dtype)
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
    if position_bias is not None:
      if query_positions is None:
        query_positions = jnp.arange(query.shape[2])[None, :]
      if key_positions is None:
        key_positions = jnp.arange(key.shape[2])[None, :]
      bias = position_bias(query_positions, key_positions)

    x = dot_product_attention(
      query,
      key,
      value,
      mask,
      bias,
      nn.Dropout(
        self.dropout_rate,
        broadcast_dims=(-2,) if self.broadcast_dropout else (),
      ),
      deterministic,
    )
    # [batch, heads, q, head_dim] -> [batch, q, emb_dim]
    x = jnp.swapaxes(x, 1, 2)
    return layers.DenseGeneral(
      inputs_q.shape[-1],
      ("joined_kv", "embed"),
      attention_init,
      num_axes=2,
      use_bias=self.use_bias,
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
