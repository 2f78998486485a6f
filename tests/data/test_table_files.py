import gzip
import random

import pyarrow as pa
import pytest
from pyarrow import parquet

from coda_jax.data import table_files

CONTENTS = {
  "csv": "q,a\n" + "".join(f"{i},x\n" for i in range(3)),
  "tsv": "q\ta\n" + "".join(f"{i}\tx\n" for i in range(3)),
  "json": '[{"q": "0", "a": "x"}, {"q": "1", "a": "x"}, {"q": "2", "a": "x"}]',
  "jsonl": "".join(f'{{"q": "{i}", "a": "x"}}\n' for i in range(3)),
}


def compress(content, ending):
  """Compresses without the code under test."""
  if ending == "gz":
    return gzip.compress(content)
  sink = pa.BufferOutputStream()
  with pa.CompressedOutputStream(sink, "zstd") as stream:
    stream.write(content)
  return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("ending", CONTENTS)
def test_compressed_files_hold_the_same_rows(tmp_path, ending, compression):
  path = tmp_path / f"x.{ending.upper()}.{compression}"
  path.write_bytes(compress(CONTENTS[ending].encode(), compression))
  table_files.check_ending(str(path))
  rows = [row for _, row in table_files.read(str(path))]
  assert rows == [{"q": str(i), "a": "x"} for i in range(3)]


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_cut_file_says_after_which_line(tmp_path, ending, compression):
  draw = random.Random(0)
  numbers = [draw.getrandbits(60) for _ in range(20_000)]
  lines = {
    "csv": ["q,a\n", *(f"{number},x\n" for number in numbers)],
    "jsonl": [f'{{"q": {number}, "a": 1}}\n' for number in numbers],
  }[ending]
  whole = compress("".join(lines).encode(), compression)
  path = tmp_path / f"x.{ending}.{compression}"
  path.write_bytes(whole[: len(whole) // 2])
  found = []
  with pytest.raises(
    ValueError, match="is cut or damaged, after line"
  ) as error:
    for row in table_files.read(str(path)):
      found.append(row)
  # What was whole is given before.
  where, row = found[-1]
  assert 5_000 < len(found) < 15_000
  assert int(row["q"]) == numbers[len(found) - 1]
  assert where.removeprefix(f"{path}, ") in str(error.value)


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_what_is_not_compressed_at_all(tmp_path, compression):
  path = tmp_path / f"x.csv.{compression}"
  path.write_text(CONTENTS["csv"])
  with pytest.raises(ValueError, match=f"{path}: .*damaged, after row 0"):
    list(table_files.read(str(path)))


def test_other_endings(tmp_path):
  for name in ("x.txt", "x.gz", "x.parquet.gz", "x.csv.bz2", "csv"):
    with pytest.raises(
      ValueError, match=r"ends in one of \.csv, \.json, .*\.gz"
    ):
      table_files.check_ending(name)
  with pytest.raises(FileNotFoundError):
    list(table_files.read(str(tmp_path / "x.csv.zst")))


@pytest.mark.parametrize(
  ("name", "content"),
  [("x.csv", b"q,a,q\n1,2,3\n"), ("x.tsv.gz", b"q\ta\tq\n1\t2\t3\n")],
)
def test_a_column_that_stands_twice(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
  with pytest.raises(
    ValueError, match=f"{path}, line 1: the column 'q' stands"
  ):
    list(table_files.read(str(path)))


def test_a_column_that_stands_twice_in_parquet(tmp_path):
  path = str(tmp_path / "x.parquet")
  parquet.write_table(pa.table([[1], [2]], names=["q", "q"]), path)
  with pytest.raises(
    ValueError, match=r"x\.parquet: the column 'q' stands twi"
  ):
    list(table_files.read(path))


def test_columns_without_a_name(tmp_path):
  (tmp_path / "x.csv").write_text("q,,\n1,,\n")
  ((_, row),) = table_files.read(str(tmp_path / "x.csv"))
  assert row["q"] == "1"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (
      '{"q": 1}',
      r"expected a list of objects, \[\{\.\.\.\}, \.\.\.\]; JSON lines",
    ),
    ('[{"q": 1},\n{"q" 2}]', "not JSON in UTF-8: .*line 2 column"),
    ("[" * 100_000, "not JSON in UTF-8"),
    ('["\\ud800"]', "not JSON in UTF-8: .*surrogates"),
  ],
)
def test_json_that_is_no_table(tmp_path, content, message):
  (tmp_path / "x.json").write_text(content)
  with pytest.raises(ValueError, match=rf"x\.json: {message}"):
    list(table_files.read(str(tmp_path / "x.json")))


def test_a_key_that_stands_twice_where_nobody_asks(tmp_path):
  (tmp_path / "x.jsonl").write_text('{"q": 1, "more": {"a": 1, "a": 2}}')
  ((_, row),) = table_files.read(str(tmp_path / "x.jsonl"))
  assert row["q"] == 1
