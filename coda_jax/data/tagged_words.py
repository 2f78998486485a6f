"""Sentences of words with a tag each, from tables and from CoNLL's files."""

import glob
from collections.abc import Iterator
from typing import Any, NamedTuple

from coda_jax.data import table_files

CONLL = ".conll"
# Tables of these formats have lists in their rows.
TABLES = (".json", ".jsonl", ".parquet")
# A line that begins so starts a document, and is no sentence.
_DOCUMENT = "-DOCSTART-"


class Sentence(NamedTuple):
  """A sentence.

  Attributes:
    words: at least one.
    tags: one for each word.
  """

  words: list[str]
  tags: list[str]


def load(filepattern: str) -> list[Sentence]:
  """Reads all sentences of the files that match a glob.

  Args:
    filepattern: the glob; see `read`.

  Raises:
    FileNotFoundError: no file matches.
    ValueError: a file of another format, a bad row, which is named, or files
      without a sentence.
  """
  paths = sorted(glob.glob(filepattern))
  if not paths:
    raise FileNotFoundError(
      f"no file matches TABLE={filepattern!r}: expected files of words and "
      f"tags, {CONLL}, {', '.join(TABLES)}"
    )
  sentences = [sentence for path in paths for sentence in read(path)]
  if not sentences:
    raise ValueError(f"{filepattern}: no sentence in these files")
  return sentences


def read(path: str) -> Iterator[Sentence]:
  """Yields the sentences of a file.

  Args:
    path: a table whose rows have lists of texts, `tokens` and `tags`, in one of
      the formats `TABLES`; all but Parquet may be compressed, see
      `table_files.read`. Or a .conll file, with a word and its tag on a line,
      in the first and the last of several columns, and an empty line after each
      sentence. Columns are separated by tabs, or by spaces in a line without
      tabs. Lines of -DOCSTART- are skipped.

  Raises:
    ValueError: another format, or a row that has no such lists or texts, with
      its file and line.
  """
  name = path.lower()
  if name.endswith(CONLL):
    with open(path, "rb") as file:
      yield from _conll(table_files.text_lines(file, path))
    return
  if not name.removesuffix(".gz").removesuffix(".zst").endswith(TABLES):
    raise ValueError(
      f"{path}: words and tags stand in files that end in {CONLL}, "
      f"{', '.join(TABLES)}; give the file the ending of its format"
    )
  for where, row in table_files.read(path):
    if isinstance(row, str):
      raise ValueError(f"{where}: {row}; correct the row")
    yield _sentence(where, row.get("tokens"), row.get("tags"))


def _conll(lines: table_files.Rows) -> Iterator[Sentence]:
  words, tags, start = [], [], ""
  for where, row in lines:
    if isinstance(row, str):
      raise ValueError(f"{where}: {row}; correct the line")
    line = row["text"]
    if not line.strip():
      if words:
        yield _sentence(start, words, tags)
        words, tags = [], []
      continue
    columns = line.split("\t") if "\t" in line else line.split(" ")
    columns = [column for column in map(str.strip, columns) if column]
    if columns[0] == _DOCUMENT:
      continue
    if len(columns) < 2:
      raise ValueError(
        f"{where}: {line!r} has one column; expected a word and its tag, "
        "separated by a tab or a space"
      )
    if not words:
      start = where
    words.append(columns[0])
    tags.append(columns[-1])
  if words:
    yield _sentence(start, words, tags)


def _sentence(where: str, words: Any, tags: Any) -> Sentence:
  for name, texts in (("tokens", words), ("tags", tags)):
    if not isinstance(texts, list) or not all(
      isinstance(text, str) and text.strip() for text in texts
    ):
      raise ValueError(
        f"{where}: {name} is {texts!r}; expected a list of texts that are not "
        "empty"
      )
  if not words or len(words) != len(tags):
    raise ValueError(
      f"{where}: {len(words)} tokens and {len(tags)} tags; expected as many, "
      "and at least one"
    )
  for tag in tags:
    if tag.split() != [tag]:
      raise ValueError(
        f"{where}: the tag {tag!r} has a space in it; write tags without"
      )
  return Sentence(words, tags)
