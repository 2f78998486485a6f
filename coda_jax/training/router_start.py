"""A start for routers, from what the dense layers do to each token.

A router that starts at random learns to pick more of what its start happened to
pick. This start picks the tokens that would lose most if they skipped the
layers. A token's loss is the part of the layers' change that no linear map of
the router's input gives, since an adapter can learn such a map. The kernel is
the least-squares fit of the log of that loss, on the tokens of a few batches.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax import backbones
from coda_jax.nn.config import Conditional
from coda_jax.objectives import Batch, teacher

# Times the mean variance of an input, added to the variance of all of them.
_RIDGE = 1e-2
_EXACT = jax.lax.Precision.HIGHEST


class Place(NamedTuple):
  """A router, and the layers that it chooses tokens for.

  Attributes:
    path: of its kernel.
    layers: their numbers, the router's own first.
  """

  path: str
  layers: tuple[int, ...]


class Tokens(NamedTuple):
  """What a router sees of some tokens, and what its layers do to them.

  Attributes:
    x: float32 [batch, length, emb_dim], the router's input.
    change: float32 [batch, length, emb_dim].
    weight: float32 [batch, length], 0 for padding.
  """

  x: Array
  change: Array
  weight: Array


class Moments(NamedTuple):
  """Sums over tokens, of which a regression of y on x is made."""

  count: Array
  x: Array
  y: Array
  xx: Array
  xy: Array


class Fit(NamedTuple):
  """A linear map: (x - x_mean) @ kernel + y_mean."""

  kernel: Array
  x_mean: Array
  y_mean: Array


def places(config: Conditional) -> list[Place]:
  """The routers of a model that learn."""
  if config.coda is None or config.coda.router not in ("soft_top_k", "sigmoid"):
    return []
  routed = [
    i for i in range(config.num_encoder_layers) if config.layer_reduction(i) > 1
  ]
  if config.coda.shared_router:
    groups = [tuple(routed)] if routed else []
  else:
    groups = [(i,) for i in routed]
  return [
    Place(f"encoder/layers_{layers[0]}/router/kernel", layers)
    for layers in groups
  ]


def kernels(
  model: nn.Module, params: Any, batches: Sequence[Batch]
) -> dict[str, Array]:
  """The kernels of the routers that learn, fitted.

  Args:
    model: conditional.
    params: its parameters.
    batches: a few, with the encoder's inputs; together of several times more
      tokens than emb_dim.

  Returns:
    {path: float32 [emb_dim]}. The scores of the batches' tokens have the
    standard deviation 1, as those of a random start.
  """
  wanted = places(model.config)
  config = dataclasses.replace(
    model.config, coda=None, remat=False, scan_layers=False
  )
  dense = backbones.build(config)

  @jax.jit
  def of_change(params: Any, batch: Batch) -> list[Moments]:
    tokens = _read(dense, params, batch, wanted)
    return [_moments(t, t.change) for t in tokens]

  @jax.jit
  def of_loss(params: Any, maps: list[Fit], batch: Batch) -> list[Moments]:
    pairs = zip(_read(dense, params, batch, wanted), maps, strict=True)
    return [_moments(t, _log_loss(t, fit)) for t, fit in pairs]

  own = teacher.params_of(params)
  maps = [_fit(m) for m in _sum(of_change(own, b) for b in batches)]
  losses = _sum(of_loss(own, maps, b) for b in batches)
  return {
    place.path: _unit_scores(m) for place, m in zip(wanted, losses, strict=True)
  }


def _read(
  dense: nn.Module, params: Any, batch: Batch, wanted: Sequence[Place]
) -> list[Tokens]:
  """Runs the dense encoder, and looks at its blocks' two methods."""
  _, state = dense.apply(
    {"params": params},
    **backbones.encoder_inputs(dense.config, batch),
    enable_dropout=False,
    method="encode",
    capture_intermediates=lambda _, method: method in ("normalize", "delta"),
    mutable=["intermediates"],
  )
  found = state["intermediates"]["encoder"]
  (mask,) = found["mask"]

  def output(layer: int, method: str) -> Array:
    (y,) = found[f"layers_{layer}"][method]
    return y.astype(jnp.float32)

  return [
    Tokens(
      x=output(place.layers[0], "normalize"),
      change=sum(output(i, "delta") for i in place.layers),
      weight=mask.astype(jnp.float32),
    )
    for place in wanted
  ]


def _moments(tokens: Tokens, y: Array) -> Moments:
  """Of the router's input and y, [batch, length, dim]."""
  x, weight = tokens.x, tokens.weight[..., None]
  y = jnp.where(weight > 0, y, 0.0)
  weighted = jnp.where(weight > 0, x, 0.0)
  return Moments(
    count=weight.sum(),
    x=weighted.sum(axis=(0, 1)),
    y=y.sum(axis=(0, 1)),
    xx=jnp.einsum("bld,ble->de", weighted, weighted, precision=_EXACT),
    xy=jnp.einsum("bld,ble->de", weighted, y, precision=_EXACT),
  )


def _sum(found: Iterable[list[Moments]]) -> list[Moments]:
  return functools.reduce(functools.partial(jax.tree.map, operator.add), found)


def _covariance(m: Moments) -> Array:
  return m.xx / m.count - jnp.outer(m.x, m.x) / m.count**2


@jax.jit
def _fit(m: Moments) -> Fit:
  """Ridge regression."""
  covariance = _covariance(m)
  dim = len(covariance)
  ridge = _RIDGE * jnp.trace(covariance) / dim * jnp.eye(dim)
  both = m.xy / m.count - jnp.outer(m.x, m.y) / m.count**2
  kernel = jnp.linalg.solve(covariance + ridge, both)
  return Fit(kernel, m.x / m.count, m.y / m.count)


def _log_loss(tokens: Tokens, fit: Fit) -> Array:
  """[batch, length, 1]: how far the change is from its linear map."""
  expected = fit.y_mean[None, None] + jnp.einsum(
    "bld,de->ble",
    tokens.x - fit.x_mean[None, None],
    fit.kernel,
    precision=_EXACT,
  )
  squares = jnp.square(tokens.change - expected).sum(axis=-1, keepdims=True)
  return jnp.log(jnp.maximum(squares, 1e-24))


@jax.jit
def _unit_scores(m: Moments) -> Array:
  """[emb_dim]: the regression, scaled so that scores vary by 1."""
  kernel = _fit(m).kernel[:, 0]
  variance = kernel @ _covariance(m) @ kernel
  return kernel * jax.lax.rsqrt(jnp.maximum(variance, 1e-24))
