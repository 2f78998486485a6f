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
  """Refuses a path for a new folder that already holds something.

  Args:
    path: a pathlib or etils path.

  Raises:
    FileExistsError: it is a file, a folder that is not empty, or the current
      folder.
  """
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f"{path} already exists and is not empty; choose another folder or "
      "remove it"
    )
  if os.path.realpath(path) == os.getcwd():
    raise FileExistsError(
      f"{path} is the current folder; choose another folder"
    )


@contextlib.contextmanager
def aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary file or folder that replaces `path` at the end.

  If the body raises, `path` keeps its content. A link to a folder stays a link:
  its target is replaced.

  The temporary name contains the process and its host, `.model.123-host.tmp`,
  so writers on a shared file system do not collide. Leftovers of killed writers
  are removed: those of this host at once, because it knows its processes, those
  of other hosts after a day without a write.
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
  """Restores a folder whose writer was killed while `aside` replaced it.

  Call it before reading a folder that is replaced repeatedly.
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
    FileNotFoundError: it does not exist.
    ValueError: it is not a JSON object.
  """
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist")
  try:
    fields = json.loads(path.read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} is not valid JSON: {error}") from error
  if not isinstance(fields, dict):
    raise ValueError(
      f"{path} holds a {type(fields).__name__}; expected a JSON object"
    )
  return fields


@contextlib.contextmanager
def naming(what: Any) -> Iterator[None]:
  """Names a file, or a part of one, in errors that its values cause.

  Raises:
    ValueError: a value is missing, of another type or out of range.
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
  """Whether a file or folder is a leftover of a killed writer of `name`.

  Earlier versions did not write the host: it counts as another host.
  """
  parts = re.fullmatch(
    rf"\.{re.escape(name)}\.(\d+)(?:-(.+))?\.tmp", neighbour.name
  )
  if parts is None:
    return False
  if parts[2] == socket.gethostname():
    # With our own number, it belongs to an earlier process of this number.
    return int(parts[1]) == os.getpid() or not _is_running(int(parts[1]))
  try:
    return time.time() - neighbour.lstat().st_mtime > _DAY
  except FileNotFoundError:  # Its writer has just renamed it.
    return False


def _is_running(process: int) -> bool:
  """Whether this host has a process of that number, by sending no signal."""
  try:
    os.kill(process, 0)
  except (ProcessLookupError, OverflowError):
    return False
  except PermissionError:  # Another user's process.
    return True
  return True


def _sync(path: pathlib.Path) -> None:
  """Writes a file's content to disk, before its new name."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())


def _remove(path: pathlib.Path) -> None:
  if path.is_dir() and not path.is_symlink():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
