import json
import os
import signal
import subprocess
import sys
import time

import pytest
import seqio

from coda_jax import infer

MODEL = (
  "--gin_file=runs/infer.gin",
  "--gin.CHECKPOINT_PATH=tiny_coda",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.BATCH_SIZE=2",
  "--gin.DTYPE=float32",
)
FILES = (
  *MODEL,
  "--gin_file=tasks/text.gin",
  "--gin.VOCABULARY=tiny",
  "--gin.INPUT_TEMPLATE=topic: {text}",
)
LINES = [f"line {i} of the text" + " and so on" * (i % 5) for i in range(9)]


def records(folder):
  lines = (folder / "predictions.jsonl").read_text("utf-8").splitlines()
  return [json.loads(line) for line in lines]


def start(*arguments):
  return subprocess.Popen(
    [sys.executable, "-m", "coda_jax.infer", *FILES, *arguments],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_a_mesh_changes_no_answer(tmp_path):
  (tmp_path / "x.txt").write_text("\n".join(LINES))
  for name, mesh in (("one", "{}"), ("many", "{'data': 2, 'model': 2}")):
    arguments = [
      f"--gin.INPUT_PATH={tmp_path}/x.txt",
      f"--gin.INFER_OUTPUT_DIR={tmp_path}/{name}",
      f"--gin.MESH={mesh}",
    ]
    assert infer.main([*FILES, *arguments]) == 0
  found = [records(tmp_path / name) for name in ("one", "many")]
  for one, many in zip(*found, strict=True):
    assert many == {**one, "score": pytest.approx(one["score"], rel=1e-4)}


def test_a_killed_process_and_its_continuation(tmp_path):
  out = tmp_path / "out"
  arguments = (
    "--gin.INPUT_PATH=-",
    f"--gin.INFER_OUTPUT_DIR={out}",
    "--gin.predict.infer.window=3",
  )
  killed = start(*arguments)
  # Two windows and a part of the third, for which it waits.
  killed.stdin.write("\n".join(LINES[:7]))
  killed.stdin.flush()
  deadline = time.monotonic() + 300
  while not (out / "predictions.jsonl").exists() or len(records(out)) < 6:
    assert killed.poll() is None, killed.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.1)
  os.kill(killed.pid, signal.SIGKILL)
  killed.communicate()
  assert killed.returncode == -signal.SIGKILL
  before = (out / "predictions.jsonl").read_text()
  assert len(before.splitlines()) == 6
  with open(out / "predictions.jsonl", "a") as file:
    file.write('{"index": 6, "inp')

  stdout, stderr = start(*arguments).communicate("\n".join(LINES))
  assert stdout == ""
  assert "has 6 results; continuing after them" in stderr
  assert "3 examples" in stderr and "tokens/s" in stderr
  assert (out / "predictions.jsonl").read_text().startswith(before)

  (tmp_path / "x.txt").write_text("\n".join(LINES))
  whole = tmp_path / "whole"
  again = [
    f"--gin.INPUT_PATH={tmp_path}/x.txt",
    f"--gin.INFER_OUTPUT_DIR={whole}",
  ]
  assert infer.main([*FILES, *again]) == 0
  assert [r["input"] for r in records(out)] == [f"topic: {x}" for x in LINES]
  for one, other in zip(records(out), records(whole), strict=True):
    assert one.pop("score") == pytest.approx(other.pop("score"), rel=1e-4)
    assert one == other


def test_standard_output_is_json_lines_alone():
  process = start("--gin.INPUT_PATH=-", "--gin.INFER_OUTPUT_DIR=-")
  stdout, stderr = process.communicate("\n".join(LINES[:3]))
  assert process.returncode == 0, stderr
  found = [json.loads(line) for line in stdout.splitlines()]
  assert [r["input"] for r in found] == [f"topic: {x}" for x in LINES[:3]]
  assert "3 examples" in stderr and "wrote 3 results" in stderr


def test_a_task(tmp_path):
  (tmp_path / "r-train.csv").write_text("text,label\nfine,good\n")
  (tmp_path / "r-validation.csv").write_text("text,label\nso so,bad\n")
  arguments = [
    *MODEL,
    "--gin_file=tasks/table.gin",
    "--gin.VOCABULARY=tiny",
    "--gin.INPUT_TEMPLATE=review: {text}",
    "--gin.TARGET_TEMPLATE={label}",
    f"--gin.TABLE={tmp_path}/r-{{split}}.csv",
    f"--gin.INFER_OUTPUT_DIR={tmp_path}/out",
  ]
  try:
    assert infer.main(arguments) == 0
    (found,) = records(tmp_path / "out")
    assert (found["input"], found["target"]) == ("review: so so", "bad")
    assert infer.main([*arguments, "--gin.MODE=score"]) == 0
    scores = (tmp_path / "out" / "scores.jsonl").read_text()
    assert json.loads(scores)["score"] < 0
  finally:
    seqio.TaskRegistry.remove("table")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "x.jsonl, line 2: not JSON"),
    (["--gin.INPUT_PATH=nowhere.txt"], "nowhere.txt"),
    (["--gin.INPUT_TEMPLATE={body}"], "line 1: no value for body"),
    (["--gin.STDIN_FORMAT=csv"], "STDIN_FORMAT='csv'"),
    (["--gin.VOCABULARY=nothing"], "no vocabulary 'nothing'"),
    (["--gin.MODE=rank"], "MODE='rank'"),
    (["--gin.REDUCTION=0"], "REDUCTION=0; expected a number, 1 or more"),
    (["--gin.CHECKPOINT_PATH=nowhere"], "no checkpoint found in nowhere"),
    (["--gin.GENERATE={'method': 'best'}"], "method='best'"),
    (["--gin.INPUTPATH=x"], "did you mean INPUT_PATH?"),
  ],
)
def test_bad_input_is_one_message(tmp_path, arguments, message, capsys):
  (tmp_path / "x.jsonl").write_text('{"text": "a"}\n{"text"\n')
  where = [
    f"--gin.INPUT_PATH={tmp_path}/x.jsonl",
    f"--gin.INFER_OUTPUT_DIR={tmp_path}/out",
  ]
  assert infer.main([*FILES, *where, *arguments]) == 2
  out, err = capsys.readouterr()
  assert out == "" and "python -m coda_jax.infer: " in err and message in err
  assert "Traceback" not in err and "In call to configurable" not in err


def test_without_a_source(capsys):
  assert infer.main([*MODEL, "--gin.INFER_OUTPUT_DIR=x"]) == 2
  err = capsys.readouterr().err
  assert "required macros are not set: MIXTURE_OR_TASK_NAME" in err
