import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from coda_jax.data import tagged_words
from coda_jax.data.tagged_words import Sentence

SENTENCES = [
  Sentence(["Ada", "Lovelace", "came"], ["B-PER", "I-PER", "O"]),
  Sentence(["Nō", "one", "."], ["O", "O", "O"]),
]


def rows():
  return [{"tokens": s.words, "tags": s.tags, "id": 1} for s in SENTENCES]


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "parquet"])
def test_tables(tmp_path, ending):
  path = tmp_path / f"x.{ending}"
  lines = "\n".join(map(json.dumps, rows()))
  if ending == "parquet":
    parquet.write_table(pyarrow.Table.from_pylist(rows()), path)
  elif ending == "json":
    path.write_text(json.dumps(rows()))
  else:
    opened = gzip.open if ending.endswith(".gz") else open
    with opened(path, "wt") as file:
      file.write(lines)
  assert tagged_words.load(str(path)) == SENTENCES


@pytest.mark.parametrize(
  "text",
  [
    "Ada B-PER\nLovelace I-PER\ncame O\n\nNō O\none O\n. O\n",
    # As CoNLL-2003: more columns, a document's line, no last line break.
    "-DOCSTART- -X- O O\n\nAda NNP I-NP B-PER\nLovelace NNP I-NP I-PER\n"
    "came VBD I-VP O\n\n\n\nNō DT I-NP O\none NN I-NP O\n. . O O",
    # Tabs, which other columns may have spaces between; lines of Windows.
    "\r\nAda\tx y\tB-PER\r\nLovelace\t\tI-PER\r\ncame\tz\tO\r\n \r\n"
    "Nō\t-\tO\r\none\tu v\tO\r\n.\t-\tO\r\n",
  ],
)
def test_files_of_conll(tmp_path, text):
  path = tmp_path / "x.conll"
  path.write_bytes(text.encode())
  assert tagged_words.load(str(path)) == SENTENCES


def test_a_word_with_a_space(tmp_path):
  """A space that does not break a line is a part of the word."""
  path = tmp_path / "x.conll"
  path.write_text("1\u00a0000 B\nNew York\tO\n")
  assert list(tagged_words.read(str(path))) == [
    Sentence(["1\u00a0000", "New York"], ["B", "O"])
  ]


def test_several_files(tmp_path):
  for i, row in enumerate(rows()):
    (tmp_path / f"x{i}.jsonl").write_text(json.dumps(row))
  assert tagged_words.load(str(tmp_path / "x*.jsonl")) == SENTENCES


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    (
      "x.csv",
      "tokens,tags\n",
      r"x.csv: words and tags .* end in \.conll, \.jso",
    ),
    ("x.conll", "Ada B\n\nLovelace\n", "line 3: 'Lovelace' has one column"),
    ("x.conll", "\n-DOCSTART- O\n\n", "x.conll: no sentence in these files"),
    ("x.conll", b"Ada B\n\xff B\n", "line 2: not UTF-8"),
    (
      "x.jsonl",
      '{"tokens": ["a"]}',
      "line 1: tags is None; expected a list of",
    ),
    ("x.jsonl", '{"tokens": "a", "tags": ["O"]}', "tokens is 'a'; expected a"),
    ("x.jsonl", '{"tokens": ["a"], "tags": [3]}', r"tags is \[3\]; expected a"),
    ("x.jsonl", '{"tokens": [" "], "tags": ["O"]}', "tokens is .* not empty"),
    (
      "x.jsonl",
      '{"tokens": [], "tags": []}',
      "0 tokens and 0 tags; expected as",
    ),
    ("x.jsonl", '{"tokens": ["a"], "tags": ["O", "O"]}', "1 tokens and 2 tags"),
    (
      "x.jsonl",
      '{"tokens": ["a"], "tags": ["B PER"]}',
      "the tag 'B PER' has a s",
    ),
    ("x.jsonl", "no", "line 1: not JSON in UTF-8"),
  ],
)
def test_bad_files(tmp_path, name, text, message):
  path = tmp_path / name
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(ValueError, match=message):
    tagged_words.load(str(path))


def test_no_file(tmp_path):
  with pytest.raises(FileNotFoundError, match="no file matches TABLE=.*none"):
    tagged_words.load(str(tmp_path / "none.conll"))
