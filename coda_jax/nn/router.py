"""Routers: which tokens of each sequence a layer processes, and their weight.

Routing is per sequence and aware of padding: a sequence of `length` real
tokens gets a budget of ceil(length / r), whatever it is padded to.
"""

import math
import zlib
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jax import Array

from coda_jax import soft_topk
from coda_jax.nn import config, sharding


@flax.struct.dataclass
class Selection:
  """The tokens that a layer processes.

  Attributes:
    indices: int32 [batch, k], positions in the sequence, no two alike.
    weights: float32 [batch, k] in [0, 1], m of the paper; 0 in empty slots.
    mask: bool [batch, k], False where a slot is empty: sequences with padding
      fill only the first ceil(length / r) of the k slots.
  """

  indices: Array
  weights: Array
  mask: Array


def capacity(length: int, reduction: float) -> int:
  """The static number of slots, ceil(length / reduction)."""
  return math.ceil(length / reduction)


def budget(mask: Array, reduction: float) -> Array:
  """Tokens to process in each sequence: int32 [batch] of a bool [batch, n]."""
  # Looked up, not computed: XLA may divide by multiplying with a rounded
  # 1 / r, and ceil then gives 4 for 21 tokens at r = 7.
  budgets = [capacity(i, reduction) for i in range(mask.shape[-1] + 1)]
  return jnp.asarray(budgets, jnp.int32)[mask.sum(axis=-1)]


def select(
  scores: Array, mask: Array, reduction: float
) -> tuple[Array, Array, Array]:
  """Takes the highest-scoring tokens within each sequence's budget.

  Args:
    scores: float32 [batch, n].
    mask: bool [batch, n], True for real tokens.
    reduction: r.

  Returns:
    (largest, indices, slot_mask), float32, int32 and bool [batch, k] with
    k = capacity(n, r): the best token first; padding scores -inf.
  """
  k = capacity(scores.shape[-1], reduction)
  largest, indices = sharding.top_k(jnp.where(mask, scores, -jnp.inf), k)
  slot_mask = jnp.arange(k)[None, :] < budget(mask, reduction)[:, None]
  return largest, indices, slot_mask


def ends(mask: Array) -> Array:
  """The first and the last real token: bool [batch, n] of a bool [batch, n]."""
  order = jnp.cumsum(mask, axis=-1)
  return mask & ((order == 1) | (order == order[:, -1:]))


def random_scores(key: Array, shape: tuple[int, int]) -> Array:
  """Uniform float32 [batch, n] that do not depend on n: padding is harmless."""

  def score(row: Array, column: Array) -> Array:
    return jax.random.uniform(
      jax.random.fold_in(jax.random.fold_in(key, row), column)
    )

  rows, columns = (jnp.arange(n, dtype=jnp.uint32) for n in shape)
  return jax.vmap(jax.vmap(score, (None, 0)), (0, None))(rows, columns)


def _product(x: Array, kernel: Array) -> Array:
  # TPUs multiply float32 in bfloat16 by default, which would reorder scores.
  return jnp.matmul(
    x.astype(jnp.float32), kernel, precision=jax.lax.Precision.HIGHEST
  )


@jax.custom_jvp
def product_by_parts(x: Array, kernel: Array) -> Array:
  """bfloat16 [..., d] by float32 [d], in float32, with bfloat16 products.

  Three parts of 8 bits hold all of a float32 number, and their products with
  bfloat16 are exact. One pass of a TPU's matrix unit then does the work; its
  vector unit would take six times as long.
  """
  parts = []
  for _ in range(3):
    parts.append(kernel.astype(jnp.bfloat16))
    kernel = kernel - parts[-1].astype(jnp.float32)
  products = jnp.matmul(
    x, jnp.stack(parts, axis=-1), preferred_element_type=jnp.float32
  )
  return products.sum(axis=-1)


@product_by_parts.defjvp
def _product_by_parts_jvp(primals, tangents):
  # Differentiate the product itself, not its bfloat16 rounding.
  (x, kernel), (dx, dkernel) = primals, tangents
  return (
    product_by_parts(x, kernel),
    _product(dx, kernel) + _product(x, dkernel),
  )


