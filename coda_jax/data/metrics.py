"""seqio metric functions: (targets, predictions) texts to {name: value}."""

from collections.abc import Sequence

from rouge_score import rouge_scorer


def accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns the share, 0 to 1, of predictions that equal their target."""
  _check(targets, predictions)
  pairs = zip(targets, predictions, strict=True)
  right = sum(target.strip() == guess.strip() for target, guess in pairs)
  return {"accuracy": right / len(targets)}


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """Returns the mean F-measures, 0 to 1, of ROUGE-1, -2 and -L, stemmed.

  Source: Lin 2004, as the rouge-score package computes it.
  """
  _check(targets, predictions)
  names = ("rouge1", "rouge2", "rougeL")
  scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
  scores = [
    scorer.score(target, guess)
    for target, guess in zip(targets, predictions, strict=True)
  ]
  return {
    name: sum(score[name].fmeasure for score in scores) / len(scores)
    for name in names
  }


def _check(targets: Sequence[str], predictions: Sequence[str]) -> None:
  if not targets or len(targets) != len(predictions):
    raise ValueError(
      "A metric needs one prediction for each target and at least one, got"
      f" {len(predictions)} predictions and {len(targets)} targets."
    )
