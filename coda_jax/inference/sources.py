"""Where inputs come from: a task, a file of texts or rows, standard input."""

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
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
    pair_template: of a second text, for models that take pairs; the vocabulary
      must then be a tokenizer.json. None for one text.
    stdin_format: "txt" or "jsonl".
    skip_bad_rows: leave out rows that can't be read or lack a column, and count
      them; otherwise the first one is an error.
  """

  path: str
  vocabulary: Any
  input_template: str = "{text}"
  target_template: str | None = None
  pair_template: str | None = None
  stdin_format: str = "txt"
  skip_bad_rows: bool = False

  def __post_init__(self):
    from coda_jax.data import encoding

    arguments.check(vars(self))
    encoding.check_pairs(self.pair_template, self.vocabulary, "this VOCABULARY")
    if self.stdin_format not in STDIN_FORMATS:
      raise ValueError(
        f"STDIN_FORMAT={self.stdin_format!r}; expected one of "
        f"{sorted(STDIN_FORMATS)}"
      )


class Example(NamedTuple):
  """One input.

  Attributes:
    index: its place in the source, from 0, bad rows counted.
    input: text; a pair of texts in two lines.
    target: text, or None.
    input_tokens: with the end token, or all of the tokenizer's own, cut to the
      length that is allowed.
    target_tokens: those of the target; empty without one, or where no length
      of it is given.
    token_types: of the input's tokens, such as 1 for a second text; empty for 0
      everywhere.
  """

  index: int
  input: str
  target: str | None
  input_tokens: list[int]
  target_tokens: list[int]
  token_types: Sequence[int] = ()


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

  def remarks(self) -> Iterator[str]:
    """Messages about them."""
    if self.bad_rows:
      yield (
        f"left out {self.bad_rows:,} bad rows; the first is "
        f"{self.first_bad_row}"
      )
    for what, number in (
      ("inputs", self.cut_inputs),
      ("targets", self.cut_targets),
    ):
      if number:
        yield (
          f"cut {number:,} {what} that were longer than TASK_FEATURE_LENGTHS "
          "allows"
        )


def read_text(
  text: Text, lengths: Mapping[str, int], counts: Counts
) -> Iterator[Example]:
  """Yields the examples of a file or of standard input, in order.

  Args:
    text: what to read.
    lengths: {"inputs": n, "targets": m}; longer ones are cut, the end token
      kept. Without that of the targets, they are texts alone.
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
      first, target, *second = row
      both = [first, *second]
      input_tokens, types, cut = _encode_input(
        text.vocabulary, both, lengths["inputs"]
      )
      counts.cut_inputs += cut
      target_tokens = []
      if text.target_template is None:
        target = None
      elif "targets" in lengths:
        target_tokens, cut = _encode(
          text.vocabulary, target, lengths["targets"]
        )
        counts.cut_targets += cut
      yield Example(
        index, "\n".join(both), target, input_tokens, target_tokens, types
      )


def check_lengths(
  lengths: Mapping[str, int], features: Sequence[str], config: Any
) -> None:
  """Checks the lengths of examples before any is read.

  Args:
    lengths: {"inputs": n, "targets": m}.
    features: those that reach the model as tokens.
    config: of the model.

  Raises:
    ValueError: one is missing, or the model has too few positions.
  """
  given = f"TASK_FEATURE_LENGTHS={dict(lengths)}"
  for name in features:
    if name not in lengths:
      raise ValueError(
        f"{given} lack {name!r}, which the model reads or writes; give its "
        "length, in tokens"
      )
  positions = getattr(config, "max_length", None)
  if positions is not None and lengths["inputs"] > positions:
    raise ValueError(
      f"{given}, but the model has positions for {positions} tokens of an "
      f"input; give {positions} or fewer"
    )


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

  from coda_jax.data import encoding

  features = seqio.get_mixture_or_task(name).output_features
  for index, example in enumerate(inputs.task_examples(name, split, lengths)):
    yield Example(
      index,
      texts.text_of(example, "inputs", features),
      texts.text_of(example, "targets", features),
      example["inputs"].tolist(),
      example["targets"].tolist(),
      tuple(example.get(encoding.TOKEN_TYPES, ())),
    )


@contextlib.contextmanager
def _rows(text: Text) -> Iterator[Iterator[tuple[str, str] | tables.BadRow]]:
  templates = {
    "inputs": text.input_template,
    "targets": text.target_template or "",
    "pairs": text.pair_template,
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


def _encode_input(
  vocabulary: Any, both: Sequence[str], length: int
) -> tuple[list[int], Sequence[int], bool]:
  """Tokens of a text or a pair, their types, and whether they were cut."""
  from coda_jax.data import encoding

  if not encoding.has_own_tokens(vocabulary):
    tokens, cut = _encode(vocabulary, both[0], length)
    return tokens, (), cut
  tokens, types = encoding.encode_texts(vocabulary, both, None)
  cut = len(tokens) > length
  if cut:
    tokens, types = encoding.encode_texts(vocabulary, both, length)
  return tokens.tolist(), types.tolist(), cut


def _encode(vocabulary: Any, text: str, length: int) -> tuple[list[int], bool]:
  """Tokens with the end token, and whether they had to be cut."""
  tokens = vocabulary.encode(text)
  return [*tokens[: length - 1], vocabulary.eos_id], len(tokens) >= length
