"""Results as JSON lines, which a later run continues."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from coda_jax.checkpoints import files
from coda_jax.inference import settings
from coda_jax.inference.sources import Example
from coda_jax.training import process

STDOUT = "-"

Record = Mapping[str, Any]


def write_lines(path: pathlib.Path, records: Iterable[Record]) -> None:
  """Writes a whole file of JSON lines, aside and renamed."""
  with files.aside(path) as temporary:
    with open(temporary, "w", encoding="utf-8") as file:
      append(file, records)


def append(file: TextIO, records: Iterable[Record]) -> None:
  """Adds JSON lines, and hands them to the operating system.

  Raises:
    OSError: it does not take them, naming the file.
  """
  name = getattr(file, "name", STDOUT)
  for record in records:
    line = json.dumps(record, ensure_ascii=False) + "\n"
    with _naming(name):
      file.write(line)
  with _naming(name):
    file.flush()


@contextlib.contextmanager
def opened(
  folder: str, name: str, depends_on: settings.Settings
) -> Iterator[TextIO]:
  """Opens `folder/name` at its end, or standard output for "-".

  A last line that a killed run has left half-written is dropped. Where nobody
  reads standard output any more, the body ends, as if it had all been written.

  Args:
    folder: made if it is not there.
    name: of the file.
    depends_on: what the results depend on; kept beside them.

  Raises:
    ValueError: the file has results of other settings, or another process is
      writing to the folder.
  """
  if folder == STDOUT:
    with _while_read():
      yield sys.stdout
    return
  lines = pathlib.Path(folder) / name
  with process.alone_in(folder, "INFER_OUTPUT_DIR"):
    if lines.exists() and lines.stat().st_size:
      settings.check(lines, depends_on)
      _drop_half_line(lines)
    else:
      with _naming(settings.path_for(lines)):
        files.write_json(settings.path_for(lines), depends_on)
    file = open(lines, "a", encoding="utf-8")
    try:
      yield file
    except BaseException:
      # What could not be written is tried once more, and has been reported.
      with contextlib.suppress(OSError):
        file.close()
      raise
    file.close()


def skip_done(file: TextIO, examples: Iterator[Example]) -> int:
  """Takes from `examples` those whose results `file` has; their number.

  Raises:
    ValueError: a result is not that of the input in its place.
  """
  if file is sys.stdout:
    return 0
  done = 0
  # In bytes: what is no text is found in its line.
  with open(file.name, "rb") as lines:
    for done, line in enumerate(lines, 1):
      example = next(examples, None)
      if not _is_result_of(line, example):
        expected = "no more inputs"
        if example is not None:
          expected = f"input {example.index}, {example.input[:60]!r}"
        raise ValueError(
          f"{file.name}, line {done}: not the result of what is to be answered "
          f"now, {expected}; give the inputs that it was begun with, or choose "
          "another INFER_OUTPUT_DIR"
        )
  return done


def _is_result_of(line: bytes, example: Example | None) -> bool:
  if example is None:
    return False
  try:
    record = json.loads(line)
  except (ValueError, RecursionError):
    return False
  if not isinstance(record, dict):
    return False
  found = [record.get(name) for name in ("index", "input", "target")]
  return found == [example.index, example.input, example.target]


@contextlib.contextmanager
def _naming(path: Any) -> Iterator[None]:
  """Names the file that can't be written inside, as on a full disk."""
  try:
    yield
  except BrokenPipeError:
    raise
  except OSError as error:
    raise OSError(
      f"{path} can't be written: {error.strerror}; see to that, and start "
      "again to go on"
    ) from error


@contextlib.contextmanager
def _while_read() -> Iterator[None]:
  """Ends without an error where the reader of standard output has gone."""
  try:
    yield
  except BrokenPipeError:
    # Python flushes it again at its end.
    with open(os.devnull, "wb") as nowhere:
      os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _drop_half_line(path: pathlib.Path) -> None:
  """Cuts a file after its last line feed."""
  with open(path, "rb+") as file:
    end = file.seek(0, os.SEEK_END)
    while end:
      start = max(0, end - (1 << 16))
      file.seek(start)
      found = file.read(end - start).rfind(b"\n")
      if found >= 0:
        file.truncate(start + found + 1)
        return
      end = start
    file.truncate(0)
