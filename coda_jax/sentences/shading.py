"""A picture of texts, in which what a router chose is shaded."""

from collections.abc import Sequence
from typing import Any, NamedTuple
from xml.sax import saxutils

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from coda_jax import backbones
from coda_jax.data.hf_tokenizer import HfTokenizer
from coda_jax.nn import router

# Of the picture: characters of a line, and pixels.
COLUMNS = 96
_CHARACTER, _LINE, _MARGIN, _FONT = 8.43, 22, 16, 14


class Piece(NamedTuple):
  """A part of a text.

  Attributes:
    text: as it was written, the space before it apart.
    share: of the layers that route, how many took it, 0 to 1; None for what is
      no token: spaces, and the end that was cut off.
  """

  text: str
  share: float | None


def pieces(
  model: nn.Module,
  params: Any,
  tokenizer: HfTokenizer,
  text: str,
  *,
  max_length: int,
) -> list[Piece]:
  """The pieces of a text, and how many routers chose each.

  Args:
    model: an encoder of texts that routes.
    params: its parameters.
    tokenizer: the model's.
    text: any.
    max_length: in tokens, special ones included; the rest is not read.

  Returns:
    Pieces that make up the text.

  Raises:
    ValueError: the model does not route.
  """
  if not model.config.is_routed:
    raise ValueError("the model does not route: there is nothing to show")
  batch = tokenizer.encode_batch([text], max_length=max_length)
  inputs = backbones.encoder_inputs(
    model.config,
    {
      "encoder_input_tokens": batch.input_ids,
      "encoder_token_types": batch.token_types,
      "encoder_mask": batch.mask,
    },
  )
  _, routing = model.apply(
    {"params": params},
    **{name: jnp.asarray(x) for name, x in inputs.items()},
    enable_dropout=False,
    return_routing=True,
    method="encode",
  )
  routed = [selection for selection in routing if selection is not None]
  shares = router.layer_share(routed, jnp.asarray(batch.mask))
  return _pieces(
    text,
    tokenizer.spans(text, max_length=max_length),
    np.asarray(jax.device_get(shares))[0].tolist(),
  )


def _pieces(
  text: str, spans: Sequence[tuple[int, int]], shares: Sequence[float]
) -> list[Piece]:
  found, done = [], 0
  for (start, end), share in zip(spans, shares, strict=True):
    start = max(start, done)  # The bytes of one character share its place.
    if end <= start:
      continue
    if start > done:
      found.append(Piece(text[done:start], None))
    found.append(Piece(text[start:end], share))
    done = end
  if done < len(text):
    found.append(Piece(text[done:], None))
  return found


def draw(texts: Sequence[Sequence[Piece]]) -> str:
  """An SVG of the pieces of texts, below each other.

  A piece is the darker, the more layers took it. Text that is no token has
  grey letters.
  """
  marks, letters = [], []
  line = 0
  for one in texts:
    column = 0
    for piece in one:
      for part in _parts(piece.text):
        if column + len(part) > COLUMNS and column:
          line, column = line + 1, 0
          part = part.lstrip()
        if part:
          marks.append(_mark(part, piece.share, line, column))
          letters.append(_letters(part, piece.share, line, column))
          column += len(part)
    line += 2
  width = 2 * _MARGIN + COLUMNS * _CHARACTER
  height = 2 * _MARGIN + max(line - 1, 1) * _LINE
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
    f'height="{height:.0f}" font-family="monospace" font-size="{_FONT}">\n'
    '<rect width="100%" height="100%" fill="#ffffff"/>\n'
    + "\n".join([mark for mark in marks if mark] + letters)
    + "\n</svg>\n"
  )


def _parts(text: str) -> list[str]:
  """Parts of a text that may start a line: its words, each after a space."""
  words = text.replace("\n", " ").replace("\t", " ").split(" ")
  parts = [words[0], *(" " + word for word in words[1:])]
  return [
    part[start : start + COLUMNS]
    for part in parts
    for start in range(0, len(part), COLUMNS)
  ]


def _mark(part: str, share: float | None, line: int, column: int) -> str:
  if not share:
    return ""
  x, y = _MARGIN + column * _CHARACTER, _MARGIN + line * _LINE
  return (
    f'<rect x="{x:.1f}" y="{y:.1f}" width="{len(part) * _CHARACTER:.1f}" '
    f'height="{_LINE - 3}" fill="#1e6ec8" fill-opacity="{0.45 * share:.2f}"/>'
  )


def _letters(part: str, share: float | None, line: int, column: int) -> str:
  x = _MARGIN + column * _CHARACTER
  y = _MARGIN + line * _LINE + _FONT
  color = "#999999" if share is None else "#1a1a1a"
  # Fonts differ; the length holds the letters to their marks.
  return (
    f'<text x="{x:.1f}" y="{y}" fill="{color}" xml:space="preserve" '
    f'textLength="{len(part) * _CHARACTER:.1f}">{saxutils.escape(part)}</text>'
  )
