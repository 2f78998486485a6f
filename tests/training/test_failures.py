"""What a process that fails leaves; tests/test_processes.py has real ones."""

import jax
import pytest

from coda_jax.training import failures


class Service:
  """jax's: keys are set once, and a key that is not there is an error."""

  def __init__(self):
    self.values = {}

  def key_value_set(self, key, value):
    if key in self.values:
      raise jax.errors.JaxRuntimeError("ALREADY_EXISTS")
    self.values[key] = value

  def key_value_try_get(self, key):
    if key not in self.values:
      raise jax.errors.JaxRuntimeError("NOT_FOUND")
    return self.values[key]


@pytest.fixture
def become(monkeypatch):
  service = Service()
  monkeypatch.setattr(failures, "_client", lambda: service)
  monkeypatch.setattr(jax, "process_count", lambda: 3)
  return lambda i: monkeypatch.setattr(jax, "process_index", lambda: i)


def test_the_first_cause_is_told(become):
  become(0)
  assert failures.cause() is None
  become(2)
  failures.tell("no such file", 2)
  assert failures.cause() is None  # Its own is on its screen already.
  become(1)
  failures.tell("another", 1)
  expected = "process 1 of 3 ends: process 2 failed: no such file", 2
  assert failures.cause() == expected


@pytest.mark.parametrize(("index", "stays"), [(0, [failures._STAY]), (1, [])])
def test_the_first_process_stays_for_the_others(
  become, monkeypatch, index, stays
):
  slept, ended = [], []
  monkeypatch.setattr(failures.time, "sleep", slept.append)
  monkeypatch.setattr(failures.os, "_exit", ended.append)
  become(index)
  failures.end(2)
  assert (slept, ended) == (stays, [2])