class Router(nn.Module):
  """Scores the tokens and selects ceil(length / r) of each sequence.

  Attributes:
    config: its `router` names the rule. "soft_top_k": a learned score, weights
      by soft top-k. "sigmoid": the same score, weights sigmoid(score), or 1 for
      sequences so short that every token is taken.
      "truncation": the first tokens, weight 1, nothing learned. "random":
      uniformly random tokens, weight 1, from the "routing" rng; without one,
      the same draw in every call.
    reduction: r.
  """

  config: config.CodaConfig
  reduction: float

  @nn.compact
  def __call__(self, x_norm: Array, mask: Array) -> Selection:
    """Routes.

    Args:
      x_norm: [batch, n, emb_dim], normalised tokens.
      mask: bool [batch, n], True for real tokens.

    Returns:
      The `Selection`, with k = ceil(n / r) slots.
    """
    rule = self.config.router
    if rule == "truncation":
      scores = -jnp.arange(mask.shape[1], dtype=jnp.float32)
      scores = jnp.broadcast_to(scores[None, :], mask.shape)
    elif rule == "random":
      scores = random_scores(self._routing_key(), mask.shape)
    else:
      scores = self._learned_scores(x_norm)
    if self.config.always_ends:
      # So far above the others that soft top-k gives them the weight 1: that
      # takes epsilon * ln(r).
      is_end = ends(mask)
      highest = jnp.where(mask, scores, -jnp.inf).max(axis=-1, keepdims=True)
      highest = jax.lax.stop_gradient(highest) + 10 * self.config.epsilon
      scores = jnp.where(is_end, highest, scores)
    largest, indices, slot_mask = select(scores, mask, self.reduction)
    if rule == "soft_top_k":
      weights = self._soft_top_k(scores, largest, indices, mask)
    elif rule == "sigmoid":
      weights = jax.nn.sigmoid(jnp.take_along_axis(scores, indices, axis=-1))
    else:
      weights = jnp.ones_like(indices, jnp.float32)
    if self.config.always_ends:
      taken_ends = jnp.take_along_axis(is_end, indices, axis=-1)
      weights = jnp.where(taken_ends, 1.0, weights)
    # Where all tokens are taken the router decides nothing: the layer is dense.
    all_taken = slot_mask.sum(axis=-1) == mask.sum(axis=-1)
    weights = jnp.where(all_taken[:, None], 1.0, weights)
    return Selection(indices, jnp.where(slot_mask, weights, 0.0), slot_mask)

  def _soft_top_k(
    self, scores: Array, largest: Array, indices: Array, mask: Array
  ) -> Array:
    k = budget(mask, self.reduction)
    if self.config.soft_top_k_method == "exact":
      # The scores that select are all that the closed form needs sorted.
      return soft_topk.selected_soft_top_k(
        jnp.where(mask, scores, -jnp.inf),
        largest,
        indices,
        k,
        epsilon=self.config.epsilon,
      )
    weights = soft_topk.soft_top_k(
      scores,
      k,
      epsilon=self.config.epsilon,
      mask=mask,
      method=self.config.soft_top_k_method,
    )
    return jnp.take_along_axis(weights, indices, axis=-1)

  def _learned_scores(self, x_norm: Array) -> Array:
    kernel = partitioning.param_with_axes(
      "kernel",
      nn.initializers.normal(stddev=x_norm.shape[-1] ** -0.5),
      (x_norm.shape[-1],),
      jnp.float32,
      axes=("embed",),
    )
    kernel = kernel.astype(jnp.float32)
    if x_norm.dtype != jnp.bfloat16:
      return _product(x_norm, kernel)
    return jax.lax.platform_dependent(
      x_norm, kernel, tpu=product_by_parts, default=_product
    )

  def _routing_key(self) -> Array:
    if self.has_rng("routing"):
      return self.make_rng("routing")
    return jax.random.key(zlib.crc32("/".join(self.path).encode()))


def routing_statistics(
  routing: Sequence[Selection | None], mask: Array
) -> dict[str, Array]:
  """Summarises the routing of a batch over its routed layers.

  Args:
    routing: one `Selection` a layer, None for dense layers.
    mask: bool [batch, n], True for real tokens.

  Returns:
    Float32 scalars, empty if no layer is routed. `mean_weight`: the mean of m
    over all real tokens, selected or not. `sum_over_k`: the sum of m over the
    number of selected tokens, 1 where all weights are. `selected_share`:
    selected over real tokens. `never_selected`: share of the real tokens that
    no layer took.
  """
  selections = [selection for selection in routing if selection is not None]
  if not selections:
    return {}
  weight = sum(s.weights.sum() for s in selections)
  selected = sum(s.mask.sum() for s in selections).astype(jnp.float32)
  real = jnp.maximum(mask.sum().astype(jnp.float32), 1.0)
  missed = (layer_share(routing, mask) == 0) & mask
  return {
    "mean_weight": weight / (real * len(selections)),
    "sum_over_k": weight / jnp.maximum(selected, 1.0),
    "selected_share": selected / (real * len(selections)),
    "never_selected": missed.sum().astype(jnp.float32) / real,
  }


def layer_share(routing: Sequence[Selection | None], mask: Array) -> Array:
  """The share of layers that take each token.

  Args:
    routing: one `Selection` a layer; a dense layer (None) takes every token.
    mask: bool [batch, n], True for real tokens.

  Returns:
    float32 [batch, n] in [0, 1], 0 on padding.
  """
  rows = jnp.arange(mask.shape[0])[:, None]
  taken = jnp.zeros(mask.shape, jnp.float32)
  for selection in routing:
    if selection is None:
      taken += 1.0
    else:
      taken = taken.at[rows, selection.indices].add(
        selection.mask.astype(jnp.float32), unique_indices=True
      )
  return jnp.where(mask, taken / max(len(routing), 1), 0.0)
