"""Metrics of question answering, where targets are more than one text.

The functions that prepare such targets for seqio are in the preprocessors:
`reading.answers`, `reading.answers_of_query` and `glue.label_of_question`.
"""

import collections
import re
import string
from collections.abc import Sequence

from coda_jax.data import glue, metrics

# The numbers of a question: (paragraph or passage, question).
Group = tuple[int, int]

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad(
  targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
  """The share of exact matches and the mean F1 over words, 0 to 1.

  Each is the best over a question's answers. Source: the evaluation script of
  SQuAD 1.1 (Rajpurkar et al. 2016), reimplemented: the packages that have it
  need PyTorch or a download.

  Args:
    targets: the answers to each question, one or more.
    predictions: an answer each.

  Raises:
    ValueError: a question without an answer; see also `metrics.check`.
  """
  metrics.check(targets, predictions)
  if not all(targets):
    raise ValueError(
      "a question has no answer: those of this split are secret, as in"
      " ReCoRD's test split; measure on validation"
    )
  scores = []
  for answers, guess in zip(targets, predictions, strict=True):
    guess = normalize(guess)
    known = [normalize(answer) for answer in answers]
    matches = max(float(guess == answer) for answer in known)
    scores.append((matches, max(_words_f1(guess, a) for a in known)))
  exact, f1 = (
    sum(column) / len(scores) for column in zip(*scores, strict=True)
  )
  return {"exact_match": exact, "f1": f1}


def normalize(text: str) -> str:
  """Drops capitals, ASCII punctuation, English articles and extra spaces."""
  text = text.lower().translate(_PUNCTUATION)
  return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _words_f1(guess: str, answer: str) -> float:
  guessed = collections.Counter(guess.split())
  known = collections.Counter(answer.split())
  common = (guessed & known).total()
  # Two texts without a word have no word in common either, as in the script.
  return 2 * common / (guessed.total() + known.total()) if common else 0.0


def record(
  targets: Sequence[tuple[Sequence[str], Group]], predictions: Sequence[str]
) -> dict[str, float]:
  """`squad` for ReCoRD: a query counts once, by its first example.

  Args:
    targets: (answers, query) pairs.
    predictions: an answer each.
  """
  metrics.check(targets, predictions)
  first: dict[Group, tuple[Sequence[str], str]] = {}
  for (answers, query), guess in zip(targets, predictions, strict=True):
    first.setdefault(query, (answers, guess))
  answers, guesses = zip(*first.values(), strict=True)
  return squad(answers, guesses)


def multirc(
  targets: Sequence[tuple[str, Group]], predictions: Sequence[str]
) -> dict[str, float]:
  """MultiRC's F1 over all answers, and its exact match, 0 to 1.

  A question is matched if each of its answers is judged rightly. Source:
  Khashabi et al. 2018, as SuperGLUE reports it (F1a and EM).

  Args:
    targets: ("True" or "False", question) pairs, one an answer.
    predictions: the same without the question.
  """
  metrics.check(targets, predictions)
  labels = [label for label, _ in targets]
  right: dict[Group, bool] = {}
  for (label, question), guess in zip(targets, predictions, strict=True):
    same = guess.strip() == label
    right[question] = right.get(question, True) and same
  score = metrics.f1(
    labels, predictions, labels=glue.SUPER_GLUE["multirc"].labels
  )
  return {**score, "exact_match": sum(right.values()) / len(right)}
