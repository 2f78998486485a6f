"""Batches of few shapes from inputs of many lengths.

A compiled program takes one shape. Inputs are sorted by length inside a window
and cut into batches of one size; each batch is padded to the next of a few
lengths. So there are few programs, and little padding. Padding never changes a
result: the lengths affect speed alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")

SHORTEST = 16


class Batch(NamedTuple):
  """Inputs that go through the model together.

  Attributes:
    places: positions of the inputs in the window.
    length: the length to pad them to.
  """

  places: list[int]
  length: int


def bucket_lengths(longest: int) -> list[int]:
  """Powers of two from `SHORTEST` up, and at the end `longest` itself."""
  lengths = []
  length = SHORTEST
  while length < longest:
    lengths.append(length)
    length *= 2
  return [*lengths, longest]


def plan(
  lengths: Sequence[int], batch_size: int, buckets: Sequence[int]
) -> list[Batch]:
  """Assigns every input of a window to a batch.

  Args:
    lengths: of the inputs, in tokens; none above the last bucket.
    batch_size: inputs a batch; the last batch may have fewer.
    buckets: ascending lengths to pad to.

  Returns:
    Batches of neighbours in length, the longest first.
  """
  order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
  batches = []
  for start in range(0, len(order), batch_size):
    places = order[start : start + batch_size]
    longest = lengths[places[0]]
    length = next(bucket for bucket in buckets if bucket >= longest)
    batches.append(Batch(places, length))
  return batches


def pad(
  rows: Sequence[Sequence[int]], batch_size: int, length: int
) -> np.ndarray:
  """int32 [batch_size, length]: the rows, filled up with 0."""
  batch = np.zeros((batch_size, length), np.int32)
  for i, row in enumerate(rows):
    batch[i, : len(row)] = row
  return batch


def windows(examples: Iterable[T], size: int) -> Iterator[list[T]]:
  """Cuts a stream into lists of `size`, the last one shorter.

  If the stream raises, the examples before the error are yielded first.
  """
  window: list[T] = []
  try:
    for example in examples:
      window.append(example)
      if len(window) == size:
        yield window
        window = []
  except Exception:
    if window:
      yield window
    raise
  if window:
    yield window
