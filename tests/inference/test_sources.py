import gzip
import io
import json
import re
import sys

import pytest
import seqio

from coda_jax.data import vocabularies
from coda_jax.inference import sources
from coda_jax.inference.sources import Counts, Example, Text

LENGTHS = {"inputs": 6, "targets": 3}
BYTES = vocabularies.load("byt5")


def tokens(text):
  return [byte + 3 for byte in text.encode()]


def read(path, counts=None, **kwargs):
  text = Text(str(path), BYTES, **kwargs)
  return list(sources.read_text(text, LENGTHS, counts or Counts()))


def test_lines_of_text(tmp_path):
  path = tmp_path / "x.txt"
  path.write_bytes("\ufeffone\r\n\ntw\u00f6\nmuch too long\nlast".encode())
  counts = Counts()
  found = read(path, counts)
  assert [e.input for e in found] == [
    "one",
    "",
    "tw\u00f6",
    "much too long",
    "last",
  ]
  assert [e.index for e in found] == [0, 1, 2, 3, 4]
  assert found[0] == Example(0, "one", None, [*tokens("one"), 1], [])
  assert found[1].input_tokens == [1]
  assert found[3].input_tokens == [*tokens("much "), 1]
  # 5 bytes and the end token are just as long as allowed.
  (tmp_path / "y.txt").write_text("12345\n123456\n")
  whole, cut = read(tmp_path / "y.txt", counts)
  assert whole.input_tokens == cut.input_tokens == [*tokens("12345"), 1]
  assert counts == Counts(cut_inputs=2)


ROWS = [{"a": "x", "b": 1, "c": "no"}, {"a": "y z", "b": 2, "c": "maybe"}]


def test_rows_with_targets(tmp_path):
  path = tmp_path / "x.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  counts = Counts()
  found = read(path, counts, input_template="{a}:{b}", target_template="{c}")
  assert [(e.input, e.target) for e in found] == [
    ("x:1", "no"),
    ("y z:2", "maybe"),
  ]
  assert [e.target_tokens for e in found] == [
    [*tokens("no"), 1],
    [*tokens("ma"), 1],
  ]
  assert counts == Counts(cut_targets=1)
  (tmp_path / "x.csv.gz").write_bytes(
    gzip.compress(b"a,b,c\nx,1,no\ny z,2,maybe\n")
  )
  again = read(
    tmp_path / "x.csv.gz", input_template="{a}:{b}", target_template="{c}"
  )
  assert again == found


@pytest.mark.parametrize(
  ("format", "content"),
  [("txt", b"one\ntwo\n"), ("jsonl", b'{"text": "one"}\n{"text": "two"}\n')],
)
def test_standard_input(monkeypatch, format, content):
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
  found = read("-", input_template="<{text}>", stdin_format=format)
  assert [e.input for e in found] == ["<one>", "<two>"]


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("x.txt", b"fine\n\xff\nfine\n", "line 2: not UTF-8"),
    ("x.jsonl", b'{"text": "a"}\n{"text"\n{"text": "b"}', "line 2: not JSON"),
    ("x.jsonl", b'{"text": "a"}\n[1]\n{"text": "b"}', "line 2: not a JSON o"),
    ("x.jsonl", b'{"text": "a"}\n{"t": 1}\n{"text": "b"}', "no value for text"),
    (
      "x.jsonl",
      b'{"text": "a"}\n{"text": "\\ud800"}\n{"text": "b"}',
      "line 2: not JSON in UTF-8",
    ),
  ],
)
def test_a_bad_row_stops_or_is_counted(tmp_path, name, content, message):
  path = tmp_path / name
  path.write_bytes(content)
  stream = sources.read_text(Text(str(path), BYTES), LENGTHS, Counts())
  assert next(stream).index == 0
  with pytest.raises(ValueError, match=f"{path}, .*{message}.*SKIP_BAD_ROWS"):
    next(stream)
  counts = Counts()
  found = read(path, counts, skip_bad_rows=True)
  assert [e.index for e in found] == [0, 2]
  assert counts.bad_rows == 1 and message in counts.first_bad_row


