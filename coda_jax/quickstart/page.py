"""A page that shades each token by how many encoder layers processed it."""

import html
from collections.abc import Sequence
from typing import NamedTuple

from coda_jax import shaded_text
from coda_jax.shaded_text import Piece


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


def page(examples: Sequence[Example], num_layers: int) -> str:
  """The whole page; it needs nothing from elsewhere."""
  return shaded_text.page(
    "Where CoDA looks",
    "Test articles of BBC News. A token is the darker, the more of the "
    f"{num_layers} encoder layers its routers sent it through; the others it "
    "passed by its adapter alone.",
    [Piece(f" {i} ", i / num_layers) for i in range(num_layers + 1)],
    "\n".join(_article(example) for example in examples),
  )


def _article(example: Example) -> str:
  models = "\n".join(_model(shading) for shading in example.shadings)
  return (
    f"<article>\n<h2>{html.escape(example.title)}</h2>\n"
    f'<p class="quiet">topic: {html.escape(example.topic)}</p>\n'
    f'<div class="models">\n{models}\n</div>\n</article>'
  )


def _model(shading: Shading) -> str:
  shaded = zip(shading.pieces, shading.shares, strict=True)
  text = shaded_text.paragraph([Piece(*piece) for piece in shaded])
  said = f"topic: {html.escape(shading.topic)}"
  if shading.headline is not None:
    said += f"<br>headline: {html.escape(shading.headline)}"
  return (
    f"<section>\n<h3>{html.escape(shading.label)}</h3>\n"
    f'<p class="quiet">{said}</p>\n{text}\n</section>'
  )
