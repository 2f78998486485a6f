import pytest

from coda_jax.data import qa_metrics


@pytest.mark.parametrize(
  "text, expected",
  [
    ("The  Cat!", "cat"),
    ("An apple, a pear", "apple pear"),
    ("theory of a-b", "theory of ab"),
    ("U.S.", "us"),
    ("\u201cquoted\u201d", "\u201cquoted\u201d"),  # not ASCII, so it stays
    ("the", ""),
  ],
)
def test_normalize(text, expected):
  assert qa_metrics.normalize(text) == expected


def test_squad_by_hand():
  scores = qa_metrics.squad(
    [["the cat"], ["black cat", "cat cat dog"], ["x"]],
    ["Cat.", "cat dog cat dog", "the"],
  )
  # 1 match of 3. The second: 3 words in common of 4 and 3, repeated ones
  # counted, is F 6 / 7; the other answer's is 1 of 4 and 2, less.
  assert scores == {
    "exact_match": pytest.approx(1 / 3),
    "f1": pytest.approx((1 + 6 / 7 + 0) / 3),
  }


def test_answers_without_words():
  scores = qa_metrics.squad([["the", "?"]], ["a"])
  assert scores == {"exact_match": 1.0, "f1": 0.0}


def test_record_counts_a_query_once():
  targets = [(["A", "C"], (1, 2)), (["A", "C"], (1, 2)), (["B"], (2, 2))]
  scores = qa_metrics.record(targets, ["c", "nothing", "nothing"])
  assert scores == {"exact_match": 0.5, "f1": 0.5}


def test_multirc_by_hand():
  targets = [("False", (0, 0)), ("True", (0, 0)), ("True", (0, 1))]
  scores = qa_metrics.multirc(targets, ["True", "True", "True"])
  # Two right of three said: F = 4 / 5. The first question has a mistake.
  assert scores == {"f1": pytest.approx(0.8), "exact_match": 0.5}


def test_secret_answers():
  with pytest.raises(ValueError, match="secret.*measure on validation"):
    qa_metrics.record([([], (0, 0))], ["a"])
  with pytest.raises(ValueError, match="secret.*measure on validation"):
    qa_metrics.multirc([("<unk>", (0, 0))], ["True"])


@pytest.mark.parametrize(
  "metric", [qa_metrics.squad, qa_metrics.record, qa_metrics.multirc]
)
def test_lengths_must_agree(metric):
  with pytest.raises(ValueError, match="2 predictions and 0 targets"):
    metric([], ["a", "b"])
