"""The conditional adapter layer (CoDA, Lei et al., 2304.04947).

  Y = X + Adapter(X_norm) + m * Z_cond

All n tokens of a sequence go through the light adapter; the k that the router
picks go through the frozen pretrained block as well.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from coda_jax.nn import adapter, config, router

# A copy must not round: TPUs multiply float32 in bfloat16 by default.
_EXACT = jax.lax.Precision.HIGHEST


class Tokens(NamedTuple):
  """Some tokens of each sequence.

  Attributes:
    x: [batch, k, emb_dim].
    norm: `Block.normalize(x)`, the same shape.
    positions: int32 [batch or 1, k], of the tokens in the sequence, in any
      order: routed tokens come with the best score first.
    mask: bool [batch, k], False for padding and empty slots.
  """

  x: Array
  norm: Array
  positions: Array
  mask: Array


class Block(Protocol):
  """The methods that a pretrained block needs, for `CodaLayer` to wrap it.

  Any linen module with these two methods will do: a T5 encoder layer, a ViT
  block. A dense layer of it is `dense`.
  """

  def normalize(self, x: Array) -> Array:
    """The block's first norm: [batch, n, emb_dim] -> the same shape.

    The identity for a block that begins without one (post-norm). It must treat
    each token independently: routed tokens are gathered first, then normalised
    again.
    """

  def delta(
    self,
    tokens: Tokens,
    context: Tokens,
    *,
    everything: Tokens,
    deterministic: bool,
    **inputs: Any,
  ) -> Array:
    """The change that the block makes to its input: attention and MLP together.

    Args:
      tokens: k of them, to process.
      context: m of them, to attend to.
      everything: all n tokens of the sequence, in order, for a block that
        looks at neighbours. Without routing all three are the same object.
      deterministic: turns dropout off.
      **inputs: the caller's further arguments to `CodaLayer`.

    Returns:
      [batch, k, emb_dim], without the residual `tokens.x`.
    """


def all_tokens(block: Block, x: Array, mask: Array) -> Tokens:
  """The tokens of whole sequences: [batch, n, emb_dim], bool [batch, n]."""
  positions = jnp.arange(x.shape[1])[None, :]
  return Tokens(x, block.normalize(x), positions, mask)


def dense(
  block: Block, x: Array, mask: Array, deterministic: bool, **inputs: Any
) -> Array:
  """The plain layer, without adapter and router.

  Args:
    block: bound.
    x: [batch, n, emb_dim].
    mask: bool [batch, n], True for real tokens.
    deterministic: turns dropout off.
    **inputs: further arguments of `Block.delta`.

  Returns:
    The new tokens, [batch, n, emb_dim].
  """
  tokens = all_tokens(block, x, mask)
  return x + block.delta(
    tokens, tokens, everything=tokens, deterministic=deterministic, **inputs
  )


def gather(x: Array, indices: Array) -> Array:
  """Takes tokens by index: [batch, n, d], int [batch, k] -> [batch, k, d]."""
  return jnp.take_along_axis(
    x, indices[..., None], axis=1, mode="promise_in_bounds"
  )


def gather_one_hot(x: Array, indices: Array) -> Array:
  """`gather` as a matrix product, faster where gathers are slow."""
  one_hot = jax.nn.one_hot(indices, x.shape[1], dtype=x.dtype)
  return jnp.einsum("bkn,bnd->bkd", one_hot, x, precision=_EXACT)


def scatter(z: Array, indices: Array, length: int) -> Array:
  """Puts tokens back: [batch, k, d], int [batch, k] -> [batch, length, d].

  Positions that no index names get zeros. It gathers, by the slot that each
  position came from, because scatters run row by row on CPUs.
  """
  batch, k, dim = z.shape
  # [batch, k] -> [batch, length]: the slot of each position, k for none.
  # Mapped, not indexed, over the batch, so that XLA can partition it.
  slots = jax.vmap(
    lambda row: (
      jnp.full((length,), k, jnp.int32)
      .at[row]
      .set(
        jnp.arange(k, dtype=jnp.int32),
        mode="promise_in_bounds",
        unique_indices=True,
      )
    )
  )(indices)
  padded = jnp.concatenate([z, jnp.zeros((batch, 1, dim), z.dtype)], axis=1)
  return gather(padded, slots)


def scatter_one_hot(z: Array, indices: Array, length: int) -> Array:
  """`scatter` as a matrix product, faster where scatters are slow."""
  one_hot = jax.nn.one_hot(indices, length, dtype=z.dtype)
  return jnp.einsum("bkn,bkd->bnd", one_hot, z, precision=_EXACT)


def _dispatch(kind: str, by_index, one_hot, *args: Array) -> Array:
  if kind == "gather":
    return by_index(*args)
  if kind == "one_hot":
    return one_hot(*args)
  # Chosen when the computation is lowered: a program that is compiled for a
  # TPU on another machine then takes the TPU's branch.
  return jax.lax.platform_dependent(*args, tpu=one_hot, default=by_index)


class CodaLayer(nn.Module):
  """Makes a pretrained block conditional.

  The block's parameters keep their paths: the layer shares its scope and adds
  `adapter/` and `router/` next to them.

  Attributes:
    block: the pretrained block, see `Block`; unbound (`parent=None`).
    config: adapter, router, attention and dispatch.
    reduction: r of this layer; None takes the config's. With r = 1 every token
      goes through the block with weight 1 and there is no router.
    dtype: dtype of the adapter's computation.
  """

  block: nn.Module
  config: config.CodaConfig
  reduction: float | None = None
  dtype: DTypeLike = jnp.float32

  def setup(self):
    nn.share_scope(self, self.block)
    cfg = self.config
    if cfg.bottleneck_dim:
      self.adapter = adapter.Adapter(
        cfg.bottleneck_dim, self.dtype, cfg.convolution, cfg.adapter_scale
      )
    if self._reduction() > 1:
      self.router = router.Router(cfg, self._reduction())

  def _reduction(self) -> float:
    return self.config.reduction if self.reduction is None else self.reduction

  def __call__(
    self,
    x: Array,
    mask: Array | None = None,
    deterministic: bool = True,
    *,
    selection: router.Selection | None = None,
    **inputs: Any,
  ) -> tuple[Array, router.Selection | None]:
    """Applies the layer.

    Args:
      x: [batch, n, emb_dim].
      mask: bool [batch, n], True for real tokens; all are by default.
      deterministic: turns dropout off.
      selection: the tokens to process, if another layer has chosen them; None
        lets the layer's own router choose.
      **inputs: further arguments of `Block.delta`.

    Returns:
      The new tokens, [batch, n, emb_dim], and the `Selection`, None if r = 1.
    """
    if mask is None:
      mask = jnp.ones(x.shape[:2], bool)
    everything = all_tokens(self.block, x, mask)
    delta = functools.partial(
      self.block.delta,
      everything=everything,
      deterministic=deterministic,
      **inputs,
    )
    if self._reduction() > 1:
      if selection is None:
        selection = self.router(everything.norm, mask)
      y = x + self._routed(everything, selection, delta)
    else:
      selection = None
      y = x + delta(everything, everything)
    if self.config.bottleneck_dim:
      y += self.adapter(everything.norm, mask)
    return y, selection

  def _routed(
    self,
    everything: Tokens,
    selection: router.Selection,
    delta: Callable[[Tokens, Tokens], Array],
  ) -> Array:
    """m * Z_cond: the block's delta at the selected tokens, 0 elsewhere."""
    kind = self.config.dispatch
    x = _dispatch(kind, gather, gather_one_hot, everything.x, selection.indices)
    routed = Tokens(
      x, self.block.normalize(x), selection.indices, selection.mask
    )
    k_to_k = self.config.attention == "k_to_k"
    z = delta(routed, routed if k_to_k else everything)
    z *= selection.weights[..., None].astype(z.dtype)
    length = everything.x.shape[1]
    return _dispatch(
      kind,
      functools.partial(scatter, length=length),
      functools.partial(scatter_one_hot, length=length),
      z,
      selection.indices,
    )
