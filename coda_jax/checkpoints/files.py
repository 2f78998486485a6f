"""Files and folders that are replaced whole, and JSON."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any

# Seconds after which a temporary of another host's process counts as left.
_DAY = 24 * 60 * 60


def check_new(path: Any) -> None:
  """Refuses a place for a new folder where something is.

  Args:
    path: a pathlib or etils path.

  Raises:
    FileExistsError: it is a file, a folder that is not empty, or the folder
      that the program runs in.
  """
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f"{path} is there and not empty; name a new folder, or remove it"
    )
  if os.path.realpath(path) == os.getcwd():
    raise FileExistsError(f"{path} is the current folder; name a new one")


@contextlib.contextmanager
def aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary neighbour that takes the place of `path` at the end.

  For files and folders. Whatever goes wrong inside, what `path` held stays. A
  link to a folder stays one: what it points at is replaced.

  The neighbour's name has the process and its host, `.model.123-host.tmp`, so
  that several writers on a shared file system do not meet. What killed writers
  have left is removed: this host's at once, since it knows its processes, and
  another's once nobody has written to it for a day.
  """
  if path.is_symlink() and not path.is_file():
    path = pathlib.Path(os.path.realpath(path))
  path.parent.mkdir(parents=True, exist_ok=True)
  recover(path)
  temporary = path.with_name(
    f".{path.name}.{os.getpid()}-{socket.gethostname()}.tmp"
  )
  for neighbour in path.parent.iterdir():
    if _is_left(neighbour, path.name):
      _remove(neighbour)
  try:
    yield temporary
    if temporary.is_file():
      _sync(temporary)
      temporary.replace(path)
    elif not path.exists():
      temporary.rename(path)
    else:  # A folder can't be renamed onto one that has files.
      old = _old(path)
      path.rename(old)
      temporary.rename(path)
      _remove(old)
  finally:
    _remove(temporary)


def recover(path: pathlib.Path) -> None:
  """Puts back a folder that `aside` was replacing when its process was killed.

  For whoever reads a folder that is replaced again and again.
  """
  old = _old(path)
  if old.exists():
    if path.exists():
      _remove(old)
    else:
      old.rename(path)


def write_json(path: pathlib.Path, fields: Mapping[str, Any]) -> None:
  """Writes a JSON file, aside and renamed."""
  with aside(path) as temporary:
    temporary.write_text(json.dumps(fields, indent=2) + "\n")


def read_json(path: Any) -> dict[str, Any]:
  """Reads a JSON file that holds an object.

  Args:
    path: a pathlib or etils path.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is not JSON, or no object.
  """
  if not path.exists():
    raise FileNotFoundError(f"{path} is not there")
  try:
    fields = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is no JSON file: {error}") from error
  if not isinstance(fields, dict):
    raise ValueError(f"{path} holds a {type(fields).__name__}, no JSON object")
  return fields


@contextlib.contextmanager
def naming(what: Any) -> Iterator[None]:
  """Names a file, or a part of one, in what its values make go wrong inside.

  Raises:
    ValueError: a value that is absent, of another type or out of range.
  """
  try:
    yield
  except KeyError as error:
    raise ValueError(f"{what} lacks {error}") from error
  except (
    ArithmeticError,
    AttributeError,
    IndexError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(f"{what}: {error}") from error


def _old(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f".{path.name}.old")


def _is_left(neighbour: pathlib.Path, name: str) -> bool:
  """Whether a file or folder is what a killed writer of `name` has left.

  Earlier versions did not write the host, so it counts as another one.
  """
  parts = re.fullmatch(
    rf"\.{re.escape(name)}\.(\d+)(?:-(.+))?\.tmp", neighbour.name
  )
  if parts is None:
    return False
  if parts[2] == socket.gethostname():
    # One with our own number is of an earlier process that had it.
    return int(parts[1]) == os.getpid() or not _is_running(int(parts[1]))
  try:
    return time.time() - neighbour.lstat().st_mtime > _DAY
  except FileNotFoundError:  # Its writer has just renamed it.
    return False


def _is_running(process: int) -> bool:
  """Whether this host has a process of that number, by a signal of none."""
  try:
    os.kill(process, 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:  # It is another user's.
    return True
  return True


def _sync(path: pathlib.Path) -> None:
  """Has the system write a file's content before its new name."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())


def _remove(path: pathlib.Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
