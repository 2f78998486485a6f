"""How good vectors of texts are: retrieval, a probe, and cosines."""

from collections.abc import Sequence

import numpy as np


def ranks(queries: np.ndarray, texts: np.ndarray) -> np.ndarray:
  """The rank of each query's own text among all texts, by cosine.

  Args:
    queries: float [n, dim].
    texts: float [n, dim]; that of row i belongs to the query of row i.

  Returns:
    int [n], 0 for the first place. A text that is as near as the query's own
    one counts as nearer.
  """
  if queries.shape != texts.shape:
    raise ValueError(
      f"queries of the shape {queries.shape}, texts of {texts.shape}; expected "
      "the same: a text for each query"
    )
  similarity = _unit(queries) @ _unit(texts).T
  return (similarity >= np.diagonal(similarity)[:, None]).sum(axis=1) - 1


def retrieval(queries: np.ndarray, texts: np.ndarray) -> dict[str, float]:
  """Whether queries find their own texts; arguments as in `ranks`.

  Returns:
    `first_place`, the share of queries whose own text is the nearest one, and
    `mrr`, the mean reciprocal rank.
  """
  places = ranks(queries, texts)
  return {
    "first_place": float(np.mean(places == 0)),
    "mrr": float(np.mean(1 / (places + 1))),
  }


def probe(
  train: np.ndarray,
  train_labels: Sequence[str],
  test: np.ndarray,
  test_labels: Sequence[str],
) -> float:
  """The accuracy of a logistic regression on vectors of length 1.

  Args:
    train: float [n, dim], to fit.
    train_labels: n of them.
    test: float [m, dim].
    test_labels: m of them.
  """
  from sklearn.linear_model import LogisticRegression

  classifier = LogisticRegression(max_iter=2000, C=10)
  classifier.fit(_unit(train), list(train_labels))
  found = classifier.predict(_unit(test))
  return float(np.mean(found == np.asarray(test_labels)))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
  """The mean cosine of the rows, float [n, dim] twice."""
  return float(np.mean(np.sum(_unit(a) * _unit(b), axis=1)))


def _unit(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
