"""T5's building blocks, with t5x's parameter names and logical axes.

Parameters are float32 and cast to `dtype` where they are used.
"""

import functools
import math
import operator
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import partitioning
from jax import Array
from jax.typing import DTypeLike

from coda_jax.nn import adapter, config, products, sharding

Initializer = nn.initializers.Initializer

mlp_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class RMSNorm(nn.Module):
  """T5's layer norm: scale only, no mean, computed in float32.

  Attributes:
    epsilon: added to the mean square.
    dtype: dtype of the result.
  """

  epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., features] -> [..., features] of mean square 1, times the scale."""
    scale = partitioning.param_with_axes(
      "scale",
      nn.initializers.ones,
      (x.shape[-1],),
      jnp.float32,
      axes=("embed",),
    )
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(mean_square + self.epsilon)
    scale = jnp.expand_dims(scale.astype(jnp.float32), range(x.ndim - 1))
    return sharding.constrain((x * scale).astype(self.dtype), "embed")


class DenseGeneral(nn.Module):
  """Linear map of the last axes, without bias, LoRA delta included.

  Attributes:
    features: size of the output.
    kernel_axes: logical axes of the `kernel`, [inputs, features].
    kernel_init: its initializer.
    num_axes: how many of the last axes are mapped, as one; 2 for heads.
    lora: adds a low-rank delta when this module's name is among its targets.
    dtype: dtype of the computation.
  """

  features: int
  kernel_axes: tuple[str, str]
  kernel_init: Initializer = mlp_init
  num_axes: int = 1
  lora: config.LoraConfig | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., inputs], or two such axes, -> [..., features]."""
    mapped = x.shape[x.ndim - self.num_axes :]
    inputs = math.prod(mapped)
    kernel = partitioning.param_with_axes(
      "kernel",
      self.kernel_init,
      (inputs, self.features),
      jnp.float32,
      axes=self.kernel_axes,
    )
    # Axes that are not joined first need no copy of `x` on a TPU.
    kernel = kernel.reshape(*mapped, self.features)
    y = products.product(x, kernel, self.dtype, self.num_axes)
    if self.lora is not None and self.name in self.lora.targets:
      y += adapter.Lora(
        self.lora, self.features, self.kernel_axes, self.dtype, name="lora"
      )(x.reshape(*x.shape[: x.ndim - self.num_axes], inputs))
    return sharding.constrain(y, self.kernel_axes[1])


class MlpBlock(nn.Module):
  """Feed-forward block: wo(dropout(product of the activated wi)).

  Attributes:
    intermediate_dim: inner width.
    activations: one for T5 1.0, ("relu",); two for the gated T5 1.1,
      ("gelu", "linear"). Names of `flax.linen`, or "linear".
    dropout_rate: dropout of the inner activations, broadcast along length.
    lora: see `DenseGeneral`.
    dtype: dtype of the computation.
  """

  intermediate_dim: int
  activations: Sequence[str] = ("relu",)
  dropout_rate: float = 0.0
  lora: config.LoraConfig | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, deterministic: bool = True) -> Array:
    """[batch, length, emb_dim] -> [batch, length, emb_dim]."""
    dense = functools.partial(DenseGeneral, lora=self.lora, dtype=self.dtype)
    activated = []
    for i, activation in enumerate(self.activations):
      name = "wi" if len(self.activations) == 1 else f"wi_{i}"
      h = dense(self.intermediate_dim, ("embed", "mlp"), name=name)(x)
      if activation != "linear":
        h = getattr(nn, activation)(h)
      activated.append(h)
    h = functools.reduce(operator.mul, activated)
    h = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
      h, deterministic=deterministic
    )
    h = sharding.constrain(h, "mlp")
    return dense(x.shape[-1], ("mlp", "embed"), name="wo")(h)


class Embed(nn.Module):
  """Token embedding, also used transposed for tied logits.

  Attributes:
    num_embeddings: size of the vocabulary.
    features: size of an embedding.
    dtype: dtype of the embedded tokens.
  """

  num_embeddings: int
  features: int
  dtype: DTypeLike = jnp.float32

  def setup(self):
    self.embedding = partitioning.param_with_axes(
      "embedding",
      nn.initializers.normal(stddev=1.0),
      (self.num_embeddings, self.features),
      jnp.float32,
      axes=("vocab", "embed"),
    )

  def __call__(self, tokens: Array) -> Array:
    """[batch, length] integers -> [batch, length, features]."""
    # t5x initialises its models with tokens that are floating point.
    tokens = tokens.astype(jnp.int32)
    x = jnp.take(self.embedding, tokens, axis=0, mode="clip")
    return sharding.constrain(x.astype(self.dtype), "embed")

  def attend(self, x: Array) -> Array:
    """[..., features] -> float32 [..., num_embeddings]: x embedding^T."""
    return products.product(x, self.embedding.T, jnp.float32)


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
    their own tokens up in it (`attention.bias_from_table`).

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
