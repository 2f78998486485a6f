import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from coda_jax.data import tables

ROWS = [
  {"q": 'what, "why"?', "a": "é\tß"},
  {"q": "two words", "a": "{not a column}"},
  {"q": "three", "a": "3"},
]
TEMPLATES = {"inputs": "q: {q}", "targets": "{a}"}
# TSV has no quotes, so no tabs in fields either.
FORMATS = ("csv", "tsv", "jsonl", "parquet")


def write(path, rows=ROWS):
  """Writes `rows` without the code under test."""
  ending = path.suffix
  names = list(rows[0])
  if ending == ".parquet":
    parquet.write_table(pa.Table.from_pylist(rows), path)
  elif ending == ".jsonl":
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  elif ending == ".tsv":
    lines = ["\t".join(names)]
    lines += ["\t".join(r[n].replace("\t", " ") for n in names) for r in rows]
    path.write_text("\n".join(lines), "utf-8")
  else:
    quoted = [
      ",".join('"' + r[n].replace('"', '""') + '"' for n in names) for r in rows
    ]
    # With the byte order mark that spreadsheets write.
    path.write_text("\r\n".join([",".join(names), *quoted]), "utf-8-sig")
  return str(path)


@pytest.mark.parametrize("ending", FORMATS)
def test_formats_hold_the_same_rows(tmp_path, ending):
  path = write(tmp_path / f"x.{ending}")
  found = tables.load(path, **TEMPLATES)
  assert found.inputs == ['q: what, "why"?', "q: two words", "q: three"]
  first = "é ß" if ending == "tsv" else "é\tß"
  assert found.targets == [first, "{not a column}", "3"]


def test_csv_fields_may_hold_lines(tmp_path):
  (tmp_path / "x.csv").write_text('q,a\n"one\ntwo",1\nthree,2,3\n')
  good, bad = tables.read(str(tmp_path / "x.csv"), **TEMPLATES)
  assert good == ("q: one\ntwo", "1")
  assert bad.where.endswith("x.csv, line 4")


BAD = {
  "fields.csv": ("q,a\n1,2\n1\n3,4\n", "line 3", "1 fields, the header has 2"),
  "quote.csv": ('q,a\n1,2\n"x"y,2\n3,4\n', "line 3", "expected after"),
  "fields.tsv": ("q\ta\n1\t2\n1\t2\t3\n3\t4\n", "line 3", "3 fields"),
  "json.jsonl": ('{"q":1,"a":2}\n{"q":1,\n{"q":3,"a":4}\n', "line 2", "JSON"),
  "list.jsonl": ('{"q":1,"a":2}\n[1]\n{"q":3,"a":4}\n', "line 2", "object"),
  "lacks.jsonl": (
    '{"q":1,"a":2}\n\n{"q":1,"b":2}\n{"q":3,"a":4}\n',
    "line 3",
    "no value for a; it has q, b",
  ),
  "null.jsonl": (
    '{"q":1,"a":2}\n{"q":1,"a":null}\n{"q":3,"a":4}\n',
    "line 2",
    "no value for a",
  ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_or_skipped(tmp_path, name):
  content, where, why = BAD[name]
  path = tmp_path / name
  path.write_text(content)
  with pytest.raises(ValueError, match=f"{name}, {where}: .*{why}"):
    tables.load(str(path), **TEMPLATES)
  with pytest.warns(UserWarning, match=f"left out 1 bad rows of 3.*{where}"):
    found = tables.load(str(path), **TEMPLATES, skip_bad_rows=True)
  assert found == (["q: 1", "q: 3"], ["2", "4"])


def test_bytes_that_are_not_utf_8(tmp_path):
  (tmp_path / "x.jsonl").write_bytes(b'{"q": "\xe9", "a": 1}\n')
  with pytest.raises(ValueError, match="line 1: not JSON in UTF-8"):
    tables.load(str(tmp_path / "x.jsonl"), **TEMPLATES)
  (tmp_path / "x.csv").write_bytes(b"q,a\n\xe9,1\n")
  with pytest.raises(ValueError, match="line 1: 'utf-8' codec"):
    tables.load(str(tmp_path / "x.csv"), **TEMPLATES)


def test_a_cut_off_parquet_file(tmp_path):
  path = tmp_path / "x.parquet"
  write(path)
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=r"x\.parquet: not a whole Parquet file"):
    tables.load(str(path), **TEMPLATES)


def test_files_in_order_and_of_known_formats(tmp_path):
  for name in ("b", "a"):
    write(tmp_path / f"{name}-train.jsonl", [{"q": name, "a": name}])
  found = tables.load(str(tmp_path / "*-train.jsonl"), **TEMPLATES)
  assert found.targets == ["a", "b"]
  with pytest.raises(FileNotFoundError, match="No file matches"):
    tables.find(str(tmp_path / "*.csv"))
  (tmp_path / "x.txt").touch()
  with pytest.raises(ValueError, match=r"x\.txt: a table ends in one of \.csv"):
    tables.find(str(tmp_path / "*.txt"))


def test_an_empty_table(tmp_path):
  (tmp_path / "x.csv").write_text("q,a\n")
  with pytest.raises(ValueError, match="no usable row"):
    tables.load(str(tmp_path / "x.csv"), **TEMPLATES)


@pytest.mark.parametrize(
  ("template", "message"),
  [("{", "Single '{'|expected '}'"), ("{}", "no column"), ("{a.b}", "no col")],
)
def test_templates_are_checked(template, message):
  with pytest.raises(ValueError, match=message):
    tables.template_columns(template)


def test_braces_and_plain_text_are_templates():
  assert tables.template_columns("{{x}} {y} {x}") == ["y", "x"]
