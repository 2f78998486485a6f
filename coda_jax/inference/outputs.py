"""Results as JSON lines, which a later run continues."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from coda_jax.checkpoints import files
from coda_jax.inference.sources import Example

STDOUT = "-"
SETTINGS_FILE = "settings.json"

Record = Mapping[str, Any]


def write_lines(path: pathlib.Path, records: Iterable[Record]) -> None:
  """Writes a whole file of JSON lines, aside and renamed."""
  with files.aside(path) as temporary:
    with open(temporary, "w", encoding="utf-8") as file:
      append(file, records)


def append(file: TextIO, records: Iterable[Record]) -> None:
  """Adds JSON lines, and hands them to the operating system."""
  for record in records:
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
  file.flush()


@contextlib.contextmanager
def opened(folder: str, name: str, settings: Record) -> Iterator[TextIO]:
  """Opens `folder/name` at its end, or standard output for "-".

  A last line that a killed run has left half-written is dropped.

  Args:
    folder: made if it is not there.
    name: of the file.
    settings: what the results depend on; kept beside them.

  Raises:
    ValueError: the file has results of other settings.
  """
  if folder == STDOUT:
    yield sys.stdout
    return
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  lines = path / name
  if lines.exists() and lines.stat().st_size:
    _check_settings(path, lines, settings)
    _drop_half_line(lines)
  else:
    files.write_json(path / SETTINGS_FILE, settings)
  with open(lines, "a", encoding="utf-8") as file:
    yield file


def skip_done(file: TextIO, examples: Iterator[Example]) -> int:
  """Takes from `examples` those whose results `file` has; their number.

  Raises:
    ValueError: a result is not that of the input in its place.
  """
  if file is sys.stdout:
    return 0
  done = 0
  with open(file.name, encoding="utf-8") as lines:
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


def _is_result_of(line: str, example: Example | None) -> bool:
  if example is None:
    return False
  try:
    record = json.loads(line)
  except json.JSONDecodeError:
    return False
  if not isinstance(record, dict):
    return False
  found = [record.get(name) for name in ("index", "input", "target")]
  return found == [example.index, example.input, example.target]


def _check_settings(
  folder: pathlib.Path, lines: pathlib.Path, settings: Record
) -> None:
  # As JSON has them, without tuples.
  now = json.loads(json.dumps(settings))
  before = {}
  if (folder / SETTINGS_FILE).exists():
    before = files.read_json(folder / SETTINGS_FILE)
  for name in {**before, **now}:
    if before.get(name) != now.get(name):
      raise ValueError(
        f"{lines} was begun with {name} = {before.get(name)!r}, now it is "
        f"{now.get(name)!r}; choose another INFER_OUTPUT_DIR, or remove that "
        "file to start over"
      )


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