def test_emoji_in_json_is_no_bad_row(tmp_path):
  (tmp_path / "x.jsonl").write_text(json.dumps({"text": "\U0001f600"}))
  (found,) = read(tmp_path / "x.jsonl")
  assert found.input == "\U0001f600"


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "*.jsonl"])
def test_no_such_file(tmp_path, name):
  (tmp_path / "y.jsonl").write_text('{"text": "a"}')
  with pytest.raises(FileNotFoundError, match=re.escape(name)):
    read(tmp_path / name)


def test_a_file_whose_name_has_brackets(tmp_path):
  (tmp_path / "x[1].jsonl").write_text('{"text": "one"}')
  (found,) = read(tmp_path / "x[1].jsonl")
  assert found.input == "one"


def test_wrong_format():
  with pytest.raises(ValueError, match=r"STDIN_FORMAT='csv'.*'jsonl', 'txt'"):
    Text("-", BYTES, stdin_format="csv")


@pytest.fixture
def task(tmp_path):
  """A task on bytes with a mixture of it."""
  (tmp_path / "validation.tsv").write_text("good film\tyes\nbad\tno\n")
  feature = seqio.Feature(BYTES, add_eos=True)
  seqio.TaskRegistry.add(
    "reviews",
    source=seqio.TextLineDataSource(
      {"validation": str(tmp_path / "validation.tsv")}
    ),
    preprocessors=[
      lambda dataset: dataset.map(split_line),
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
  )
  seqio.MixtureRegistry.add("mixed", [("reviews", 1.0)])
  yield "reviews"
  seqio.MixtureRegistry.remove("mixed")
  seqio.TaskRegistry.remove("reviews")


def split_line(line):
  import tensorflow as tf

  parts = tf.strings.split(line, "\t")
  return {"inputs": parts[0], "targets": parts[1]}


def test_task(task):
  assert sources.check_task(task, "validation") == BYTES
  assert list(sources.read_task(task, "validation", LENGTHS)) == [
    Example(0, "good film", "yes", [*tokens("good "), 1], [*tokens("ye"), 1]),
    Example(1, "bad", "no", [*tokens("bad"), 1], [*tokens("no"), 1]),
  ]


def test_not_one_task_or_not_its_split(task):
  with pytest.raises(ValueError, match=r"'mixed' is a mixture.*\['reviews'\]"):
    sources.check_task("mixed", "validation")
  with pytest.raises(ValueError, match=r"no split 'test'.*\['validation'\]"):
    sources.check_task(task, "test")


def test_pairs_have_the_tokenizers_own_tokens(tmp_path, bert_folder):
  """[CLS] is 2, [SEP] is 3, and w0 is 4."""
  vocabulary = vocabularies.load(str(bert_folder()))
  path = tmp_path / "x.csv"
  path.write_text("a,b,c\nw0 w1,w2,no\nw0 w1 w2 w3,w4 w5,yes\n")
  text = Text(
    str(path),
    vocabulary,
    input_template="{a}",
    target_template="{c}",
    pair_template="{b}",
  )
  counts = Counts()
  # A length of the inputs alone: targets are texts.
  one, cut = sources.read_text(text, {"inputs": 7}, counts)
  assert one == Example(
    0, "w0 w1\nw2", "no", [2, 4, 5, 3, 6, 3], [], [0, 0, 0, 0, 1, 1]
  )
  assert cut.input == "w0 w1 w2 w3\nw4 w5" and cut.target == "yes"
  assert cut.input_tokens == [2, 4, 5, 3, 8, 9, 3]
  assert cut.token_types == [0, 0, 0, 0, 1, 1, 1]
  assert counts == Counts(cut_inputs=1)
  (tmp_path / "y.txt").write_text("w1\n")
  (line,) = sources.read_text(
    Text(str(tmp_path / "y.txt"), vocabulary), {"inputs": 7}, counts
  )
  assert line == Example(0, "w1", None, [2, 5, 3], [], [0, 0, 0])


def test_pairs_need_a_vocabulary_that_joins_them():
  with pytest.raises(ValueError, match="PAIR_TEMPLATE='{b}' .* joins no two"):
    Text("x.csv", BYTES, pair_template="{b}")
