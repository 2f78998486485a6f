"""Sentence embeddings from the embeddings of tokens, in float32.

The modes and their numbers are those of sentence-transformers' `Pooling`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

# The order in which flags of older configurations join several modes.
MODES = (
  "cls",
  "max",
  "mean",
  "mean_sqrt_len_tokens",
  "weightedmean",
  "lasttoken",
)
_SMALLEST_COUNT = 1e-9
_SMALLEST_NORM = 1e-12


def pool(
  hidden: jax.Array,
  mask: jax.Array,
  modes: Sequence[str] = ("mean",),
  *,
  prompt_length: int | jax.Array = 0,
) -> jax.Array:
  """Pools the tokens of each row.

  `cls` and `lasttoken` take the first and the last token of the mask, on
  whichever side the padding is. `weightedmean` weighs a token by its place, 1
  for the first one of the row, prompt included. `mean_sqrt_len_tokens` divides
  the sum by the square root of the number of tokens.

  Args:
    hidden: float [batch, length, d]; where the mask is False, it may hold
      anything, NaN too.
    mask: bool or integer [batch, length], of the tokens.
    modes: of `MODES`; the results of several are joined in this order.
    prompt_length: tokens at the start of each row's mask that are left out, a
      number or int32 [batch].

  Returns:
    float32 [batch, len(modes) * d]; 0 in a row without tokens.

  Raises:
    ValueError: an unknown mode, or none.
  """
  if not modes or (unknown := [m for m in modes if m not in MODES]):
    raise ValueError(
      f"pooling modes {list(modes) if not modes else unknown}; expected one or "
      f"more of {MODES}"
    )
  mask = mask.astype(bool)
  places = jnp.arange(mask.shape[1], dtype=jnp.int32)[None]
  # The place of each token in its row, counted from the first one.
  places = places - _first(mask)
  start = jnp.reshape(jnp.asarray(prompt_length, jnp.int32), (-1, 1))
  kept = mask & (places >= start)
  hidden = jnp.where(kept[..., None], hidden.astype(jnp.float32), 0.0)
  return jnp.concatenate(
    [_pool_one(mode, hidden, kept, places) for mode in modes], axis=-1
  )


def normalise(embeddings: jax.Array) -> jax.Array:
  """Scales vectors to length 1; a vector of zeros stays one.

  Args:
    embeddings: float [..., d].

  Returns:
    float32 [..., d]; a vector shorter than 1e-12 is divided by that, and has a
    finite gradient.
  """
  embeddings = embeddings.astype(jnp.float32)
  squares = jnp.sum(embeddings * embeddings, axis=-1, keepdims=True)
  is_long = squares > _SMALLEST_NORM**2
  # A square root's gradient at 0 is infinite, also where it is not chosen.
  norm = jnp.sqrt(jnp.where(is_long, squares, 1.0))
  return embeddings / jnp.where(is_long, norm, _SMALLEST_NORM)


def _pool_one(
  mode: str, hidden: jax.Array, kept: jax.Array, places: jax.Array
) -> jax.Array:
  """One mode's result, float32 [batch, d]; `hidden` is 0 where not kept."""
  count = jnp.sum(kept, axis=1, keepdims=True, dtype=jnp.float32)
  count = jnp.maximum(count, _SMALLEST_COUNT)
  match mode:
    case "cls":
      return _take(hidden, _first(kept))
    case "max":
      largest = jnp.max(jnp.where(kept[..., None], hidden, -jnp.inf), axis=1)
      return jnp.where(jnp.any(kept, axis=1, keepdims=True), largest, 0.0)
    case "mean":
      return jnp.sum(hidden, axis=1) / count
    case "mean_sqrt_len_tokens":
      return jnp.sum(hidden, axis=1) / jnp.sqrt(count)
    case "weightedmean":
      weights = jnp.where(kept, places + 1, 0).astype(jnp.float32)
      total = jnp.sum(weights, axis=1, keepdims=True)
      total = jnp.maximum(total, _SMALLEST_COUNT)
      return jnp.sum(hidden * weights[..., None], axis=1) / total
    case "lasttoken":
      return _take(hidden, kept.shape[1] - 1 - _first(kept[:, ::-1]))


def _first(mask: jax.Array) -> jax.Array:
  """The first True of each row, 0 without one: int32 [batch, 1]."""
  return jnp.argmax(mask, axis=1, keepdims=True).astype(jnp.int32)


def _take(hidden: jax.Array, index: jax.Array) -> jax.Array:
  """One token of each row: [batch, d]."""
  return jnp.take_along_axis(hidden, index[..., None], axis=1)[:, 0]
