"""Dot-product attention as pure functions, in the ways that suit each platform.

The softmax is computed in float32.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

# Finite: a row whose keys are all masked then averages them, without NaN.
_MASKED = -1e10

# Columns of a TPU's matrix unit.
_TPU_COLUMNS = 128

# The most logits that fit in a CPU's cache: 32 MiB of float32.
_LOGITS_IN_CACHE = 2**23

# Queries per block, when the logits exceed the cache.
_QUERY_BLOCK = 128


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
