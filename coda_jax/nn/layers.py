"""The building blocks of T5 and BERT, with t5x's names of parameters and axes.

Parameters are float32 and cast to `dtype` where they are used.
"""

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jax import Array
from jax.typing import DTypeLike

from coda_jax.nn import adapter, config, products, sharding

Initializer = nn.initializers.Initializer

mlp_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")

# Activations that flax.linen has no name for. Its "gelu" is the approximation
# by tanh, which T5 has; BERT has the exact one.
_ACTIVATIONS = {
  "linear": lambda x: x,
  "gelu_erf": functools.partial(nn.gelu, approximate=False),
}


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


class LayerNorm(nn.Module):
  """Layer norm with scale and bias, computed in float32.

  Attributes:
    epsilon: added to the variance.
    dtype: dtype of the result.
  """

  epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., features] -> [..., features]: mean 0, variance 1, then affine."""
    scale, bias = (
      partitioning.param_with_axes(
        name, init, (x.shape[-1],), jnp.float32, axes=("embed",)
      )
      for name, init in (
        ("scale", nn.initializers.ones),
        ("bias", nn.initializers.zeros),
      )
    )
    x = x.astype(jnp.float32)
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    x = x * jax.lax.rsqrt(variance + self.epsilon)
    x = x * _broadcast(scale, x) + _broadcast(bias, x)
    return sharding.constrain(x.astype(self.dtype), "embed")


def _broadcast(features: Array, x: Array) -> Array:
  """[features] with the number of axes and the dtype of `x`."""
  return jnp.expand_dims(features.astype(x.dtype), range(x.ndim - 1))


class DenseGeneral(nn.Module):
  """Linear map of the last axes, LoRA delta included.

  Attributes:
    features: size of the output.
    kernel_axes: logical axes of the `kernel`, [inputs, features].
    kernel_init: its initializer.
    num_axes: how many of the last axes are mapped, as one; 2 for heads.
    use_bias: adds a `bias`, [features]; T5 has none.
    lora: adds a low-rank delta when this module's name is among its targets.
    dtype: dtype of the computation.
  """

  features: int
  kernel_axes: tuple[str, str]
  kernel_init: Initializer = mlp_init
  num_axes: int = 1
  use_bias: bool = False
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
    if self.use_bias:
      bias = partitioning.param_with_axes(
        "bias",
        nn.initializers.zeros,
        (self.features,),
        jnp.float32,
        axes=self.kernel_axes[1:],
      )
      y += _broadcast(bias, y)
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
      ("gelu", "linear"). Names of `flax.linen`, where "gelu" is approximated by
      tanh; or "linear", or "gelu_erf", which is exact.
    dropout_rate: dropout of the inner activations, broadcast along length.
    use_bias: see `DenseGeneral`.
    lora: see `DenseGeneral`.
    dtype: dtype of the computation.
  """

  intermediate_dim: int
  activations: Sequence[str] = ("relu",)
  dropout_rate: float = 0.0
  use_bias: bool = False
  lora: config.LoraConfig | None = None
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, deterministic: bool = True) -> Array:
    """[batch, length, emb_dim] -> [batch, length, emb_dim]."""
    dense = functools.partial(
      DenseGeneral, use_bias=self.use_bias, lora=self.lora, dtype=self.dtype
    )
    activated = []
    for i, activation in enumerate(self.activations):
      name = "wi" if len(self.activations) == 1 else f"wi_{i}"
      h = dense(self.intermediate_dim, ("embed", "mlp"), name=name)(x)
      function = _ACTIVATIONS.get(activation) or getattr(nn, activation)
      activated.append(function(h))
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
