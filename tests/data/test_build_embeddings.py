import numpy as np
import pytest


@pytest.fixture(scope="module")
def script(load_script):
  return load_script("build_embeddings")


def test_counts_by_hand(script, monkeypatch):
  monkeypatch.setattr(script, "WINDOW", 2)
  counted = script.counts([[0, 1, 0], [2], [1, 3]], 4)
  # 0-1 twice at distance 1; 0-0 once at distance 2, seen from both ends.
  expected = np.zeros((4, 4))
  expected[0, 1] = expected[1, 0] = 2
  expected[0, 0] = 2
  expected[1, 3] = expected[3, 1] = 1
  np.testing.assert_array_equal(counted, expected)


def test_embeddings_bring_neighbours_together(script):
  # Two topics of five tokens each; token 10 is never seen.
  random = np.random.default_rng(0)
  documents = [
    (random.integers(0, 5, 30) + 5 * (i % 2)).tolist() for i in range(40)
  ]
  rows = script.embeddings(script.counts(documents, 11), 3)
  assert rows.shape == (11, 3) and rows.dtype == np.float32
  np.testing.assert_allclose(np.mean(rows[:10] ** 2, axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(rows[10], 0)
  cosines = rows[:10] @ rows[:10].T / 3
  same = np.equal.outer(np.arange(10) < 5, np.arange(10) < 5)
  assert cosines[same].min() > 0.8 and np.abs(cosines[~same]).max() < 0.2
