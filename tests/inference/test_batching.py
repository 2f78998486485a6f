import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from coda_jax.inference import batching


@pytest.mark.parametrize(
  ("longest", "expected"),
  [
    (8, [8]),
    (16, [16]),
    (17, [16, 17]),
    (512, [16, 32, 64, 128, 256, 512]),
    (300, [16, 32, 64, 128, 256, 300]),
  ],
)
def test_few_lengths(longest, expected):
  assert batching.bucket_lengths(longest) == expected


@hypothesis.given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 9))
def test_every_input_is_in_one_batch_that_it_fits(lengths, batch_size):
  buckets = batching.bucket_lengths(100)
  batches = batching.plan(lengths, batch_size, buckets)
  places = list(itertools.chain.from_iterable(b.places for b in batches))
  assert sorted(places) == list(range(len(lengths)))
  for batch in batches:
    longest = max(lengths[place] for place in batch.places)
    # The shortest that fits.
    assert batch.length == min(b for b in buckets if b >= longest)
    assert len(batch.places) <= batch_size
  assert all(len(batch.places) == batch_size for batch in batches[:-1])
  # No more rows of other lengths beside each other than sorting needs.
  assert [lengths[place] for place in places] == sorted(lengths, reverse=True)


def test_pad():
  batch = batching.pad([[5, 1], [], [7, 8, 1]], 4, 5)
  expected = [[5, 1, 0, 0, 0], [0] * 5, [7, 8, 1, 0, 0], [0] * 5]
  np.testing.assert_array_equal(batch, expected)
  assert batch.dtype == np.int32


def test_windows():
  assert list(batching.windows(range(5), 2)) == [[0, 1], [2, 3], [4]]
  assert list(batching.windows(range(4), 2)) == [[0, 1], [2, 3]]
  assert list(batching.windows([], 2)) == []


@pytest.mark.parametrize("kind", [ValueError, OSError, RecursionError])
def test_what_came_before_a_failure_is_not_lost(kind):
  def stream():
    yield from range(3)
    raise kind("bad row")

  found = []
  with pytest.raises(kind, match="bad row"):
    for window in batching.windows(stream(), 2):
      found.append(window)
  assert found == [[0, 1], [2]]
