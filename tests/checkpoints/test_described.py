"""Weights and their description change together, whenever a write stops."""

import json
import os
import socket
import time

import numpy as np
import pytest

from coda_jax.checkpoints import described, files, tensors
from coda_jax.checkpoints.leaves import leaf_of


def write(folder, value):
  described.write(
    folder / "weights.safetensors",
    folder / "about.json",
    {"x": leaf_of(np.full(3, value, np.float32))},
    {"format": "test", "value": value},
  )


def read(folder):
  fields = described.read(folder / "weights.safetensors", folder / "about.json")
  leaves = tensors.read(folder / "weights.safetensors")
  return fields["value"], leaves["x"].read()[0]


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_write_that_stops_leaves_the_old_or_the_new(
  tmp_path, monkeypatch, renames
):
  """As after kill -9 before the first rename, between the two, and after."""
  write(tmp_path, 1.0)
  done = []
  replace = type(tmp_path).replace

  def stop(path, target):
    if len(done) == renames:
      raise KeyboardInterrupt
    done.append(replace(path, target))

  monkeypatch.setattr(type(tmp_path), "replace", stop)
  if renames < 2:
    with pytest.raises(KeyboardInterrupt):
      write(tmp_path, 2.0)
  else:
    write(tmp_path, 2.0)
  expected = (1.0, 1.0) if renames == 0 else (2.0, 2.0)
  if renames == 1:
    with pytest.warns(UserWarning, match="a save was interrupted"):
      assert read(tmp_path) == expected
  else:
    assert read(tmp_path) == expected


def test_the_description_of_an_older_version_is_not_of_new_weights(tmp_path):
  """A first write over its files that was stopped between the two renames."""
  write(tmp_path, 2.0)
  (tmp_path / "about.json").write_text('{"format": "test", "value": 1.0}')
  with pytest.warns(UserWarning, match="a save was interrupted"):
    assert read(tmp_path) == (2.0, 2.0)


def test_the_description_of_another_format_is_returned(tmp_path):
  """For its reader to refuse."""
  write(tmp_path, 2.0)
  (tmp_path / "about.json").write_text('{"format": "x", "value": 1.0}')
  assert read(tmp_path) == (1.0, 2.0)


def test_the_description_may_be_edited(tmp_path):
  write(tmp_path, 1.0)
  file = tmp_path / "about.json"
  fields = json.loads(file.read_text())
  file.write_text(json.dumps({**fields, "value": 7.0}))
  assert read(tmp_path) == (7.0, 1.0)


def test_weights_of_an_older_version_have_no_copy(tmp_path):
  write(tmp_path, 1.0)
  leaves = {"x": leaf_of(np.full(3, 5, np.float32))}
  tensors.write(tmp_path / "weights.safetensors", leaves, metadata={})
  assert read(tmp_path) == (1.0, 5.0)


def test_weights_that_are_missing_are_named(tmp_path):
  write(tmp_path, 1.0)
  (tmp_path / "weights.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match=r"weights\.safetensors"):
    read(tmp_path)


def test_a_folder_lost_between_two_renames_comes_back(tmp_path):
  place = tmp_path / "best"
  with files.aside(place) as folder:
    folder.mkdir()
    (folder / "a").write_text("1")
  place.rename(tmp_path / ".best.old")  # As after kill -9 in the second write.
  with (
    pytest.raises(OSError, match="disk full"),
    files.aside(place) as folder,
  ):
    raise OSError("disk full")
  assert (place / "a").read_text() == "1"


def test_a_folder_is_no_place_for_a_file(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a/mine").write_text("1")
  with pytest.raises(OSError), files.aside(tmp_path / "a") as temporary:
    temporary.write_text("2")
  assert (tmp_path / "a/mine").read_text() == "1"
  assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_a_file_is_linked_to_stays(tmp_path):
  (tmp_path / "blob").write_text("shared")
  (tmp_path / "a").symlink_to(tmp_path / "blob")
  with files.aside(tmp_path / "a") as temporary:
    temporary.write_text("2")
  assert (tmp_path / "blob").read_text() == "shared"
  assert (tmp_path / "a").read_text() == "2"


HOST = socket.gethostname()
DEAD, DAYS = 999_999_999, 25 * 60 * 60


@pytest.mark.parametrize(
  ("name", "age", "stays"),
  [
    (f".a.PARENT-{HOST}.tmp", DAYS, True),  # A live process writes it.
    (f".a.1-{HOST}.tmp", 0, True),  # Another user's, as a rule.
    (f".a.{DEAD}-{HOST}.tmp", 0, False),
    (f".a.{10**30}-{HOST}.tmp", 0, False),  # No process has such a number.
    (f".a.SELF-{HOST}.tmp", 0, False),  # Had our number before us.
    (f".a.{DEAD}-other.host.tmp", 0, True),  # Not for us to know.
    (f".a.{DEAD}-other.host.tmp", DAYS, False),
    (f".a.{DEAD}.tmp", 0, True),  # Of a version that did not name the host.
    (f".a.{DEAD}.tmp", DAYS, False),
    (f".a.b.{DEAD}-{HOST}.tmp", 0, True),  # Of a file `a.b`.
    (f".ab.{DEAD}-{HOST}.tmp", 0, True),
    (".a.mine.tmp", DAYS, True),
  ],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_removed(tmp_path, kind, name, age, stays):
  """And what another one still writes stays, on a shared file system too."""
  # Not in the parameters: each worker of pytest-xdist must find the same tests.
  name = name.replace("PARENT", str(os.getppid()))
  name = name.replace("SELF", str(os.getpid()))
  half = tmp_path / name
  half.mkdir() if kind == "folder" else half.write_text("half")
  os.utime(half, times=(time.time() - age,) * 2)
  with files.aside(tmp_path / "a") as temporary:
    temporary.mkdir()
  assert {p.name for p in tmp_path.iterdir()} == {"a", *([name] * stays)}


def test_a_link_stays_a_link(tmp_path):
  (tmp_path / "real").mkdir()
  (tmp_path / "link").symlink_to(tmp_path / "real")
  with files.aside(tmp_path / "link") as folder:
    folder.mkdir()
    (folder / "a").write_text("1")
  assert (tmp_path / "link").is_symlink()
  assert (tmp_path / "real/a").read_text() == "1"
  assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]
