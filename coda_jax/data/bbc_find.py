"""A reading task on the BBC News articles: what follows some words?

The input has a few words of an article and the article's beginning. The answer
is the words that follow them there, anywhere in the input. A search for the
words would solve it: it shows whether a model still reads all of its input.
"""

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

from coda_jax.data import bbc

PASSAGE_WORDS = 120
ASKED_WORDS = 4
ANSWER_WORDS = 8
# The first words of an answer, by which it is right or wrong.
COMPARED_WORDS = 3


class Question(NamedTuple):
  """Some words, a passage, and the words that follow them there."""

  asked: str
  passage: str
  answer: str

  @property
  def text(self) -> str:
    """The model's input."""
    return f"find: {self.asked} in: {self.passage}"


def questions(articles: Sequence[bbc.Article]) -> list[Question]:
  """One question an article, always the same one.

  Args:
    articles: a split of `bbc.split`.

  Returns:
    The questions in the order of the articles. The words that are asked for
    occur once; an article that has no such words, or too few, has no question.
  """
  found = []
  for article in articles:
    words = article.body.split()[:PASSAGE_WORDS]
    passage = " ".join(words)
    places = [
      place
      for place in range(len(words) - ASKED_WORDS - ANSWER_WORDS + 1)
      if passage.count(" ".join(words[place : place + ASKED_WORDS])) == 1
    ]
    if not places:
      continue
    seed = hashlib.sha256(f"find {article}".encode()).hexdigest()
    place = random.Random(seed).choice(places) + ASKED_WORDS
    asked = " ".join(words[place - ASKED_WORDS : place])
    answer = " ".join(words[place : place + ANSWER_WORDS])
    found.append(Question(asked, passage, answer))
  return found


def accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """The share of answers whose first three words are right.

  Args:
    targets: the right answers.
    predictions: the model's.

  Returns:
    {"accuracy": 0 to 1}.
  """
  right = [
    target.split()[:COMPARED_WORDS] == prediction.split()[:COMPARED_WORDS]
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  return {"accuracy": sum(right) / len(right)}
