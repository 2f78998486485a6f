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
  """Examples in memory: inputs and their targets.

  Attributes:
    inputs: a text each.
    targets: one for each input.
    pairs: the second text of each input; None if inputs are single texts.
  """

  inputs: list[str]
  targets: list[str]
  pairs: list[str] | None = None


def load(
  filepattern: str,
  *,
  inputs: str,
  targets: str,
  pairs: str | None = None,
  skip_bad_rows: bool = False,
) -> Texts:
  """Reads every row of the files that match a glob.

  Args:
    filepattern: the glob; see `find`.
    inputs: the input's template; see `read`.
    targets: the target's template.
    pairs: the template of a second text; None for none.
    skip_bad_rows: leave out bad rows, with a warning that counts them.

  Raises:
    FileNotFoundError, ValueError: no usable row, or a bad one, unless they are
      skipped; see also `find` and `table_files.read`.
  """
  texts, skipped = Texts([], [], None if pairs is None else []), []
  templates = {"inputs": inputs, "targets": targets, "pairs": pairs}
  for path in find(filepattern):
    for row in read(path, **templates):
      if isinstance(row, BadRow):
        if not skip_bad_rows:
          raise ValueError(
            f"{row.where}: {row.why}; correct the row, or leave such rows out"
            " with SKIP_BAD_ROWS=True (the task's skip_bad_rows)"
          )
        skipped.append(row)
      else:
        for column, text in zip(texts, row, strict=False):
          column.append(text)
  if skipped:
    warnings.warn(
      f"{filepattern}: left out {len(skipped)} bad rows of"
      f" {len(skipped) + len(texts.inputs)}; the first is {skipped[0].where}:"
      f" {skipped[0].why}",
      stacklevel=2,
    )
  if not texts.inputs:
    raise ValueError(f"{filepattern}: no usable row in these files")
  return texts


def load_splits(filepattern: str, **arguments: Any) -> dict[str, Texts]:
  """`load` of each split that has a file; training needs its own.

  Args:
    filepattern: a glob in which "{split}" stands for train, validation or test.
    **arguments: of `load`; errors are its own too.
  """
  splits = {}
  for split in ("train", "validation", "test"):
    pattern = filepattern.replace("{split}", split)
    if split == "train" or glob.glob(pattern):
      splits[split] = load(pattern, **arguments)
  return splits


def find(filepattern: str) -> list[str]:
  """The files that match a glob, sorted.

  Raises:
    FileNotFoundError: no file matches.
    ValueError: a file of an unknown format.
  """
  paths = sorted(glob.glob(filepattern))
  if not paths:
    raise FileNotFoundError(
      f"no file matches {filepattern!r}: expected .csv, .tsv, .json, .jsonl or"
      " .parquet files with a column for each name in the templates"
    )
  for path in paths:
    table_files.check_ending(path)
  return paths


def check(path: str) -> None:
  """Checks that a file exists and is of a known format.

  Raises:
    FileNotFoundError: the file does not exist; the path is not a glob.
    ValueError: an unknown format.
  """
  table_files.check_ending(path)
  if not os.path.isfile(path):
    raise FileNotFoundError(f"{path!r} is not a file; expected one table")


def read(
  path: str, *, inputs: str, targets: str, pairs: str | None = None
) -> Iterator[tuple[str, ...] | BadRow]:
  """Yields each row's input and target text, in the order of the file.

  Args:
    path: the file; see `table_files.read`.
    inputs: a template with columns in braces, "question: {question}".
    targets: the target's template.
    pairs: the template of a second text; None for none.

  Yields:
    (input, target), or (input, target, second text), or a `BadRow` in place of
    a row that can't be read or does not fit the templates; see `fill`.
  """
  return fill(
    table_files.read(path), inputs=inputs, targets=targets, pairs=pairs
  )


def fill(
  rows: table_files.Rows,
  *,
  inputs: str,
  targets: str,
  pairs: str | None = None,
  may_be_empty: bool = False,
) -> Iterator[tuple[str, ...] | BadRow]:
  """Fills the templates with each row.

  A value is text, a number, or true or false, which read `True` and `False`.
  None, NaN and blank text count as missing. Each column of the target needs a
  value, and so does at least one column of the input, and one of the second
  text; other rows are bad rows.

  Args:
    rows: see `table_files.read`.
    inputs: the input's template.
    targets: the target's template.
    pairs: the template of a second text; None for none.
    may_be_empty: take rows without values; they still need the columns.
  """
  asked, answered = template_columns(inputs), template_columns(targets)
  templates = [inputs, targets, *([] if pairs is None else [pairs])]
  paired = [] if pairs is None else template_columns(pairs)
  columns = sorted({*asked, *answered, *paired})
  for where, row in rows:
    why = row if isinstance(row, str) else _misfit(row, columns)
    if not why and not may_be_empty:
      why = _lacks_value(row, asked, answered) or _lacks_value(row, paired, ())
    if not why:
      texts = {n: "" if _is_missing(row[n]) else row[n] for n in columns}
      try:
        filled = tuple(one.format_map(texts) for one in templates)
      # A format such as {n:d} may not suit the value that a row has.
      except (ArithmeticError, TypeError, ValueError) as error:
        why = f"a value does not fit the template: {error}"
    yield BadRow(where, why) if why else filled


def template_columns(template: str) -> list[str]:
  """The columns that a template names.

  Raises:
    ValueError: not a template, or one that holds more than plain names.
  """
  try:
    parts = list(string.Formatter().parse(template))
  except ValueError as error:
    raise ValueError(
      f"template {template!r}: {error}; write {{{{ or }}}} for a brace"
    ) from error
  names = [name for _, name, _, _ in parts if name is not None]
  for name in names:
    # A column is text or a number, and has no attributes and no items. A digit
    # would name a positional argument, and none is passed.
    if not name or set(name) & set(".[]") or name.isdigit():
      raise ValueError(
        f"template {template!r} names no column with {{{name}}}: expected"
        " {column}"
      )
  for _, name, how, _ in parts:
    if how and "{" in how:
      raise ValueError(
        f"template {template!r} has a column in the format of {{{name}}}:"
        " expected plain text after the colon, as in {column:>5}"
      )
  return names


def _misfit(row: table_files.Row, columns: Sequence[str]) -> str:
  """Says why no template can take a row; "" if one can."""
  if absent := [name for name in columns if name not in row]:
    return (
      f"no value for {', '.join(absent)}; it has {', '.join(map(str, row))}"
    )
  for name in columns:
    # str would write these in Python's notation, which nobody asked for.
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
