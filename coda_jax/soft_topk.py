"""Soft top-k: weights in [0, 1] that sum to k and follow the scores.

Over one axis of n scores s, soft top-k is the solution of

  max_w  s . w + epsilon * H(w)   subject to  sum w = k,  0 <= w <= 1,

where H is the entropy. It has a closed form: with the scores sorted downwards
there is a number m of saturated scores, whose weight is 1, and the others share
what is left of the budget as a softmax does,

  w_i = 1 for i <= m,   w_i = (k - m) softmax(s[m+1:] / epsilon)_i for i > m,

with m the smallest number for which no w_i is over 1. `docs/soft_top_k.md` has
the derivation. Source: CoDA (arXiv 2304.04947), whose operator is that of
AligneR (arXiv 2211.01267); the closed form is ours.

A score of -inf can't be selected: a mask writes -inf.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from coda_jax import soft_topk_iteration
from coda_jax.soft_topk_iteration import positive

if TYPE_CHECKING:
  from jaxtyping import Array, Bool, Float, Int


def soft_top_k(
  scores: Float[Array, "*shape"],
  k: int | Int[np.ndarray, "*budget"] | Int[Array, "*budget"],
  *,
  epsilon: float = 1.0,
  mask: Bool[Array, "*mask"] | None = None,
  method: str = "exact",
  num_iterations: int = 20,
  epsilon_init: float = 4.0,
  epsilon_decay: float = 0.7,
  axis: int = -1,
) -> Float[Array, "*shape"]:
  """Weights in [0, 1] that sum to k along `axis`, larger for larger scores.

  Args:
    scores: `[..., n]` raw scores of any float dtype but float16. They are
      solved in float32 (float64 scores in float64).
    k: the budget, an int or an integer array that broadcasts against the
      scores without `axis`. With an int or a numpy array only the k largest
      scores are sorted; with a traced array all of them are.
    epsilon: the softness, a positive Python float. Near 0 the weights become
      hard top-k; a large epsilon makes them more even.
    mask: booleans that broadcast against the scores, True where selectable.
      Other scores, NaN included, have no effect.
    method: "exact" is the closed form, with its own exact gradient.
      "iterative" is the paper's epsilon-scaled iteration, differentiated
      through its steps; it may leave the sum short of k when epsilon is small.
    num_iterations: steps of the iterative method.
    epsilon_init: epsilon of the first step of the iterative method.
    epsilon_decay: factor on epsilon from step to step, which ends at `epsilon`.
    axis: the axis of the scores to select along.

  Returns:
    Weights of the scores' shape, float32 (float64 for float64 scores), 0 where
    masked. They sum to min(k, number selectable); where that is all of them,
    every selectable weight is 1 and the gradient is 0.

  Raises:
    TypeError: scores that are not floating point or are float16, a k that is
      not of integers, a mask that is not boolean, an epsilon that is not a
      Python number.
    ValueError: a negative k, an unknown method, or an epsilon,
      num_iterations, epsilon_init or epsilon_decay out of range.
  """
  scores = jnp.asarray(scores)
  _check_scores(scores.dtype)
  epsilon = positive("epsilon", epsilon)
  if method not in ("exact", "iterative"):
    raise ValueError(
      f'method is {method!r}; expected "exact" (the closed form) or "iterative"'
      " (the paper's iteration)"
    )
  dtype = jnp.float64 if scores.dtype == jnp.float64 else jnp.float32
  scores = scores.astype(dtype)
  if mask is not None:
    scores = _masked(scores, mask)
  scores = jnp.moveaxis(scores, axis, -1)
  size = scores.shape[-1]
  k, largest_k = _budget(k, size)

  if method == "iterative":
    schedule = soft_topk_iteration.epsilon_schedule(
      epsilon, num_iterations, epsilon_init, epsilon_decay
    )
    weights = soft_topk_iteration.iterate(scores, k, schedule)
  elif largest_k:
    largest = lax.top_k(lax.stop_gradient(scores), largest_k)[0]
    weights = soft_top_k_from_largest(scores, largest, k, epsilon=epsilon)
  else:
    any_budget = jnp.broadcast_to((k > 0)[..., None], scores.shape)
    weights = (any_budget & (scores != -jnp.inf)).astype(dtype)
  return jnp.moveaxis(weights, -1, axis)


def soft_top_k_from_largest(
  scores: Float[Array, "*batch n"],
  largest: Float[Array, "*batch c"],
  k: int | Int[Array, "*budget"],
  *,
  epsilon: float = 1.0,
) -> Float[Array, "*batch n"]:
  """`soft_top_k` along the last axis, given its `jax.lax.top_k`.

  For callers that need the largest scores anyway, to select by: one top_k then
  serves both. No gradient flows through `largest`; the gradient with respect to
  the scores is whole without it.

  Args:
    scores: `[..., n]` float32 or float64, -inf where masked.
    largest: `[..., c]` the c largest scores, downwards.
    k: budget, an int or an int array that broadcasts against `scores[..., 0]`,
      at most c.
    epsilon: the softness, a positive Python float.

  Returns:
    `[..., n]` weights; see `soft_top_k`.
  """
  pivot, scale = _solve(
    lax.stop_gradient(scores), lax.stop_gradient(largest), k, epsilon
  )
  return _weights(scores, pivot, scale, epsilon)


def selected_soft_top_k(
  scores: Float[Array, "*batch n"],
  largest: Float[Array, "*batch c"],
  indices: Int[Array, "*batch c"],
  k: int | Int[Array, "*budget"],
  *,
  epsilon: float = 1.0,
) -> Float[Array, "*batch c"]:
  """`soft_top_k_from_largest` at the largest scores alone.

  Args:
    scores: `[..., n]` float32 or float64, -inf where masked.
    largest: `[..., c]` the c largest scores, downwards.
    indices: `[..., c]` their places; `jax.lax.top_k` returns both.
    k: see `soft_top_k_from_largest`.
    epsilon: the softness, a positive Python float.

  Returns:
    `[..., c]` weights. Their gradient reaches all scores, as that of
    `jnp.take_along_axis(soft_top_k_from_largest(...), indices, axis=-1)` does.
  """
  largest = lax.stop_gradient(largest)
  pivot, scale = _solve(lax.stop_gradient(scores), largest, k, epsilon)
  return _selected_weights(scores, largest, indices, pivot, scale, epsilon)


def _solve(scores, largest, k, epsilon):
  """Finds m, and gives it as the largest unsaturated score and its weight.

  No score is saturated beyond rank m if F(s) = sum_i min(1, exp((s_i - s) /
  epsilon)) is at least k at the score s of rank m + 1. F grows with the rank,
  so that m is found by a search over the ranks, in log4(c) passes over the c
  largest scores; what all others add to F is a multiple of what they add at the
  last of the largest, and is found in one pass. Where F equals k up to its
  rounding, both ranks give the same weights up to theirs. All terms are
  differences of scores, which keeps scores of 1e4 exact. Counts are in float32,
  whose sums are faster, and exact below 2**24.

  Returns:
    pivot: `[..., 1]`, the score of rank m + 1, and scale: `[..., 1]`, its
    weight. Where all selectable scores are saturated, pivot is -inf.
  """
  dtype = scores.dtype

  def count(flags):
    return jnp.sum(flags.astype(dtype), axis=-1, keepdims=True)

  selectable = count(scores != -jnp.inf)
  k = jnp.clip(jnp.asarray(k, jnp.int32), 0, largest.shape[-1])
  k = jnp.broadcast_to(k, scores.shape[:-1])[..., None].astype(dtype)
  k = jnp.minimum(k, selectable)

  # The minimum, not the last item: XLA does not recognise top_k in a slice of
  # it, and sorts all scores.
  last = jnp.min(largest, axis=-1, keepdims=True)
  rest = jnp.where(scores <= last, _decay(scores, last, epsilon), 0)
  # Those that equal the last one count 1 each; some are among the largest.
  rest = jnp.sum(rest, axis=-1, keepdims=True) - count(largest == last)
  rest = jnp.where(last == -jnp.inf, 0, rest)

  # The rank is one of `width` from `low` on, and F is enough at the budget's.
  high = jnp.maximum(k - 1, 0).astype(jnp.int32)
  low, width = jnp.zeros_like(high), largest.shape[-1]
  while width > 1:
    width = -(-width // 4)
    ends = width * jnp.arange(1, 4, dtype=jnp.int32) - 1
    ends = ends.reshape((1,) * (k.ndim - 1) + (3,))
    score = jnp.take_along_axis(largest, jnp.minimum(low + ends, high), axis=-1)
    decay = _decay(largest[..., None, :], score[..., None], epsilon)
    total = jnp.sum(decay, axis=-1) + rest * _decay(last, score, epsilon)
    low += width * jnp.sum(total < k, axis=-1, keepdims=True, dtype=jnp.int32)
  pivot = jnp.take_along_axis(largest, jnp.minimum(low, high), axis=-1)

  is_above = largest > pivot
  mass = jnp.where(is_above, 0, _decay(largest, pivot, epsilon))
  mass = jnp.sum(mass, axis=-1, keepdims=True)
  mass += rest * _decay(last, pivot, epsilon)
  scale = (k - count(is_above)) / jnp.maximum(mass, 1)
  everything = k == selectable
  return (
    jnp.where(everything, -jnp.inf, pivot),
    jnp.where(everything, 0, jnp.minimum(scale, 1)),
  )


def _decay(scores, pivot, epsilon):
  """exp((scores - pivot) / epsilon), at most 1, for masked rows too."""
  # Where the pivot is -inf there is no score to decay; 0 keeps it free of NaN.
  origin = jnp.where(pivot == -jnp.inf, 0, pivot)
  return jnp.exp(jnp.minimum(scores - origin, 0) / epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weights(scores, pivot, scale, epsilon):
  """1 above the pivot, and from there downwards exponentially less."""
  decay = _decay(scores, pivot, epsilon)
  return jnp.where(scores > pivot, 1, scale * decay)


def _weights_forward(scores, pivot, scale, epsilon):
  # Calling the function with the rule, not its body, makes the second
  # derivative right too.
  weights = _weights(scores, pivot, scale, epsilon)
  return weights, (weights, scores > pivot)


def _weights_backward(epsilon, residuals, cotangent):
  """The closed-form Jacobian, pivot and scale being functions of the scores.

  It is (diag(w) - w w^T / sum w) / epsilon over the unsaturated, 0 elsewhere.
  """
  weights, saturated = residuals
  active = jnp.logical_not(saturated) & (weights > 0)
  weights = jnp.where(active, weights, 0)
  # A weight of 0 may have an infinite cotangent, from a logarithm say.
  cotangent = jnp.where(active, cotangent, 0)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  mean = jnp.sum(weights * cotangent, axis=-1, keepdims=True)
  mean = mean / jnp.where(total > 0, total, 1)
  return weights * (cotangent - mean) / epsilon, None, None


_weights.defvjp(_weights_forward, _weights_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _selected_weights(scores, largest, indices, pivot, scale, epsilon):
  """`_weights` at the indices, without computing any others."""
  del scores, indices
  return _weights(largest, pivot, scale, epsilon)


def _selected_forward(scores, largest, indices, pivot, scale, epsilon):
  def weights(scores):
    every = _weights(scores, pivot, scale, epsilon)
    return jnp.take_along_axis(every, indices, axis=-1)

  del largest
  return jax.vjp(weights, scores)


def _selected_backward(epsilon, pull_back, cotangent):
  del epsilon
  return *pull_back(cotangent), None, None, None, None


_selected_weights.defvjp(_selected_forward, _selected_backward)


def _check_scores(dtype):
  if not jnp.issubdtype(dtype, jnp.floating):
    raise TypeError(
      f"scores are {dtype}; expected a floating dtype: cast them, or for hard "
      "selection use jax.lax.top_k"
    )
  if dtype == jnp.float16:
    raise TypeError(
      "scores are float16, whose range (65504) T5's activations exceed, and so "
      "become inf or NaN; compute in bfloat16 or float32"
    )


def _masked(scores, mask):
  mask = jnp.asarray(mask)
  if mask.dtype != jnp.bool_:
    raise TypeError(
      f"mask is {mask.dtype}; expected booleans, True where selectable"
    )
  return jnp.where(jnp.broadcast_to(mask, scores.shape), scores, -jnp.inf)


def _budget(k, size):
  """The checked budget, and how many of the largest scores it takes to solve.

  That number is 0 where k decides alone: every k is 0, or `size` or more.
  """
  if not isinstance(k, jax.Array):
    k = np.asarray(k)
  if not jnp.issubdtype(k.dtype, jnp.integer):
    raise TypeError(f"k is of dtype {k.dtype}; expected integers")
  if isinstance(k, jax.Array):
    return k, size
  if np.any(k < 0):
    raise ValueError(f"k is {k.min()}; expected 0 or more")
  if np.all((k == 0) | (k >= size)):
    return k, 0
  return k, min(int(k.max()), size)
