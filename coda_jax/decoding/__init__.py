"""Generation, for every model with an encoder and a decoder."""

from coda_jax.decoding.generation import (
  DETERMINISTIC,
  METHODS,
  Decoded,
  draw_token,
  generate,
  score,
)

__all__ = [
  "DETERMINISTIC",
  "METHODS",
  "Decoded",
  "draw_token",
  "generate",
  "score",
]
