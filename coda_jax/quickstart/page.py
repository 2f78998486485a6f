"""A page that shades each token by how many encoder layers processed it."""

import html
from collections.abc import Sequence
from typing import NamedTuple


class Shading(NamedTuple):
  """One article as one model saw it.

  Attributes:
    label: the model.
    topic: its topic.
    headline: its headline; None if it was not asked.
    pieces: the tokens as text.
    shares: for each token, the share of layers that took it, 0 to 1.
  """

  label: str
  topic: str
  headline: str | None
  pieces: Sequence[str]
  shares: Sequence[float]


class Example(NamedTuple):
  """An article, what is right, and the models' shadings."""

  topic: str
  title: str
  shadings: Sequence[Shading]


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
.text { font-size: 14px; line-height: 1.7; overflow-wrap: anywhere; }
.text span { background: rgb(var(--mark) / calc(var(--s) * 0.75));
  white-space: pre-wrap; border-radius: 2px; }
.quiet { color: var(--quiet); }
h2, h3 { margin: 0.3rem 0; } h3 { font-size: 1rem; }
"""


def page(examples: Sequence[Example], num_layers: int) -> str:
  """The whole page; it needs nothing from elsewhere."""
  legend = " ".join(
    f'<span style="--s:{i / num_layers:.2f}"> {i} </span>'
    for i in range(num_layers + 1)
  )
  return (
    '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width">\n'
    "<title>Where CoDA looks</title>\n"
    f"<style>{_STYLE}</style>\n"
    "<h1>Where CoDA looks</h1>\n"
    "<p>Test articles of BBC News. A token is the darker, the more of the "
    f"{num_layers} encoder layers its routers sent it through; the others it "
    "passed by its adapter alone.</p>\n"
    f'<p class="text">layers: {legend}</p>\n'
    + "\n".join(_article(example) for example in examples)
    + "\n</html>\n"
  )


def _article(example: Example) -> str:
  models = "\n".join(_model(shading) for shading in example.shadings)
  return (
    f"<article>\n<h2>{html.escape(example.title)}</h2>\n"
    f'<p class="quiet">topic: {html.escape(example.topic)}</p>\n'
    f'<div class="models">\n{models}\n</div>\n</article>'
  )


def _model(shading: Shading) -> str:
  tokens = "".join(
    f'<span style="--s:{share:.2f}">{html.escape(piece)}</span>'
    for piece, share in zip(shading.pieces, shading.shares, strict=True)
  )
  said = f"topic: {html.escape(shading.topic)}"
  if shading.headline is not None:
    said += f"<br>headline: {html.escape(shading.headline)}"
  return (
    f"<section>\n<h3>{html.escape(shading.label)}</h3>\n"
    f'<p class="quiet">{said}</p>\n<p class="text">{tokens}</p>\n</section>'
  )
