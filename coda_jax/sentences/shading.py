"""Pictures and pages of texts, in which what a router chose is shaded."""

import functools
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from xml.sax import saxutils

import jax
import numpy as np
from flax import linen as nn

from coda_jax import backbones, shaded_text
from coda_jax.data.hf_tokenizer import HfTokenizer
from coda_jax.nn import router
from coda_jax.shaded_text import Piece

# Of the picture: characters of a line, and pixels.
COLUMNS = 96
_CHARACTER, _LINE, _MARGIN, _FONT = 8.43, 22, 16, 14
# No file of XML may have them, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def pieces(
  model: nn.Module,
  params: Any,
  tokenizer: HfTokenizer,
  texts: Sequence[str],
  *,
  max_length: int | None,
) -> list[list[Piece]]:
  """The pieces of texts, and how many routers chose each.

  Args:
    model: an encoder of texts that routes.
    params: its parameters.
    tokenizer: the model's.
    texts: at least one, encoded together.
    max_length: in tokens, special ones included; the rest is not read. None
      reads all.

  Returns:
    For each text, pieces that make it up. The share is that of the layers that
    route. It is None for spaces, and for the end that was cut off.

  Raises:
    ValueError: the model does not route.
  """
  if not model.config.is_routed:
    raise ValueError(
      "the model does not route: there is nothing to show. Give the adapter of "
      "a conditional encoder, --adapter=PATH"
    )
  batch = tokenizer.encode_batch(texts, max_length=max_length)
  shares = _shares(
    model,
    params,
    backbones.encoder_inputs(
      model.config,
      {
        "encoder_input_tokens": batch.input_ids,
        "encoder_token_types": batch.token_types,
        "encoder_mask": batch.mask,
      },
    ),
    batch.mask,
  )
  return [
    _pieces(
      text,
      tokenizer.spans(text, max_length=batch.mask.shape[1]),
      row[real].tolist(),
    )
    for text, row, real in zip(
      texts, np.asarray(shares), batch.mask, strict=True
    )
  ]


@functools.partial(jax.jit, static_argnums=0)
def _shares(
  model: nn.Module, params: Any, inputs: dict[str, jax.Array], mask: jax.Array
) -> jax.Array:
  _, routing = model.apply(
    {"params": params},
    **inputs,
    enable_dropout=False,
    return_routing=True,
    method="encode",
  )
  routed = [selection for selection in routing if selection is not None]
  return router.layer_share(routed, mask)


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


def page(texts: Sequence[Sequence[Piece]]) -> str:
  """An HTML page of the pieces of texts, below each other."""
  return shaded_text.page(
    "Where CoDA looks",
    "A token is the darker, the more of the layers that route took it; the "
    "others it passed by its adapter alone. Grey letters were not read.",
    [Piece(" none ", 0.0), Piece(" half ", 0.5), Piece(" all ", 1.0)],
    "\n".join(
      f"<article>{shaded_text.paragraph(one)}</article>" for one in texts
    ),
  )


def draw(texts: Sequence[Sequence[Piece]]) -> str:
  """An SVG of the pieces of texts, below each other.

  A piece is the darker, the more layers took it. Text that is no token has
  grey letters.
  """
  placed = list(_layout(texts))
  lines = max((place.line for place in placed), default=0) + 1
  width = 2 * _MARGIN + COLUMNS * _CHARACTER
  height = 2 * _MARGIN + lines * _LINE
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
    f'height="{height:.0f}" font-family="monospace" font-size="{_FONT}">\n'
    '<rect width="100%" height="100%" fill="#ffffff"/>\n'
    # Marks stand behind all letters.
    + "\n".join([*filter(None, map(_mark, placed)), *map(_letters, placed)])
    + "\n</svg>\n"
  )


class _Placed(NamedTuple):
  text: str
  share: float | None
  line: int
  column: int


def _layout(texts: Sequence[Sequence[Piece]]) -> Iterator[_Placed]:
  """The words and spaces of pieces, in lines."""
  line = 0
  for one in texts:
    column = 0
    parts = [Piece(part, p.share) for p in one for part in _parts(p.text)]
    for are_spaces, run in itertools.groupby(parts, lambda p: p.text.isspace()):
      run = list(run)
      lengths = [len(part.text) for part in run]
      # A word moves to the next line as a whole, if that can hold it; spaces
      # stay at the end of a line.
      needed = [min(sum(lengths), COLUMNS), *lengths[1:]]
      for i, part in enumerate(run):
        if column and column + needed[i] > COLUMNS and not are_spaces:
          line, column = line + 1, 0
        yield _Placed(*part, line, column)
        column += lengths[i]
    line += 2


def _parts(text: str) -> list[str]:
  """Words and spaces of a text, none longer than a line."""
  text = _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
  return re.findall(rf"\s+|\S{{1,{COLUMNS}}}", text)


def _mark(placed: _Placed) -> str:
  if not placed.share:
    return ""
  x, y = _position(placed)
  return (
    f'<rect x="{x:.1f}" y="{y}" width="{len(placed.text) * _CHARACTER:.1f}" '
    f'height="{_LINE - 3}" fill="#1e6ec8" '
    f'fill-opacity="{0.45 * placed.share:.2f}"/>'
  )


def _letters(placed: _Placed) -> str:
  x, y = _position(placed)
  color = "#999999" if placed.share is None else "#1a1a1a"
  # Fonts differ; the length holds the letters to their marks.
  return (
    f'<text x="{x:.1f}" y="{y + _FONT}" fill="{color}" xml:space="preserve" '
    f'textLength="{len(placed.text) * _CHARACTER:.1f}">'
    f"{saxutils.escape(placed.text)}</text>"
  )


def _position(placed: _Placed) -> tuple[float, int]:
  return _MARGIN + placed.column * _CHARACTER, _MARGIN + placed.line * _LINE
