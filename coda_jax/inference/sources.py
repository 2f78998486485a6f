"""Where inputs come from: a task, a file of texts or rows, standard input."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from coda_jax import arguments
from coda_jax.data import table_files, tables, texts
from coda_jax.training import inputs

STDIN = "-"
STDIN_FORMATS = {
  "txt": table_files.text_lines,
  "jsonl": table_files.json_lines,
}


@dataclasses.dataclass(frozen=True)
class Text:
  """Texts of the user's own.

  Attributes:
    path: a .txt file, one input a line; a table that `table_files.read` takes,
      one a row; or "-", standard input.
    vocabulary: seqio's, of the model.
    input_template: columns in braces, "topic: {title}. {body}". The column of
      plain text is {text}.
    target_template: the target's; None if there are no targets.
    stdin_format: "txt" or "jsonl".
    skip_bad_rows: leave out rows that can't be read or lack a column, and count
      them; otherwise the first one is an error.
  """

  path: str
  vocabulary: Any
  input_template: str = "{text}"
  target_template: str | None = None
  stdin_format: str = "txt"
  skip_bad_rows: bool = False

  def __post_init__(self):
    arguments.check(vars(self))
    if self.stdin_format not in STDIN_FORMATS:
      raise ValueError(
        f"STDIN_FORMAT={self.stdin_format!r}; expected one of "
        f"{sorted(STDIN_FORMATS)}"
      )


class Example(NamedTuple):
  """One input.

  Attributes:
    index: its place in the source, from 0, bad rows counted.
    input: text.
    target: text, or None.
    input_tokens: with the end token, cut to the length that is allowed.
    target_tokens: those of the target; empty without one.
  """

  index: int
  input: str
  target: str | None
  input_tokens: list[int]
  target_tokens: list[int]


@dataclasses.dataclass
class Counts:
  """Counts of rows left out and of texts cut, so far.

  Attributes:
    bad_rows: rows left out.
    first_bad_row: where the first one is, and what is wrong with it.
    cut_inputs: inputs longer than allowed.
    cut_targets: targets longer than allowed.
  """

  bad_rows: int = 0
  first_bad_row: str = ""
  cut_inputs: int = 0
  cut_targets: int = 0


def read_text(
  text: Text, lengths: Mapping[str, int], counts: Counts
) -> Iterator[Example]:
  """Yields the examples of a file or of standard input, in order.

  Args:
    text: what to read.
    lengths: {"inputs": n, "targets": m}; longer ones are cut, the end token
      kept.
    counts: is kept up to date.

  Raises:
    FileNotFoundError: the file does not exist.
    ValueError: a bad row, with its line, unless they are skipped; or a file of
      no known format.
  """
  with _rows(text) as rows:
    for index, row in enumerate(rows):
      if isinstance(row, tables.BadRow):
        if not text.skip_bad_rows:
          raise ValueError(
            f"{row.where}: {row.why}; correct the row and start again to "
            "continue from there, or set SKIP_BAD_ROWS=True"
          )
        counts.bad_rows += 1
        counts.first_bad_row = counts.first_bad_row or f"{row.where}: {row.why}"
        continue
      input_tokens, cut = _encode(text.vocabulary, row[0], lengths["inputs"])
      counts.cut_inputs += cut
      target, target_tokens = None, []
      if text.target_template is not None:
        target = row[1]
        target_tokens, cut = _encode(
          text.vocabulary, target, lengths["targets"]
        )
        counts.cut_targets += cut
      yield Example(index, row[0], target, input_tokens, target_tokens)


def check_task(name: str, split: str) -> Any:
  """Checks that a registered name is one task's, with this split.

  Returns:
    The vocabulary of its targets.

  Raises:
    ValueError: it is a mixture, or has no such split.
  """
  import seqio

  task = seqio.get_mixture_or_task(name)
  if isinstance(task, seqio.Mixture):
    raise ValueError(
      f"{name!r} is a mixture; answer its tasks one after the other: "
      f"{sorted(part.name for part in seqio.get_subtasks(task))}"
    )
  inputs.check_split(name, split)
  return task.output_features["targets"].vocabulary


def read_task(
  name: str, split: str, lengths: Mapping[str, int]
) -> Iterator[Example]:
  """Yields the examples of a seqio task's split, as the task cuts them."""
  import seqio

  features = seqio.get_mixture_or_task(name).output_features
  for index, example in enumerate(inputs.task_examples(name, split, lengths)):
    yield Example(
      index,
      texts.text_of(example, "inputs", features),
      texts.text_of(example, "targets", features),
      example["inputs"].tolist(),
      example["targets"].tolist(),
    )


@contextlib.contextmanager
def _rows(text: Text) -> Iterator[Iterator[tuple[str, str] | tables.BadRow]]:
  templates = {
    "inputs": text.input_template,
    "targets": text.target_template or "",
  }
  # In plain text every line gets a result, an empty one too.
  if text.path == STDIN:
    read = STDIN_FORMATS[text.stdin_format]
    yield tables.fill(
      read(sys.stdin.buffer, "standard input"),
      **templates,
      may_be_empty=text.stdin_format == "txt",
    )
  elif os.path.splitext(text.path)[1].lower() == ".txt":
    with open(text.path, "rb") as file:
      yield tables.fill(
        table_files.text_lines(file, text.path), **templates, may_be_empty=True
      )
  else:
    tables.check(text.path)
    yield tables.read(text.path, **templates)


def _encode(vocabulary: Any, text: str, length: int) -> tuple[list[int], bool]:
  """Tokens with the end token, and whether they had to be cut."""
  tokens = vocabulary.encode(text)
  return [*tokens[: length - 1], vocabulary.eos_id], len(tokens) >= length
