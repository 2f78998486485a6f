import pytest

from coda_jax.data import metrics


def test_accuracy():
  scores = metrics.accuracy(["tech", "sport", "a"], ["tech", "tech", " a "])
  assert scores == {"accuracy": pytest.approx(2 / 3)}


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


@pytest.mark.parametrize("metric", [metrics.accuracy, metrics.rouge])
def test_lengths_must_agree(metric):
  with pytest.raises(ValueError, match="1 predictions and 2 targets"):
    metric(["a", "b"], ["a"])
  with pytest.raises(ValueError, match="0 targets"):
    metric([], [])
