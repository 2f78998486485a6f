"""Inputs and targets of a user's own tables, by templates over columns."""

import glob
import os
import string
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from coda_jax.data import table_files


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
            f"{row.where}: {row.why}; correct the row, or leave such rows out"
            " with SKIP_BAD_ROWS=True (table_task.skip_bad_rows)"
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
      f"No file matches {filepattern!r}: expected .csv, .tsv, .json, .jsonl or"
      " .parquet files with a column for each name in the templates."
    )
  for path in paths:
    table_files.check_ending(path)
  return paths


def check(path: str) -> None:
  """Checks that there is a file of this name, and of a known format.

  Raises:
    FileNotFoundError: if there is none; no glob is tried.
    ValueError: if its ending is of no known format.
  """
  table_files.check_ending(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f"There is no file {path!r}: expected one table.")


def read(
  path: str, *, inputs: str, targets: str
) -> Iterator[tuple[str, str] | BadRow]:
  """Yields each row's input and target text, in the order of the file.

  Args:
    path: the file, as for `table_files.read`.
    inputs: a template with columns in braces, "question: {question}".
    targets: the target's template.

  Yields:
    (input, target), or a `BadRow` in place of a row that can't be read or does
    not fit the templates, as for `fill`.
  """
  return fill(table_files.read(path), inputs=inputs, targets=targets)


def fill(
  rows: table_files.Rows,
  *,
  inputs: str,
  targets: str,
  may_be_empty: bool = False,
) -> Iterator[tuple[str, str] | BadRow]:
  """Fills the templates with each row.

  A value is text, a number, or true or false, which read `True` and `False`.
  None, NaN and blank text are no value. Each column of the target needs one,
  and at least one column of the input: a row that lacks it is a bad row.

  Args:
    rows: as `table_files.read` yields.
    inputs: the input's template.
    targets: the target's.
    may_be_empty: take rows without values; the columns must still be there.
  """
  asked, answered = template_columns(inputs), template_columns(targets)
  columns = sorted({*asked, *answered})
  for where, row in rows:
    why = row if isinstance(row, str) else _misfit(row, columns)
    if not why and not may_be_empty:
      why = _lacks_value(row, asked, answered)
    if not why:
      texts = {n: "" if _is_missing(row[n]) else row[n] for n in columns}
      try:
        filled = inputs.format_map(texts), targets.format_map(texts)
      # A format such as {n:d} may not suit the value that a row has.
      except (ArithmeticError, TypeError, ValueError) as error:
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


def _misfit(row: table_files.Row, columns: Sequence[str]) -> str:
  """What of a row no template could take."""
  if absent := [name for name in columns if name not in row]:
    return (
      f"no value for {', '.join(absent)}; it has {', '.join(map(str, row))}"
    )
  for name in columns:
    # As text these would be Python's spelling, which nobody asked for.
    if isinstance(row[name], list | tuple | dict | bytes):
      kind = {list: "a list", bytes: "bytes"}.get(type(row[name]), "an object")
      return (
        f"the value of {name} is {kind}; expected text, a number, or true or "
        "false: write it as the text that the model should see"
      )
  return ""


def _lacks_value(
  row: table_files.Row, asked: Sequence[str], answered: Sequence[str]
) -> str:
  for name in answered:
    if _is_missing(row[name]):
      return f"no value for {name}, which the target needs"
  if asked and all(_is_missing(row[name]) for name in asked):
    return f"no value for {' or '.join(asked)}: the input would be empty"
  return ""


def _is_missing(value: Any) -> bool:
  """None, a float that is NaN, or nothing but white space."""
  is_blank = isinstance(value, str) and not value.strip()
  return value is None or value != value or is_blank
