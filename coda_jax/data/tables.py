"""Rows of a user's own files: CSV, TSV, JSON lines or Parquet."""

import csv
import glob
import json
import os
import string
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]

# A field of a CSV file may be a book; csv's own limit is 131,072 characters.
_LONGEST_FIELD = 2**31 - 1


# (where, row), or (where, what is wrong) in place of a bad row.
Rows = Iterator[tuple[str, Row | str]]


class BadRow(NamedTuple):
  """A row that can't be used.

  Attributes:
    where: file and line, or row of a Parquet file; counted from 1.
    why: what is wrong with it.
  """

  where: str
  why: str


class Texts(NamedTuple):
  """Examples in memory: what goes in, and what should come out."""

  inputs: list[str]
  targets: list[str]


def load(
  filepattern: str, *, inputs: str, targets: str, skip_bad_rows: bool = False
) -> Texts:
  """Reads every row of the files that match; arguments as `find`, `read`.

  Args:
    filepattern: a glob.
    inputs: the input's template.
    targets: the target's.
    skip_bad_rows: leave out bad rows, with a warning that counts them.

  Raises:
    FileNotFoundError, ValueError: as `find` and `read`; for a bad row, unless
      they are skipped; and if no row is left.
  """
  found, skipped = Texts([], []), []
  for path in find(filepattern):
    for row in read(path, inputs=inputs, targets=targets):
      if isinstance(row, BadRow):
        if not skip_bad_rows:
          raise ValueError(
            f"{row.where}: {row.why}; mend the row, or set"
            " table_task.skip_bad_rows = True."
          )
        skipped.append(row)
      else:
        found.inputs.append(row[0])
        found.targets.append(row[1])
  if skipped:
    warnings.warn(
      f"{filepattern}: left out {len(skipped)} bad rows of"
      f" {len(skipped) + len(found.inputs)}; the first is {skipped[0].where}:"
      f" {skipped[0].why}",
      stacklevel=2,
    )
  if not found.inputs:
    raise ValueError(f"{filepattern}: no usable row in these files.")
  return found


def find(filepattern: str) -> list[str]:
  """Returns the files that match a glob, sorted.

  Raises:
    FileNotFoundError: if there are none.
    ValueError: if the ending of one is of no known format.
  """
  paths = sorted(glob.glob(filepattern))
  if not paths:
    raise FileNotFoundError(
      f"No file matches {filepattern!r}: expected .csv, .tsv, .jsonl or"
      " .parquet files with a column for each name in the templates."
    )
  for path in paths:
    _check_ending(path)
  return paths


def check(path: str) -> None:
  """Checks that there is a file of this name, and of a known format.

  Raises:
    FileNotFoundError: if there is none; no glob is tried.
    ValueError: if its ending is of no known format.
  """
  _check_ending(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f"There is no file {path!r}: expected one table.")


def read(
  path: str, *, inputs: str, targets: str
) -> Iterator[tuple[str, str] | BadRow]:
  """Yields each row's input and target text, in the order of the file.

  Args:
    path: the file; its ending says what it is. CSV and TSV start with a line
      of column names; CSV may quote fields (RFC 4180), TSV has no quotes.
    inputs: a template with columns in braces, "question: {question}".
    targets: likewise.

  Yields:
    (input, target), or a `BadRow` in place of a row that can't be read or
    lacks a column.
  """
  return fill(_READERS[_ending(path)](path), inputs=inputs, targets=targets)


def fill(
  rows: Rows, *, inputs: str, targets: str
) -> Iterator[tuple[str, str] | BadRow]:
  """Fills the templates with each row; see `read`."""
  columns = sorted({*template_columns(inputs), *template_columns(targets)})
  for where, row in rows:
    why = row if isinstance(row, str) else _missing(row, columns)
    if not why:
      try:
        filled = inputs.format_map(row), targets.format_map(row)
      # A format such as {n:d} may not suit the value that a row has.
      except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
        why = f"a value does not fit the template: {error}"
    yield BadRow(where, why) if why else filled


