"""seqio metric functions: (targets, predictions) texts to {name: value}.

Shares and F-measures are 0 to 1, correlations -1 to 1; papers print them times
100. White space at the ends of a text does not count.
"""

from collections.abc import Callable, Sequence

import numpy as np
from rouge_score import rouge_scorer
from scipy import stats
from sklearn import metrics as sklearn_metrics

from coda_jax.data import glue


def accuracy(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """The share of predictions that equal their target."""
  targets, predictions = _stripped(targets, predictions)
  score = sklearn_metrics.accuracy_score(targets, predictions)
  return {"accuracy": float(score)}


def f1(
  targets: Sequence[str], predictions: Sequence[str], *, labels: Sequence[str]
) -> dict[str, float]:
  """The F1 of the second of two labels, as GLUE reports it.

  Args:
    targets: each is one of `labels`.
    predictions: a text that is not a label counts as the wrong one, as in T5.
    labels: (negative, positive).
  """
  targets, predictions = _stripped(targets, predictions)
  negative, positive = labels
  wrong = {negative: positive, positive: negative}
  predictions = [
    guess if guess in labels else wrong[target]
    for target, guess in zip(targets, predictions, strict=True)
  ]
  score = sklearn_metrics.f1_score(
    targets, predictions, pos_label=positive, zero_division=0.0
  )
  return {"f1": float(score)}


def macro_f1(
  targets: Sequence[str], predictions: Sequence[str], *, labels: Sequence[str]
) -> dict[str, float]:
  """The mean of the labels' F1, as SuperGLUE reports it for CB."""
  targets, predictions = _stripped(targets, predictions)
  score = sklearn_metrics.f1_score(
    targets,
    predictions,
    labels=list(labels),
    average="macro",
    zero_division=0.0,
  )
  return {"macro_f1": float(score)}


def matthews(
  targets: Sequence[str], predictions: Sequence[str], *, labels: Sequence[str]
) -> dict[str, float]:
  """Matthews' correlation; texts that are not labels form one more class.

  0 where it is not defined: if all targets or all predictions are equal.
  """
  targets, predictions = _stripped(targets, predictions)
  predictions = [guess if guess in labels else "" for guess in predictions]
  score = sklearn_metrics.matthews_corrcoef(targets, predictions)
  return {"matthews": float(score)}


def correlations(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """The correlations of Pearson and of Spearman between numbers.

  A prediction that is not a finite number counts as -1, as in T5. Both are 0
  where they are undefined: if all targets or all predictions are equal.
  """
  check(targets, predictions)
  left = [float(target) for target in targets]
  right = [_number(guess) for guess in predictions]
  if len(set(left)) == 1 or len(set(right)) == 1:
    return {"pearson": 0.0, "spearman": 0.0}
  return {
    "pearson": float(stats.pearsonr(left, right).statistic),
    "spearman": float(stats.spearmanr(left, right).statistic),
  }


def rouge(
  targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
  """The mean F-measures of ROUGE-1, -2 and -L, stemmed.

  Source: Lin 2004, as the rouge-score package computes it.
  """
  check(targets, predictions)
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


def by_name(name: str) -> Callable[..., dict[str, float]]:
  """The metric of this name; only those that need no labels have one.

  Raises:
    ValueError: an unknown name.
  """
  known = {f.__name__: f for f in (accuracy, correlations, rouge)}
  if name not in known:
    raise ValueError(
      f"unknown metric {name!r}: expected one of {', '.join(known)}, or a"
      " function from targets and predictions to {name: value}"
    )
  return known[name]


def _number(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    return -1.0
  return value if np.isfinite(value) else -1.0


def _stripped(
  targets: Sequence[str], predictions: Sequence[str]
) -> tuple[list[str], list[str]]:
  check(targets, predictions)
  return [t.strip() for t in targets], [p.strip() for p in predictions]


def check(targets: Sequence, predictions: Sequence) -> None:
  """Checks that each prediction has a target to compare with.

  Raises:
    ValueError: no targets, another number of predictions, or a target that says
      that it is secret.
  """
  if not targets or len(targets) != len(predictions):
    raise ValueError(
      "a metric needs one prediction for each target and at least one, got"
      f" {len(predictions)} predictions and {len(targets)} targets"
    )
  if glue.UNLABELLED in targets:
    raise ValueError(
      f"a target is {glue.UNLABELLED!r}: the labels of this split are secret,"
      " as in the test splits of GLUE and SuperGLUE; measure on validation"
    )
