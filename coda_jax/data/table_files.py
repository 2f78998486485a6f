"""Rows of files: CSV, TSV, JSON, JSON lines, Parquet and plain text."""

import csv
import gzip
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

Row = Mapping[str, Any]

# (where, row), or (where, what is wrong) in place of a bad row.
Rows = Iterator[tuple[str, Row | str]]

# A field of a CSV file may be a book; csv's own limit is 131,072 characters.
_LONGEST_FIELD = 2**31 - 1


class Repeated(NamedTuple):
  """Takes the place of a JSON object that has a key twice.

  Attributes:
    key: the first of its keys that is repeated.
  """

  key: str


def check_ending(path: str) -> None:
  """Checks that a file's name ends in a known format.

  Raises:
    ValueError: another ending.
  """
  ending, compression = _endings(path)
  if ending not in _READERS or (compression and ending == ".parquet"):
    raise ValueError(
      f"{path}: a table ends in one of {', '.join(sorted(_READERS))}; all but "
      f".parquet may be compressed, with {' or '.join(_OPENERS)} after that"
    )


def read(path: str) -> Rows:
  """Yields the rows of a table, in the order of the file.

  Args:
    path: the file; its ending tells the format. CSV and TSV start with a line
      of column names; CSV may quote fields (RFC 4180), TSV has no quotes.

  Yields:
    (where, row), with file and line, or row, counted from 1; in place of a bad
    row, (where, what is wrong with it).

  Raises:
    ValueError: the file as a whole can't be read, or is cut or damaged.
  """
  ending, compression = _endings(path)
  where = "row 0"
  try:
    for where, row in _READERS[ending](path):
      yield where, row
  except (EOFError, OSError, zlib.error) as error:
    # The operating system's own errors have a number.
    if not compression or getattr(error, "errno", None) is not None:
      raise
    raise ValueError(
      f"{path}: the compressed file is cut or damaged, after "
      f"{where.removeprefix(f'{path}, ')}: {error}; compress or copy it again"
    ) from error


def json_lines(lines: Iterable[bytes], name: str) -> Rows:
  """The rows of JSON lines; `name` is for messages, blank lines are skipped."""
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f"{name}, line {number}"
    try:
      row = _loads(line)
    except ValueError as error:  # of the encoding too
      yield where, f"not JSON in UTF-8: {error}"
      continue
    except RecursionError:
      yield where, "lists or objects are nested too deep to be read"
      continue
    yield where, _json_row(row)


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


def _endings(path: str) -> tuple[str, str]:
  """The file's format, ".csv", and its compression, ".gz" or ""."""
  rest, ending = os.path.splitext(path.lower())
  if ending in _OPENERS:
    return os.path.splitext(rest)[1], ending
  return ending, ""


def _open(path: str) -> BinaryIO:
  _, compression = _endings(path)
  return _OPENERS[compression](path) if compression else open(path, "rb")


def _open_zstd(path: str) -> BinaryIO:
  # The standard library can from Python 3.14 on.
  from pyarrow import input_stream

  return io.BufferedReader(input_stream(path, compression="zstd"))


def _check_names(where: str, names: Sequence[str]) -> None:
  """Refuses a column that stands twice; spreadsheets leave nameless ones."""
  counts = Counter(name for name in names if name)
  if twice := [name for name, count in counts.items() if count > 1]:
    raise ValueError(
      f"{where}: the column {twice[0]!r} stands twice in the header; rename or "
      "remove one of them"
    )


def _read_csv(path: str) -> Rows:
  return _delimited(path, delimiter=",", strict=True)


def _read_tsv(path: str) -> Rows:
  return _delimited(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(path: str, **dialect: Any) -> Rows:
  csv.field_size_limit(_LONGEST_FIELD)
  # Bad bytes are escaped, so that each spoils its own row only.
  with (
    _open(path) as binary,
    io.TextIOWrapper(
      binary, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as file,
  ):
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
        raise ValueError(f"{where}: no column names: {why}; correct the line")
      if why:
        yield where, why
      elif fields and header is None:
        header = fields
        _check_names(where, header)
      elif fields and len(fields) != len(header):
        yield where, f"{len(fields)} fields, the header has {len(header)}"
      elif fields:
        yield where, dict(zip(header, fields, strict=True))


def _not_utf_8(fields: Iterable[str]) -> str:
  """Describes the first bad byte of texts that were read with these escaped."""
  try:
    "".join(fields).encode()
  except UnicodeEncodeError as error:
    byte = ord(error.object[error.start]) & 0xFF
    return f"not UTF-8: it has the byte 0x{byte:02x}"
  return ""


def _read_json_lines(path: str) -> Rows:
  with _open(path) as file:
    yield from json_lines(file, path)


def _read_json(path: str) -> Rows:
  with _open(path) as file:
    content = file.read()
  try:
    rows = _loads(content)
  except (RecursionError, ValueError) as error:
    raise ValueError(
      f"{path}: not JSON in UTF-8: {error}; JSON lines end in .jsonl"
    ) from error
  if not isinstance(rows, list):
    raise ValueError(
      f"{path}: expected a list of objects, [{{...}}, ...]; JSON lines end in "
      ".jsonl"
    )
  for number, row in enumerate(rows, 1):
    yield f"{path}, row {number}", _json_row(row)


def _loads(content: bytes) -> Any:
  value = json.loads(content, object_pairs_hook=_object)
  if b"\\u" in content:  # Half of a surrogate pair is not text.
    json.dumps(value, ensure_ascii=False).encode()
  return value


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any] | Repeated:
  members = dict(pairs)
  if len(members) == len(pairs):
    return members
  counts = Counter(key for key, _ in pairs)
  return Repeated(next(key for key, count in counts.items() if count > 1))


def _json_row(value: Any) -> Row | str:
  if isinstance(value, Repeated):
    return f"the key {value.key!r} stands twice; remove one of them"
  return value if isinstance(value, dict) else "not a JSON object"


def _read_parquet(path: str) -> Rows:
  from pyarrow import ArrowInvalid, parquet

  number = 0
  try:
    with parquet.ParquetFile(path) as file:
      _check_names(path, file.schema_arrow.names)
      for batch in file.iter_batches():
        for row in batch.to_pylist():
          number += 1
          yield f"{path}, row {number}", row
  except ArrowInvalid as error:
    raise ValueError(f"{path}: not a whole Parquet file: {error}") from error


_OPENERS = {".gz": gzip.open, ".zst": _open_zstd}
_READERS = {
  ".csv": _read_csv,
  ".json": _read_json,
  ".jsonl": _read_json_lines,
  ".parquet": _read_parquet,
  ".tsv": _read_tsv,
}
