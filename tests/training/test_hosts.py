"""What processes say to each other; tests/test_processes.py has real ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.training import hosts, process


@pytest.fixture
def as_process(monkeypatch):
  """Makes this process the first of two, and then the other one.

  What the first has said is kept, and is what the other one hears.
  """
  said = []

  def become(index):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    heard = iter(list(said))

    def broadcast(value):
      if index == 0:
        said.append(np.array(value))
        return said[-1]
      value, spoken = np.asarray(value), next(heard)
      # Else the real one would wait for ever.
      assert (value.shape, value.dtype) == (spoken.shape, spoken.dtype)
      return spoken

    monkeypatch.setattr(hosts, "_broadcast", broadcast)

  return become


def test_the_first_tells_the_others(as_process):
  as_process(0)
  assert hosts.from_first(lambda: {"a": [1.5, None]}) == {"a": [1.5, None]}
  as_process(1)
  assert hosts.from_first(pytest.fail) == {"a": [1.5, None]}


def test_a_folder_in_use_is_refused_by_all(as_process, tmp_path):
  with process.alone_in(tmp_path):
    for index in (0, 1):
      as_process(index)
      with pytest.raises(ValueError, match="is in use by process"):
        with process.alone_in(tmp_path):
          pass


def test_one_writes_what_all_hold(as_process):
  params = {"a": jnp.arange(3.0), "b": {"c": jnp.ones((2, 2))}}
  written = {}

  def write(tree):
    for _ in range(2):  # In any order, and as often as it likes.
      written["c"] = np.asarray(tree["b"]["c"])
      written["a"] = np.asarray(tree["a"])

  as_process(0)
  hosts.write_together(params, write)
  np.testing.assert_array_equal(written["a"], params["a"])
  np.testing.assert_array_equal(written["c"], params["b"]["c"])
  as_process(1)
  hosts.write_together(params, pytest.fail)


def test_a_failed_write_fails_in_all(as_process):
  def write(tree):
    np.asarray(tree["a"])
    raise OSError("disk full")

  for index, message in ((0, "disk full"), (1, "first process could not save")):
    as_process(index)
    with pytest.raises(OSError, match=message):
      hosts.write_together({"a": jnp.ones(2)}, write)


def test_alone_there_is_nothing_to_agree_on():
  assert hosts.is_first()
  assert hosts.from_first(lambda: {"a": 1}) == {"a": 1}
  written = []
  hosts.write_together({"a": 1}, written.append)
  assert written == [{"a": 1}]
