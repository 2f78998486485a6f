"""The conditional adapter layer (CoDA, Lei et al., 2304.04947).

  Y = X + Adapter(X_norm) + m * Z_cond

All n tokens of a sequence go through the light adapter; the k that the router
picks go through the frozen pretrained block as well.
"""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike

from coda_jax.nn import adapter, config, router

# A copy must not round: TPUs multiply float32 in bfloat16 by default.
_EXACT = jax.lax.Precision.HIGHEST


class Block(Protocol):
  """The methods that a pretrained block needs, for `CodaLayer` to wrap it.

  Any linen module with these two methods will do: a T5 encoder layer, a ViT
  block. Its `__call__`, if it has one, is `x + delta(x, norm(x), ...)`.
  """

  def normalize(self, x: Array) -> Array:
    """The block's first norm: [batch, n, emb_dim] -> the same shape.

    Must treat each token independently: routed tokens are gathered first, then
    normalised again.
    """

  def delta(
    self,
    x: Array,
    x_norm: Array,
    context: Array,
    *,
    positions: Array,
    context_positions: Array,
    mask: Array,
    deterministic: bool,
    **inputs: Any,
  ) -> Array:
    """The change that the block makes to its input: attention and MLP together.

    Args:
      x: [batch, k, emb_dim], the tokens to process.
      x_norm: `normalize(x)`.
      context: [batch, m, emb_dim], the normalised tokens to attend to.
      positions: int32 [batch or 1, k], of `x` in the sequence.
      context_positions: int32 [batch or 1, m], of `context` in the sequence.
      mask: bool, broadcasts against [batch, heads, k, m].
      deterministic: turns dropout off.
      **inputs: the caller's further arguments to `CodaLayer`.

    Returns:
      [batch, k, emb_dim], without the residual `x`.
    """


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
      self.adapter = adapter.Adapter(cfg.bottleneck_dim, self.dtype)
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
    attention_mask: Array | None = None,
    **inputs: Any,
  ) -> tuple[Array, router.Selection | None]:
    """Applies the layer.

    Args:
      x: [batch, n, emb_dim].
      mask: bool [batch, n], True for real tokens; all are by default.
      deterministic: turns dropout off.
      attention_mask: bool, broadcasts against [batch, heads, n, n]; replaces
        `mask` among the keys of a layer that is not routed (packed sequences).
      **inputs: arrays that are passed on to the block.

    Returns:
      The new tokens, [batch, n, emb_dim], and the `Selection`, None if r = 1.
    """
    if mask is None:
      mask = jnp.ones(x.shape[:2], bool)
    x_norm = self.block.normalize(x)
    process = functools.partial(
      self.block.delta, deterministic=deterministic, **inputs
    )
    if self._reduction() > 1:
      selection = self.router(x_norm, mask)
      y = x + self._routed(x, x_norm, mask, selection, process)
    else:
      selection = None
      positions = jnp.arange(x.shape[1])[None, :]
      if attention_mask is None:
        attention_mask = mask[:, None, None, :]
      y = x + process(
        x,
        x_norm,
        x_norm,
        positions=positions,
        context_positions=positions,
        mask=attention_mask,
      )
    if self.config.bottleneck_dim:
      y += self.adapter(x_norm)
    return y, selection

  def _routed(self, x, x_norm, mask, selection, process) -> Array:
    """m * Z_cond: the block's delta at the selected tokens, 0 elsewhere."""
    kind = self.config.dispatch
    take = functools.partial(_dispatch, kind, gather, gather_one_hot)
    x_routed = take(x, selection.indices)
    x_norm_routed = self.block.normalize(x_routed)
    if self.config.attention == "k_to_k":
      context, context_mask = x_norm_routed, selection.mask
      context_positions = selection.indices
    else:
      context, context_mask = x_norm, mask
      context_positions = jnp.arange(x.shape[1])[None, :]
    z = process(
      x_routed,
      x_norm_routed,
      context,
      positions=selection.indices,
      context_positions=context_positions,
      mask=context_mask[:, None, None, :],
    )
    z *= selection.weights[..., None].astype(z.dtype)
    length = x.shape[1]
    return _dispatch(
      kind,
      functools.partial(scatter, length=length),
      functools.partial(scatter_one_hot, length=length),
      z,
      selection.indices,
    )
