"""Pages of texts, each part of which is shaded by a share of layers."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Piece(NamedTuple):
  """A part of a text.

  Attributes:
    text: as it was written.
    share: of layers that took it, 0 to 1; None for what is no token.
  """

  text: str
  share: float | None


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff;
  --mark: 30 110 200; --quiet: #666; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181c;
  --mark: 90 160 255; --quiet: #999; --line: #333; } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: var(--ink);
  background: var(--paper); font: 16px/1.6 system-ui, sans-serif; }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
.models { display: grid; gap: 2rem;
  grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); }
.text { font-size: 14px; line-height: 1.7; overflow-wrap: anywhere;
  white-space: pre-wrap; }
.text span { border-radius: 2px;
  background: rgb(var(--mark) / calc(var(--s, 0) * 0.75)); }
.quiet { color: var(--quiet); }
h2, h3 { margin: 0.3rem 0; } h3 { font-size: 1rem; }
"""


def paragraph(pieces: Sequence[Piece]) -> str:
  """The pieces of a text in HTML; what is no token has grey letters."""
  return f'<p class="text">{_spans(pieces)}</p>'


def page(
  title: str, introduction: str, legend: Sequence[Piece], body: str
) -> str:
  """A whole page in HTML; it needs nothing from elsewhere.

  Args:
    title: in words.
    introduction: what the page shows, in words.
    legend: shades, and what they stand for.
    body: in HTML: one <article> for each text.
  """
  return (
    '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width">\n'
    f"<title>{html.escape(title)}</title>\n"
    f"<style>{_STYLE}</style>\n"
    f"<h1>{html.escape(title)}</h1>\n"
    f"<p>{html.escape(introduction)}</p>\n"
    f'<p class="text">layers: {_spans(legend)}</p>\n'
    f"{body}\n</html>\n"
  )


def _spans(pieces: Sequence[Piece]) -> str:
  return "".join(
    f"<span {_look(piece.share)}>{html.escape(piece.text)}</span>"
    for piece in pieces
  )


def _look(share: float | None) -> str:
  return 'class="quiet"' if share is None else f'style="--s:{share:.2f}"'
