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
FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")


def write(path, rows=ROWS):
  """Writes `rows` without the code under test."""
  ending = path.suffix
  names = list(rows[0])
  if ending == ".parquet":
    parquet.write_table(pa.Table.from_pylist(rows), path)
  elif ending == ".json":
    path.write_text(json.dumps(rows, indent=2))
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
    "no value for a, which the target needs",
  ),
  "nan.jsonl": (
    '{"q":1,"a":2}\n{"q":1,"a":NaN}\n{"q":3,"a":4}\n',
    "line 2",
    "no value for a, which the target needs",
  ),
  "empty.csv": ("q,a\n1,2\n1, \n3,4\n", "line 3", "no value for a, which"),
  "empty.tsv": ("q\ta\n1\t2\n\t1\n3\t4\n", "line 3", "the input would be"),
  "list.json": (
    '[{"q":1,"a":2},{"q":1,"a":["x"]},{"q":3,"a":4}]',
    "row 2",
    "the value of a is a list; expected text, a number",
  ),
  "object.jsonl": (
    '{"q":1,"a":2}\n{"q":{"x":1},"a":1}\n{"q":3,"a":4}\n',
    "line 2",
    "the value of q is an object",
  ),
  "twice.jsonl": (
    '{"q":1,"a":2}\n{"q":1,"a":1,"q":2}\n{"q":3,"a":4}\n',
    "line 2",
    "the key 'q' stands twice",
  ),
  "no_object.json": ('[{"q":1,"a":2},3,{"q":3,"a":4}]', "row 2", "JSON object"),
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
  assert found[:2] == (["q: 1", "q: 3"], ["2", "4"])


def test_a_column_of_the_input_may_be_empty(tmp_path):
  rows = {
    "x.csv": "title,body,a\n,long,1\nshort, ,2\n",
    "x.jsonl": '{"title":null,"body":"long","a":1}\n'
    '{"title":"short","body":" ","a":2}\n',
  }
  for name, content in rows.items():
    (tmp_path / name).write_text(content)
    found = tables.load(
      str(tmp_path / name), inputs="{title}: {body}", targets="{a}"
    )
    assert found[:2] == ([": long", "short: "], ["1", "2"])


def test_how_numbers_and_booleans_read(tmp_path):
  values = {"true": "True", "3": "3", "3.0": "3.0", "1e22": "1e+22"}
  lines = [f'{{"q": "x", "a": {value}}}\n' for value in values]
  (tmp_path / "x.jsonl").write_text("".join(lines))
  found = tables.load(str(tmp_path / "x.jsonl"), **TEMPLATES)
  assert found.targets == list(values.values())


def test_bytes_of_parquet_are_no_text(tmp_path):
  write(tmp_path / "x.parquet", [{"q": "x", "a": b"yes"}])
  with pytest.raises(ValueError, match="row 1: the value of a is bytes"):
    tables.load(str(tmp_path / "x.parquet"), **TEMPLATES)


def test_bytes_that_are_not_utf_8(tmp_path):
  (tmp_path / "x.jsonl").write_bytes(b'{"q": "\xe9", "a": 1}\n')
  with pytest.raises(ValueError, match="line 1: not JSON in UTF-8"):
    tables.load(str(tmp_path / "x.jsonl"), **TEMPLATES)


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_bad_byte_spoils_its_own_row_alone(tmp_path, ending):
  separator = b"," if ending == "csv" else b"\t"
  rows = [b"row %d\xc3\xa9" % i + separator + b"x" for i in range(5000)]
  rows[1000] = b"caf\xe9" + separator + b"x"
  path = tmp_path / f"x.{ending}"
  path.write_bytes(b"\n".join([b"q" + separator + b"a", *rows]))
  with pytest.raises(ValueError, match=r"line 1002: not UTF-8.*byte 0xe9"):
    tables.load(str(path), **TEMPLATES)
  with pytest.warns(UserWarning, match="left out 1 bad rows of 5000.*1002"):
    found = tables.load(str(path), **TEMPLATES, skip_bad_rows=True)
  assert len(found.inputs) == 4999 and found.inputs[-1] == "q: row 4999é"


def test_an_open_quote_is_no_row_to_skip(tmp_path):
  (tmp_path / "x.csv").write_text('q,a\n1,2\n"3,4\n5,6\n')
  with pytest.raises(ValueError, match="line 3: a quote opens in this row"):
    tables.load(str(tmp_path / "x.csv"), **TEMPLATES, skip_bad_rows=True)


@pytest.mark.parametrize(
  ("content", "why"), [(b"q,\xe9\n1,2\n", "byte 0xe9"), (b'"q"x\n1\n', "exp")]
)
def test_a_bad_header_is_no_row_to_skip(tmp_path, content, why):
  (tmp_path / "x.csv").write_bytes(content)
  with pytest.raises(ValueError, match=f"line 1: no column names: .*{why}"):
    tables.load(str(tmp_path / "x.csv"), **TEMPLATES, skip_bad_rows=True)


def test_a_field_may_be_as_long_as_a_book(tmp_path):
  for name in ("x.csv", "x.tsv"):
    path = tmp_path / name
    separator = "," if name == "x.csv" else "\t"
    path.write_text(f"q{separator}a\n{'x' * 200_000}{separator}1\n")
    assert tables.load(str(path), **TEMPLATES).targets == ["1"]


@pytest.mark.parametrize(
  ("template", "value"),
  [
    ("{q:d}", '"text"'),
    ("{q:c}", "99999999999"),
    ("{q}", "[" * 100_000 + "]" * 100_000),
  ],
)
def test_a_value_that_does_not_fit_is_a_bad_row(tmp_path, template, value):
  path = tmp_path / "x.jsonl"
  good = "7" if template in ("{q:d}", "{q:c}") else '"y"'
  path.write_text(f'{{"q": {good}}}\n{{"q": {value}}}\n{{"q": {good}}}\n')
  templates = {"inputs": template, "targets": ""}
  with pytest.raises(ValueError, match=r"x\.jsonl, line 2: .*(fit the|deep)"):
    tables.load(str(path), **templates)
  with pytest.warns(UserWarning, match="left out 1 bad rows of 3"):
    found = tables.load(str(path), **templates, skip_bad_rows=True)
  assert len(found.inputs) == 2


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
  with pytest.raises(FileNotFoundError, match="no file matches"):
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
  [
    ("{", "Single '{'|expected '}'"),
    ("{}", "no column"),
    ("{a.b}", "no col"),
    ("{0}", "no column"),
    ("{a:{width}}", "a column in the format of {a}"),
  ],
)
def test_templates_are_checked(template, message):
  with pytest.raises(ValueError, match=message):
    tables.template_columns(template)


def test_braces_and_plain_text_are_templates():
  assert tables.template_columns("{{x}} {y} {x}") == ["y", "x"]
