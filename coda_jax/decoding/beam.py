"""Beam search over any step function, as T5 does it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class _State(NamedTuple):
  """The state of the loop; beams are sorted, the best first."""

  index: Array  # int32 [], tokens so far.
  cache: Any  # leaves [batch * beams, ...], or scalars that all share.
  tokens: Array  # int32 [batch, beams, max_length], the beams so far.
  scores: Array  # float32 [batch, beams], their log probabilities.
  ended: Array  # int32 [batch, max_length], the best that has ended so far.
  ended_score: Array  # float32 [batch], its log probability.
  ended_rank: Array  # float32 [batch], that over the length penalty.


def length_penalty(length: Array, alpha: Array) -> Array:
  """((5 + length) / 6)^alpha, the end token counted (Wu et al., 1609.08144).

  Log probabilities are divided by it, so more alpha favours longer sequences.
  """
  return ((5 + length.astype(jnp.float32)) / 6) ** alpha


def search(
  step: Callable[[Any, Array], tuple[Array, Any]],
  cache: Any,
  is_empty: Array,
  *,
  num_beams: int,
  max_length: int,
  alpha: Array,
  eos_id: int | Array,
) -> tuple[Array, Array]:
  """Finds the sequence of the highest penalised log probability.

  Each step takes the 2 * num_beams best continuations: those that end compete
  with the best one that ended before, the num_beams best others continue. An
  input is done when none of its beams could beat the best ended sequence, even
  if all further tokens had probability 1; the loop stops when all inputs are
  done. If no sequence ends within `max_length`, the best beam is returned.

  Args:
    step: (cache, last tokens int32 [batch * beams]) -> (float32 log
      probabilities [batch * beams, vocab], new cache).
    cache: first cache; arrays with batch * beams rows, or scalars.
    is_empty: bool [batch], inputs whose answer is empty, at score 0.
    num_beams: beams of each input.
    max_length: most tokens of a sequence, the end token included.
    alpha: float32 [], at least 0, see `length_penalty`.
    eos_id: the end token.

  Returns:
    int32 [batch, max_length], 0 after the end token, and float32 [batch], the
    log probability without the penalty.
  """
  (batch,) = is_empty.shape
  longest = length_penalty(jnp.asarray(max_length), alpha)

  def unfinished(state: _State) -> Array:
    # Log probabilities only fall, and no penalty is larger than the longest's.
    bound = state.scores.max(axis=1) / longest
    return (state.index < max_length) & jnp.any(state.ended_rank < bound)

  def extend(state: _State) -> _State:
    log_probs, cache = step(
      state.cache, _last(state.tokens, state.index).reshape(-1)
    )
    vocab = log_probs.shape[-1]
    totals = log_probs.reshape(batch, num_beams, vocab)
    totals = (totals + state.scores[..., None]).reshape(batch, -1)
    # At most num_beams of the candidates end: num_beams or more continue.
    totals, candidates = jax.lax.top_k(totals, 2 * num_beams)
    beams, tokens = candidates // vocab, candidates % vocab
    ends = tokens == eos_id

    ranks = jnp.where(ends, totals, -jnp.inf)
    ranks /= length_penalty(state.index + 1, alpha)
    best = jnp.argmax(ranks, axis=1)[:, None]
    rank = _take(ranks, best)[:, 0]
    sequence = _append(state, _take(beams, best), _take(tokens, best))[:, 0]
    better = rank > state.ended_rank

    scores, going_on = jax.lax.top_k(
      jnp.where(ends, -jnp.inf, totals), num_beams
    )
    beams, tokens = _take(beams, going_on), _take(tokens, going_on)
    rows = (jnp.arange(batch)[:, None] * num_beams + beams).reshape(-1)
    return _State(
      state.index + 1,
      jax.tree.map(
        lambda x: x.at[rows].get(mode="promise_in_bounds") if x.ndim else x,
        cache,
      ),
      _append(state, beams, tokens),
      scores,
      jnp.where(better[:, None], sequence, state.ended),
      jnp.where(better, _take(totals, best)[:, 0], state.ended_score),
      jnp.maximum(rank, state.ended_rank),
    )

  never = jnp.where(is_empty, 0.0, -jnp.inf)
  # Start with one beam an input; otherwise all beams would be the same.
  scores = jnp.where(jnp.arange(num_beams) == 0, 0.0, -jnp.inf)
  state = jax.lax.while_loop(
    unfinished,
    extend,
    _State(
      jnp.zeros((), jnp.int32),
      cache,
      jnp.zeros((batch, num_beams, max_length), jnp.int32),
      jnp.broadcast_to(scores[None, :], (batch, num_beams)),
      jnp.zeros((batch, max_length), jnp.int32),
      never,
      never,
    ),
  )
  has_ended = state.ended_rank > -jnp.inf
  return (
    jnp.where(has_ended[:, None], state.ended, state.tokens[:, 0]),
    jnp.where(has_ended, state.ended_score, state.scores[:, 0]),
  )


def _last(tokens: Array, index: Array) -> Array:
  """The newest token, [batch, beams]; before the first one, 0 that starts."""
  return jax.lax.dynamic_index_in_dim(
    tokens, jnp.maximum(index - 1, 0), axis=2, keepdims=False
  )


def _append(state: _State, beams: Array, tokens: Array) -> Array:
  """[batch, n, max_length]: `tokens` [batch, n] after the given beams."""
  before = jnp.take_along_axis(state.tokens, beams[..., None], axis=1)
  return before.at[:, :, state.index].set(tokens)


def _take(x: Array, indices: Array) -> Array:
  """[batch, m], int [batch, n] -> [batch, n]."""
  return jnp.take_along_axis(x, indices, axis=1)
