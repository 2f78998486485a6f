import pytest

from coda_jax.data import metrics

LABELS = ("no", "yes")


def test_accuracy():
  scores = metrics.accuracy(["tech", "sport", "a"], ["tech", "tech", " a "])
  assert scores == {"accuracy": pytest.approx(2 / 3)}


def test_f1_by_hand():
  # Of "yes": one right, one missed, one too many: 2 / (2 + 1 + 1).
  scores = metrics.f1(
    ["yes", "yes", "no", "no"], ["yes", "no", "yes", "no"], labels=LABELS
  )
  assert scores == {"f1": 0.5}


def test_f1_of_what_is_no_label():
  # Wrong each time: one missed, one too many, of three "yes".
  scores = metrics.f1(["yes", "yes", "no"], ["yes", "?", "?"], labels=LABELS)
  assert scores == {"f1": 0.5}
  assert metrics.f1(["no"], ["no"], labels=LABELS) == {"f1": 0.0}


def test_macro_f1_by_hand():
  # a: 1; b: one right, one too many of c: 2 / 3; c: 0.
  scores = metrics.macro_f1(
    ["a", "b", "c"], ["a", "b", "b"], labels=("a", "b", "c")
  )
  assert scores == {"macro_f1": pytest.approx((1 + 2 / 3) / 3)}


def test_matthews_by_hand():
  # TP 1, TN 2, FP 1, FN 0: (2 - 0) / sqrt(2 * 1 * 3 * 2).
  scores = metrics.matthews(
    ["yes", "no", "no", "no"], ["yes", "yes", "no", "no"], labels=LABELS
  )
  assert scores == {"matthews": pytest.approx(2 / 12**0.5)}
  assert metrics.matthews(["no", "yes"], ["no", "no"], labels=LABELS) == {
    "matthews": 0.0
  }


def test_whatever_is_no_label_is_one_class():
  targets = ["yes", "no", "yes"]
  one = metrics.matthews(targets, ["yes", "x", "x"], labels=LABELS)
  assert metrics.matthews(targets, ["yes", "x", "y"], labels=LABELS) == one


def test_correlations_by_hand():
  # Deviations (-1, 0, 1) and (-2, -1, 3): 5 / sqrt(2 * 14); the ranks agree.
  scores = metrics.correlations(["1.0", "2.0", "3.0"], ["1", "2", "6.0"])
  assert scores == {
    "pearson": pytest.approx(5 / 28**0.5),
    "spearman": pytest.approx(1.0),
  }


def test_correlations_with_what_is_no_number():
  for text in ("?", "nan", "-inf", ""):
    found = metrics.correlations(["0.0", "1.0", "2.0"], [text, "0", "1"])
    assert found == {"pearson": pytest.approx(1), "spearman": pytest.approx(1)}
  same = metrics.correlations(["0.0", "1.0"], ["3", "3"])
  assert same == {"pearson": 0.0, "spearman": 0.0}


def test_rouge_by_hand():
  # One word of two against one of four, the stems "win" being equal:
  # precision 1/4, recall 1/2, F 1/3; no pair of words in common.
  scores = metrics.rouge(["Arsenal wins"], ["they may win again"])
  assert scores["rouge1"] == pytest.approx(1 / 3)
  assert scores["rouge2"] == 0.0
  assert scores["rougeL"] == pytest.approx(1 / 3)


def test_rouge_is_a_mean():
  scores = metrics.rouge(["a b", "c d"], ["a b", "x y"])
  assert scores == {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5}


@pytest.mark.parametrize(
  "metric", [metrics.accuracy, metrics.correlations, metrics.rouge]
)
def test_lengths_must_agree(metric):
  with pytest.raises(ValueError, match="1 predictions and 2 targets"):
    metric(["a", "b"], ["a"])
  with pytest.raises(ValueError, match="0 targets"):
    metric([], [])


def test_secret_labels():
  with pytest.raises(ValueError, match="secret.*measure on validation"):
    metrics.accuracy(["<unk>"], ["yes"])
