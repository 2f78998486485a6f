import numpy as np
import pytest

from coda_jax.sentences import retrieval

# The rows' own texts are 0, 1, 2; angles in degrees make the ranks plain.
QUERIES = [0, 40, 90]
TEXTS = [10, 100, 85]  # 40 is nearest to 10, then 85, then its own.


def _vectors(angles):
  radians = np.radians(angles)
  return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_ranks_by_angle_whatever_the_length():
  queries = 7 * _vectors(QUERIES)
  texts = np.array([[1], [3], [0.1]]) * _vectors(TEXTS)
  assert retrieval.ranks(queries, texts).tolist() == [0, 2, 0]
  assert retrieval.retrieval(queries, texts) == {
    "first_place": pytest.approx(2 / 3),
    "mrr": pytest.approx((1 + 1 / 3 + 1) / 3),
  }


def test_equal_texts_are_not_found():
  # Vectors that are all alike must not look like a perfect encoder.
  same = np.ones((4, 3))
  assert retrieval.ranks(same, same).tolist() == [3, 3, 3, 3]


def test_refuses_another_number_of_texts():
  with pytest.raises(ValueError, match="a text for each query"):
    retrieval.ranks(np.ones((2, 3)), np.ones((3, 3)))


def test_cosine_is_the_mean_of_the_rows():
  a, b = _vectors([0, 0]), 5 * _vectors([60, 90])
  assert retrieval.cosine(a, b) == pytest.approx((0.5 + 0) / 2)


def test_probe_fits_directions_and_not_lengths():
  pytest.importorskip("sklearn")
  train, labels = _vectors([0, 5, 90, 95]), ["a", "a", "b", "b"]
  test = np.array([[100.0], [0.01], [1.0]]) * _vectors([-10, 80, 100])
  assert retrieval.probe(train, labels, test, ["a", "b", "b"]) == 1
  assert retrieval.probe(train, labels, test, ["b", "b", "b"]) == (
    pytest.approx(2 / 3)
  )
