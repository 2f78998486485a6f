"""Tables that come with a JSON file show what is in it."""

import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GIB = 2**30


def tables():
  """(page, files, rows of cells) for tables whose paragraph links to JSON."""
  for page in PAGES:
    text = re.sub(r"```.*?```\n", "", page.read_text(), flags=re.DOTALL)
    paragraphs = re.split(r"\n\s*\n", text)
    for before, table in zip(paragraphs, paragraphs[1:], strict=False):
      files = re.findall(r"\]\((?:docs/)?(\w+\.json)\)", before)
      if table.startswith("|") and files:
        yield page.name, tuple(files), table


def found(rows, method, reduction=None, **fields):
  """The one row of a method."""
  (row,) = (
    row
    for row in rows
    if row["method"] == method
    and (reduction is None or row["reduction"] == reduction)
    and all(row[name] == value for name, value in fields.items())
  )
  return row


def coda(*reductions):
  return [("coda", r) for r in reductions]


def speed(row, scale=1):
  ratios = row["speedup"], row["flop_ratio"], 100 * row["share"]
  return [row["reduction"], row["median_ms"], *ratios]


def base(data):
  return [speed(found(data, *m)) for m in [("adapter",), *coda(3, 5, 8)]]


def base_in_short(data):
  return [row[:-1] for row in base(data)]


def base_at_two_lengths(short, long):
  methods = [("adapter",), ("dense",), *coda(3, 5, 8)]
  rows = [found(short, *method) for method in methods]
  rows += [found(long, *method) for method in [("adapter",), *coda(8)]]
  return [[(row["length"], row["batch"]), *speed(row)] for row in rows]


def training_step(data):
  return [
    [
      row["reduction"],
      row["median_ms"],
      1 / row["speedup"],
      1 / row["flop_ratio"],
      row["peak_bytes"] / 1e6,
    ]
    for row in data
  ]


def torch(*data):
  return [
    [length, None]
    + [
      found(rows, method, length=length)["median_ms"]
      for method in ("dense", "torch", "torch_compile")
    ]
    for rows in data
    for length in (128, 512, 2048)
  ]


def inference(*data):
  methods = [("torch",), ("dense",), ("adapter",), *coda(3, 5)]
  cells = [[r[0] if r else None] for _, *r in methods]
  for rows in data:
    times = [found(rows, *method)["median_ms"] for method in methods]
    for row, ms in zip(cells, times, strict=True):
      row += [ms, times[0] / ms]
  return cells


def operator(forward, gradient):
  methods = ["selection", "exact", "iterative", "colt5"]
  rows = [(forward, m) for m in methods]
  rows += [(gradient, m) for m in ("exact", "iterative")]
  return [
    [None] + [found(data, m, length=n)["median_ms"] for n in (512, 4096)]
    for data, m in rows
  ]


def pretraining(data):
  shown = ("span_corruption", "span_copying", "continuation", "title", "topic")
  shown += ("find", "which", "about", "intruder")
  rows = [
    [
      round(row["seconds"]),
      row["step"],
      *(row["validation"][task][0] for task in shown),
    ]
    for row in data
    if row["step"] in (2395, 5947, 11852, 17739, 24769)
  ]
  last = [100 * data[-1]["validation"][task][1] for task in shown]
  return [*rows, [round(data[-1]["seconds"]), None, *last]]


def sizes_on_tpus(data):
  return [
    [None] * 4
    + [
      row["peak_bytes"] / GIB,
      row["arguments_bytes"] / GIB,
      row["temporaries_bytes"] / GIB,
      row["flops"] / 1e12,
      row["compute_ms"],
      row["collectives_ms"],
      tuple(row["step_ms"]),
    ]
    for row in data
  ]


def methods_on_tpus(data):
  adapter = found(data, "adapter")["step_ms"][0]
  return [
    [
      None,
      row["reduction"],
      row["peak_bytes"] / GIB,
      row["arguments_bytes"] / GIB,
      row["temporaries_bytes"] / GIB,
      row["flops"] / 1e12,
      row["step_ms"][0],
      adapter / row["step_ms"][0],
    ]
    for row in data
  ]


def embedding(news, manuals):
  rows = []
  for pair in zip(news, manuals, strict=True):
    cells = [
      row[name] for row in pair for name in ("first_place", "mrr", "topic")
    ]
    cosines = tuple(row["cosine"] for row in pair if "cosine" in row)
    speedups = tuple(row["speedup"] for row in pair)
    rows.append([None, *cells, cosines or None, speedups])
  return rows


# What the cells of each table are made of; None is for words.
TABLES = {
  ("model_card.md", "tiny.json"): pretraining,
  ("README.md", "benchmark_base.json"): base_in_short,
  ("performance.md", "benchmark_base_train.json"): training_step,
  (
    "performance.md",
    "benchmark_base.json",
    "benchmark_base_2048.json",
  ): base_at_two_lengths,
  (
    "performance.md",
    "benchmark_base_torch_float32.json",
    "benchmark_base_torch_bfloat16.json",
  ): torch,
  (
    "performance.md",
    "benchmark_base_generate.json",
    "benchmark_base_generate_bfloat16.json",
  ): inference,
  (
    "performance.md",
    "benchmark_soft_top_k.json",
    "benchmark_soft_top_k_gradient.json",
  ): operator,
  ("performance.md", "benchmark_base_v5e.json"): base,
  ("embedding.md", "embedding_news.json", "embedding_manuals.json"): embedding,
  ("tpu.md", "tpu_compile.json"): sizes_on_tpus,
  ("tpu.md", "tpu_methods.json"): methods_on_tpus,
}


def test_each_of_these_tables_is_there():
  assert {(page, *files) for page, files, _ in tables()} == set(TABLES)


def check(cell, value):
  """The numbers of a cell are these, at the precision that it shows."""
  numbers = re.findall(r"\d+(?:\.\d+)?", cell)
  values = value if isinstance(value, tuple) else (value,)
  shown = [
    f"{x:.{len(number.partition('.')[2])}f}"
    for x, number in zip(values, numbers, strict=False)
  ]
  assert numbers[: len(values)] == shown, (cell, value)


@pytest.mark.parametrize(
  ("page", "files", "table"),
  [pytest.param(*t, id=f"{t[0]}-{t[1][0]}") for t in tables()],
)
def test_numbers_are_those_of_the_file(page, files, table):
  data = [
    json.loads((ROOT / "docs" / file).read_text())["rows"] for file in files
  ]
  expected = TABLES[page, *files](*data)
  lines = table.splitlines()[2:]
  for line, values in zip(lines, expected, strict=True):
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    for cell, value in zip(cells, values, strict=True):
      if cell and value is not None and re.search(r"\d", cell):
        check(cell, value)
