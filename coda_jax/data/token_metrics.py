"""seqio metrics of words' tags: entities, and single tags.

Targets and predictions are texts, the tags of a sentence with spaces between
them. A prediction may end early, where the model's input was cut: its entities
there are missed, and its tags are wrong.

Own code: seqeval has the same rules, but no release since 2020.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from coda_jax.data import metrics


class Span(NamedTuple):
  """An entity.

  Attributes:
    kind: the tag's name after "B-" or "I-"; "" without one.
    start: place of its first word.
    end: place after its last word.
  """

  kind: str
  start: int
  end: int


def check_tag(tag: str) -> None:
  """Refuses a tag that is not one of BIO.

  Raises:
    ValueError: neither "O" nor B or I with or without a name, as in "B-PER".
  """
  if tag != "O" and not re.fullmatch(r"[BI](-.+)?", tag):
    raise ValueError(
      f"the metric 'entities' takes the tags of BIO, 'O', 'B-NAME' and "
      f"'I-NAME', and found {tag!r}; write entities so, or set TABLE_METRICS="
      "['accuracy'] for tags of another kind"
    )


def spans(tags: Sequence[str]) -> list[Span]:
  """The entities that BIO tags say, in their order.

  An entity begins at each B, and at an I that does not follow a tag of the same
  name. It ends before the next tag that is not I of this name. So counts the
  script of CoNLL's shared tasks, conlleval, which reads IOB1 as well as IOB2.

  Raises:
    ValueError: see `check_tag`.
  """
  found, start, kind = [], 0, None
  for place, tag in enumerate([*tags, "O"]):
    check_tag(tag)
    prefix, _, name = tag.partition("-")
    next_kind = None if tag == "O" else name
    if prefix == "B" or next_kind != kind:
      if kind is not None:
        found.append(Span(kind, start, place))
      start, kind = place, next_kind
  return found


def entities(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """F1, precision and recall of entities, over all sentences and names.

  An entity is right if its name and both its ends are. A share of nothing is 0.
  """
  right = predicted = wanted = 0
  for target, prediction in _pairs(targets, predictions):
    found, expected = {*spans(prediction)}, {*spans(target)}
    right += len(found & expected)
    predicted += len(found)
    wanted += len(expected)
  return {
    "f1": 2 * right / max(predicted + wanted, 1),
    "precision": right / max(predicted, 1),
    "recall": right / max(wanted, 1),
  }


def accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """The share of words that have the right tag."""
  right = words = 0
  for target, prediction in _pairs(targets, predictions):
    right += sum(a == b for a, b in zip(target, prediction, strict=False))
    words += len(target)
  return {"accuracy": right / words}


def by_name(name: str) -> Callable[..., dict[str, float]]:
  """The metric of this name, "entities" or "accuracy".

  Raises:
    ValueError: an unknown name.
  """
  known = {f.__name__: f for f in (entities, accuracy)}
  if name not in known:
    raise ValueError(
      f"TABLE_METRICS has {name!r}; expected some of {sorted(known)}, or "
      "functions from targets and predictions to {name: value}"
    )
  return known[name]


def _pairs(
  targets: Sequence[str], predictions: Sequence[str]
) -> list[tuple[list[str], list[str]]]:
  metrics.check(targets, predictions)
  pairs = [
    (target.split(), prediction.split())
    for target, prediction in zip(targets, predictions, strict=True)
  ]
  for target, prediction in pairs:
    if len(prediction) > len(target):
      raise ValueError(
        f"a prediction has {len(prediction)} tags, and its target has "
        f"{len(target)}; expected at most as many"
      )
  return pairs
