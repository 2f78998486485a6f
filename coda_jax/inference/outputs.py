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
  """Adds JSON lines, and flushes them to the operating system.

  Raises:
    OSError: the file can't be written; the message names it.
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

  A half-written last line of a killed run is dropped. If the reader of standard
  output goes away, the body ends without an error.

  Args:
    folder: made if it does not exist.
    name: the name of the file.
    depends_on: settings that the results depend on; kept in a file next to it.

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
      # Closing tries once more to write; the error was reported already.
      with contextlib.suppress(OSError):
        file.close()
      raise
    file.close()


def write_texts(results: pathlib.Path) -> pathlib.Path:
  """Writes the predictions of `x.jsonl` to `x.txt`, one a line; returns it."""
  path = results.with_suffix(".txt")
  with (
    files.aside(path) as temporary,
    _naming(path),
    open(results, encoding="utf-8") as lines,
    open(temporary, "w", encoding="utf-8") as file,
  ):
    for line in lines:
      file.write(json.loads(line)["prediction"] + "\n")
  return path


def skip_done(file: TextIO, examples: Iterator[Example]) -> int:
  """Skips the examples whose results `file` has, and returns their number.

  Raises:
    ValueError: a result belongs to another input.
  """
  if file is sys.stdout:
    return 0
  done = 0
  # Read as bytes: a line that is not text can then be named by its number.
  with open(file.name, "rb") as lines:
    for done, line in enumerate(lines, 1):
      example = next(examples, None)
      if not _is_result_of(line, example):
        expected = "no more inputs"
        if example is not None:
          expected = f"input {example.index}, {example.input[:60]!r}"
        raise ValueError(
          f"{file.name}, line {done}: does not match the current input "
          f"({expected}); use the original inputs, or choose another "
          "INFER_OUTPUT_DIR"
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
  fields = [record.get(name) for name in ("index", "input", "target")]
  return fields == [example.index, example.input, example.target]


@contextlib.contextmanager
def _naming(path: Any) -> Iterator[None]:
  """Names the file in an error of writing, as on a full disk."""
  try:
    yield
  except BrokenPipeError:
    raise
  except OSError as error:
    raise OSError(
      f"cannot write {path}: {error.strerror}. Fix that, and run the same "
      "command to resume"
    ) from error


@contextlib.contextmanager
def _while_read() -> Iterator[None]:
  """Ends without an error when the reader of standard output goes away."""
  try:
    yield
  except BrokenPipeError:
    # Python flushes standard output once more at its end.
    with open(os.devnull, "wb") as nowhere:
      os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _drop_half_line(path: pathlib.Path) -> None:
  """Cuts a file after its last line feed."""
  with open(path, "rb+") as file:
    end = file.seek(0, os.SEEK_END)
    while end:
      start = max(0, end - (1 << 16))
      file.seek(start)
      last = file.read(end - start).rfind(b"\n")
      if last >= 0:
        file.truncate(start + last + 1)
        return
      end = start
    file.truncate(0)