def template_columns(template: str) -> list[str]:
  """Returns the columns that a template names.

  Raises:
    ValueError: if it is no template, or holds anything but plain names.
  """
  try:
    parts = list(string.Formatter().parse(template))
  except ValueError as error:
    raise ValueError(
      f"template {template!r}: {error}; write {{{{ or }}}} for a brace."
    ) from error
  names = [name for _, name, _, _ in parts if name is not None]
  for name in names:
    # No attributes and no items of a value: a column is text or a number. A
    # number would be that of an argument, which there is none of.
    if not name or set(name) & set(".[]") or name.isdigit():
      raise ValueError(
        f"template {template!r} names no column with {{{name}}}: expected"
        " {column}."
      )
  for _, name, how, _ in parts:
    if how and "{" in how:
      raise ValueError(
        f"template {template!r} has a column in the format of {{{name}}}:"
        " expected plain text behind the colon, as in {column:>5}."
      )
  return names


def _missing(row: Row, columns: Iterable[str]) -> str:
  absent = [name for name in columns if row.get(name) is None]
  if not absent:
    return ""
  return f"no value for {', '.join(absent)}; it has {', '.join(map(str, row))}"


def _check_ending(path: str) -> None:
  if _ending(path) not in _READERS:
    raise ValueError(
      f"{path}: a table ends in one of {', '.join(sorted(_READERS))}."
    )


def _ending(path: str) -> str:
  return os.path.splitext(path)[1].lower()


def _read_csv(path: str) -> Rows:
  return _delimited(path, delimiter=",", strict=True)


def _read_tsv(path: str) -> Rows:
  return _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(path: str, **dialect: Any) -> Rows:
  csv.field_size_limit(_LONGEST_FIELD)
  # Escaped, a bad byte spoils its own row alone.
  with open(
    path, encoding="utf-8-sig", errors="surrogateescape", newline=""
  ) as file:
    reader = csv.reader(file, **dialect)
    header = None
    while True:
      where = f"{path}, line {reader.line_num + 1}"
      try:
        fields = next(reader, None)
        why = _not_utf_8(fields or ())
      except csv.Error as error:
        fields, why = [], str(error)
        if why == "unexpected end of data":  # All rows to the end are in it.
          raise ValueError(
            f"{where}: a quote opens in this row and never closes; close it, "
            'or write "" for a quote within quotes'
          ) from error
      if fields is None:
        return
      if why and header is None:
        raise ValueError(f"{where}: no column names: {why}; mend the line")
      if why:
        yield where, why
      elif fields and header is None:
        header = fields
      elif fields and len(fields) != len(header):
        yield where, f"{len(fields)} fields, the header has {len(header)}"
      elif fields:
        yield where, dict(zip(header, fields, strict=True))


def _not_utf_8(fields: Iterable[str]) -> str:
  """What is wrong with texts that were read with bad bytes escaped."""
  try:
    "".join(fields).encode()
  except UnicodeEncodeError as error:
    byte = ord(error.object[error.start]) & 0xFF
    return f"not UTF-8: it has the byte 0x{byte:02x}"
  return ""


def json_lines(lines: Iterable[bytes], name: str) -> Rows:
  """The rows of JSON lines; `name` is for messages, blank lines are none."""
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f"{name}, line {number}"
    try:
      row = json.loads(line)
      if b"\\u" in line:  # Half of a surrogate pair is no text.
        json.dumps(row, ensure_ascii=False).encode()
    except ValueError as error:  # of the encoding too
      yield where, f"not JSON in UTF-8: {error}"
      continue
    except RecursionError:
      yield where, "lists or objects in one another, too deep to be read"
      continue
    yield where, row if isinstance(row, dict) else "not a JSON object"


def text_lines(lines: Iterable[bytes], name: str) -> Rows:
  """Plain text: every line is a row with the one column `text`."""
  for number, line in enumerate(lines, 1):
    where = f"{name}, line {number}"
    try:
      text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
      yield where, f"not UTF-8: {error}"
      continue
    yield where, {"text": text.rstrip("\r\n")}


def _read_json_lines(path: str) -> Rows:
  with open(path, "rb") as file:
    yield from json_lines(file, path)


def _read_parquet(path: str) -> Rows:
  from pyarrow import ArrowInvalid, parquet

  number = 0
  try:
    with parquet.ParquetFile(path) as file:
      for batch in file.iter_batches():
        for row in batch.to_pylist():
          number += 1
          yield f"{path}, row {number}", row
  except ArrowInvalid as error:
    raise ValueError(f"{path}: not a whole Parquet file: {error}") from error


_READERS = {
  ".csv": _read_csv,
  ".tsv": _read_tsv,
  ".jsonl": _read_json_lines,
  ".parquet": _read_parquet,
}
