import json

import pytest

from coda_jax import analysis, benchmark, testing
from coda_jax.benchmarking import models, shapes, torch_peers

FIELDS = {
  "part",
  "size",
  "method",
  "reduction",
  "attention",
  "length",
  "batch",
  "decode_length",
  "dtype",
  "platform",
  "first_ms",
  "median_ms",
  "speedup",
  "flop_ratio",
}


@pytest.fixture
def clock(monkeypatch):
  """Calls each function once, and says how long it took: 12, 6, 4, 3 ms."""

  def times(calls, repeats):
    for call in calls.values():
      call()
    return {i: [12 / (i + 1)] * repeats for i in calls}

  monkeypatch.setattr(analysis, "paired_times", times)


@pytest.fixture
def run(clock, monkeypatch, tmp_path, capsys):
  """Runs the command on a tiny shape: its rows, and what it printed."""
  monkeypatch.setattr(
    shapes,
    "size_config",
    lambda size, dtype: testing.tiny_config(
      num_encoder_layers=1, num_decoder_layers=1
    ),
  )

  def command(*options):
    file = tmp_path / "rows.json"
    code = benchmark.main(
      ["--size=tiny", "--batch=2", f"--json={file}", *options]
    )
    assert code == 0
    return json.loads(file.read_text())["rows"], capsys.readouterr().out

  return command


@pytest.mark.parametrize("part", models.PARTS)
def test_rows_of_models(run, part):
  rows, out = run(
    f"--part={part}",
    "--methods=adapter,coda",
    "--length=8,16",
    "--reductions=2,4",
    "--attention=k_to_all",
    "--decode_length=3",
  )
  assert [(row["method"], row["reduction"], row["length"]) for row in rows] == [
    (method, r, length)
    for length in (8, 16)
    for method, r in [("adapter", 1), ("coda", 2), ("coda", 4)]
  ]
  for row in rows:
    assert row.keys() >= FIELDS
    assert row["size"] == "tiny" and row["part"] == part
    assert row["share"] == pytest.approx(row["speedup"] / row["flop_ratio"])
  assert rows[1]["attention"] == "k_to_all"
  assert rows[0]["flop_ratio"] == 1
  # The teacher runs too.
  assert (rows[1]["flop_ratio"] > 1) == (part != "distil")
  assert rows[1]["flop_ratio"] < rows[2]["flop_ratio"] < 4
  assert ("memory ratio" in out) == (part in ("train", "distil"))


@pytest.mark.parametrize("part", ["soft_top_k", "soft_top_k_gradient"])
def test_rows_of_soft_top_k(run, part):
  rows, _ = run(f"--part={part}", "--length=20", "--methods=adapter")
  assert {row["reduction"] for row in rows} == {3, 5, 8}
  assert rows[0]["size"] is None and rows[0].keys() >= FIELDS


def test_a_fixed_number_of_slots(run):
  rows, _ = run("--slots=4", "--length=8,20", "--methods=coda")
  assert [row["reduction"] for row in rows] == [2, 5]


def test_all_that_is_installed(run, monkeypatch):
  monkeypatch.setattr(torch_peers, "installed", lambda: ["torch"])
  given = {}
  monkeypatch.setattr(
    torch_peers, "subjects", lambda config, **kwargs: given.update(kwargs) or []
  )
  rows, _ = run("--length=8", "--reductions=2")
  assert [row["method"] for row in rows] == ["adapter", "coda", "dense"]
  assert given["methods"] == ["torch"]


def test_the_plot(run, tmp_path):
  file = tmp_path / "times.png"
  run("--length=8,16", "--methods=adapter,coda", f"--plot={file}")
  assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ("--dtype=float16", "float16 is refused"),
    ("--reductions=0.5", "reduction is 0.5"),
    ("--methods=adapter,tpu", "methods ['tpu']"),
    ("--size=huge", "size 'huge'"),
  ],
)
def test_bad_input_is_one_message(option, message, capsys):
  with pytest.raises(SystemExit) as stopped:
    benchmark.main(["--size=tiny", option])
  assert stopped.value.code == 2
  assert message in capsys.readouterr().err
