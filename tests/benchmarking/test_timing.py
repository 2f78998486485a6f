import json

import pytest

from coda_jax import analysis
from coda_jax.benchmarking import timing


@pytest.fixture
def subject(monkeypatch):
  """A function that makes a subject; its time is what its call returns."""

  def times(calls, repeats):
    return {name: [call()] * repeats for name, call in calls.items()}

  monkeypatch.setattr(analysis, "paired_times", times)

  def make(name, milliseconds, **counted):
    return timing.Subject(
      {"method": name},
      lambda: timing.Call(lambda: milliseconds, **counted),
    )

  return make


def test_everything_is_over_the_first(subject):
  first, second, third = timing.measure(
    [
      subject("a", 12.0, flops=90.0, peak_bytes=300),
      subject("b", 3.0, flops=15.0, peak_bytes=200),
      subject("c", 24.0),
    ],
    repeats=3,
  )
  assert first["method"] == "a" and first["speedup"] == first["share"] == 1
  assert second["median_ms"] == second["low_ms"] == second["high_ms"] == 3
  assert second["speedup"] == 4
  assert second["flop_ratio"] == 6
  assert second["share"] == pytest.approx(4 / 6)
  assert second["memory_ratio"] == 1.5
  assert third["speedup"] == 0.5
  assert third["flop_ratio"] is third["share"] is None
  assert "memory_ratio" not in third
  json.dumps([first, second, third])


def test_building_is_no_part_of_the_time():
  def build():
    total = sum(range(300_000))
    return timing.Call(lambda: total)

  (row,) = timing.measure([timing.Subject({}, build)], repeats=3)
  assert row["first_ms"] > 10 * row["median_ms"]
