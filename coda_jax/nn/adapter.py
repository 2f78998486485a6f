"""Light modules next to the frozen ones: bottleneck adapter and LoRA.

Each computes its delta only; the layer that owns it does the addition.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jax import Array
from jax.typing import DTypeLike

from coda_jax.nn import config, products, sharding

_fan_in_init = nn.initializers.variance_scaling(
  1.0, "fan_in", "truncated_normal"
)


class Factor(nn.Module):
  """One matrix of a low-rank pair, without bias.

  Attributes:
    features: size of the output.
    kernel_init: initializer of the `kernel`, [inputs, features].
    kernel_axes: its logical axes.
    dtype: dtype of the computation; parameters are float32.
  """

  features: int
  kernel_init: nn.initializers.Initializer
  kernel_axes: tuple[str, str]
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    kernel = partitioning.param_with_axes(
      "kernel",
      self.kernel_init,
      (x.shape[-1], self.features),
      jnp.float32,
      axes=self.kernel_axes,
    )
    y = products.product(x, kernel, self.dtype)
    return sharding.constrain(y, self.kernel_axes[1])


class DepthwiseConvolution(nn.Module):
  """A sum of neighbours, weighted for each feature by itself.

  Written as shifts: a few multiplications a token, which compilers fuse, where
  a convolution of a library would be called for each feature.

  Attributes:
    width: how many neighbours, the token itself included.
    dtype: dtype of the computation; parameters are float32.
  """

  width: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array, mask: Array) -> Array:
    """[batch, n, features], bool [batch, n] -> the same shape as `x`.

    Padding counts as zeros.
    """
    kernel = partitioning.param_with_axes(
      "kernel",
      nn.initializers.normal(stddev=self.width**-0.5),
      (self.width, x.shape[-1]),
      jnp.float32,
      axes=("convolution", "mlp"),
    ).astype(self.dtype)
    length, before = x.shape[1], self.width // 2
    x = jnp.where(mask[..., None], x, 0)
    x = jnp.pad(x, ((0, 0), (before, self.width - 1 - before), (0, 0)))
    shifted = (
      x[:, i : i + length] * kernel[None, None, i] for i in range(self.width)
    )
    return functools.reduce(operator.add, shifted)


class Adapter(nn.Module):
  """Parallel bottleneck adapter: scale * up(relu(down(x))).

  With a convolution it is scale * up(relu(h + convolution(h))), h = down(x).
  `up` starts at zero, so that a fresh adapter changes nothing. No biases, as
  everywhere in T5.

  Attributes:
    bottleneck_dim: inner width.
    dtype: dtype of the computation; parameters are float32.
    convolution: see `CodaConfig`.
    scale: see `CodaConfig.adapter_scale`.
  """

  bottleneck_dim: int
  dtype: DTypeLike = jnp.float32
  convolution: int = 0
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    """Computes the delta of normalised tokens.

    Args:
      x: [batch, length, emb_dim].
      mask: bool [batch, length], False for padding; for the convolution.

    Returns:
      The same shape as `x`.
    """
    hidden = Factor(
      self.bottleneck_dim,
      _fan_in_init,
      ("embed", "mlp"),
      self.dtype,
      name="down",
    )(x)
    if self.convolution:
      hidden += DepthwiseConvolution(
        self.convolution, self.dtype, name="convolution"
      )(hidden, mask)
    delta = Factor(
      x.shape[-1],
      nn.initializers.zeros,
      ("mlp", "embed"),
      self.dtype,
      name="up",
    )(jax.nn.relu(hidden))
    return delta if self.scale == 1 else delta * self.scale


class Lora(nn.Module):
  """Low-rank delta of one projection: (alpha / rank) b(a(x)), b zero at first.

  Attributes:
    config: rank and scale.
    features: output size of the projection.
    kernel_axes: logical axes of the projection's own kernel.
    dtype: dtype of the computation; parameters are float32.
  """

  config: config.LoraConfig
  features: int
  kernel_axes: tuple[str, str]
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """[..., inputs] -> [..., features]."""
    # The rank's axis has a name, since t5x's Adafactor looks each of them up,
    # but no mesh axis: it is too small to be sharded.
    inputs_axis, features_axis = self.kernel_axes
    hidden = Factor(
      self.config.rank,
      _fan_in_init,
      (inputs_axis, "lora_rank"),
      self.dtype,
      name="a",
    )(x)
    delta = Factor(
      self.features,
      nn.initializers.zeros,
      ("lora_rank", features_axis),
      self.dtype,
      name="b",
    )(hidden)
    return delta * (self.config.alpha / self.config.rank)
