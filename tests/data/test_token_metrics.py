"""Entities and tags against examples counted by hand."""

import pytest

from coda_jax.data import token_metrics
from coda_jax.data.token_metrics import Span


@pytest.mark.parametrize(
  ("tags", "expected"),
  [
    ("", []),
    ("O O", []),
    ("B-PER I-PER O", [("PER", 0, 2)]),
    ("O B-PER", [("PER", 1, 2)]),
    ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
    ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
    ("O I-LOC I-LOC O I-LOC", [("LOC", 1, 3), ("LOC", 4, 5)]),  # IOB1
    ("I-LOC B-LOC", [("LOC", 0, 1), ("LOC", 1, 2)]),  # IOB1
    ("B I O B", [("", 0, 2), ("", 3, 4)]),
    ("B-a-b I-a-b I-a", [("a-b", 0, 2), ("a", 2, 3)]),
  ],
)
def test_spans(tags, expected):
  found = token_metrics.spans(tags.split())
  assert found == [Span(*span) for span in expected]


@pytest.mark.parametrize("tag", ["NOUN", "S-PER", "E-PER", "B-", "o", "BPER"])
def test_other_tags(tag):
  with pytest.raises(ValueError, match=f"found '{tag}'; .*TABLE_METRICS="):
    token_metrics.spans(["O", tag])


TARGETS = ["B-PER I-PER O B-LOC", "O B-ORG I-ORG O", "O O"]
# Of the first sentence, PER ends too early and LOC is right; of the second, ORG
# is right; of the third, one is made up.
PREDICTIONS = ["B-PER O O B-LOC", "O B-ORG I-ORG O", "B-LOC O"]


def test_shares():
  found = token_metrics.entities(TARGETS, PREDICTIONS)
  assert found == pytest.approx(
    {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7}
  )
  assert next(iter(found)) == "f1"  # What a plot shows.
  found = token_metrics.accuracy(TARGETS, PREDICTIONS)
  assert found == {"accuracy": 8 / 10}


def test_a_name_is_a_part_of_an_entity():
  found = token_metrics.entities(["B-PER I-PER"], ["B-LOC I-LOC"])
  assert found == {"precision": 0, "recall": 0, "f1": 0}


def test_sentences_are_apart():
  """An entity does not go on in the next sentence, nor count there."""
  found = token_metrics.entities(["B-a", "I-a"], ["B-a", "O"])
  assert found == pytest.approx({"precision": 1, "recall": 0.5, "f1": 2 / 3})


def test_a_prediction_that_was_cut():
  targets, predictions = ["B-a O B-a I-a O"], ["B-a O B-a"]
  found = token_metrics.entities(targets, predictions)
  assert found == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5})
  assert token_metrics.accuracy(targets, predictions) == {"accuracy": 3 / 5}
  assert token_metrics.accuracy(["O"], [""]) == {"accuracy": 0}


def test_no_entities():
  assert token_metrics.entities(["O"], ["O"]) == {
    "f1": 0,
    "precision": 0,
    "recall": 0,
  }


def test_what_does_not_fit():
  with pytest.raises(ValueError, match="has 2 tags, and its target has 1"):
    token_metrics.accuracy(["O"], ["O O"])
  with pytest.raises(ValueError, match="got 1 predictions and 2 targets"):
    token_metrics.entities(["O", "O"], ["O"])
  with pytest.raises(ValueError, match=r"'f1'; expected some of \['accuracy'"):
    token_metrics.by_name("f1")
