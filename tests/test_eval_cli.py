import json

import pytest
import seqio

from coda_jax import eval as eval_lib

FILES = (
  "--gin_file=tasks/table.gin",
  "--gin_file=runs/eval.gin",
  "--gin.VOCABULARY=tiny",
  "--gin.INPUT_TEMPLATE=review: {text}",
  "--gin.TARGET_TEMPLATE={label}",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.BATCH_SIZE=2",
  "--gin.DTYPE=float32",
)


@pytest.fixture
def where(tmp_path):
  for split in ("train", "validation"):
    (tmp_path / f"r-{split}.csv").write_text("text,label\nfine,good\nno,bad\n")
  yield [
    f"--gin.TABLE={tmp_path}/r-{{split}}.csv",
    f"--gin.EVAL_OUTPUT_DIR={tmp_path}/out",
    "--gin.CHECKPOINT_PATH=tiny_coda",
  ]
  if "table" in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove("table")


def test_a_shipped_model_at_two_reductions(tmp_path, where, capsys):
  more = ["--gin.REDUCTIONS=(1, 3)", "--gin.TIMING_REPEATS=1"]
  assert eval_lib.main([*FILES, *where, *more]) == 0
  out, err = capsys.readouterr()
  assert err == ""
  assert "speed-up" in out and f"wrote {tmp_path}/out/" in out
  results = json.loads((tmp_path / "out" / "results.json").read_text())
  assert [row["reduction"] for row in results["rows"]] == [1, 3]
  assert (tmp_path / "out" / "accuracy_speed.png").exists()
  # It describes the run by itself.
  assert eval_lib.main([f"--gin_file={tmp_path}/out/config.gin"]) == 0


def test_a_mesh_changes_no_result(tmp_path, where):
  rows = []
  for mesh in ("{}", "{'data': 2, 'fsdp': 4}"):
    more = ["--gin.TIMING_REPEATS=0", "--gin.BATCH_SIZE=8"]
    assert eval_lib.main([*FILES, *where, *more, f"--gin.MESH={mesh}"]) == 0
    seqio.TaskRegistry.remove("table")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    rows.append(results["rows"][0]["metrics"])
  assert rows[1] == pytest.approx(rows[0], rel=1e-4)


@pytest.mark.parametrize("option", ["--distributed", "--process_id=1"])
def test_several_processes_are_refused(where, option, capsys):
  with pytest.raises(SystemExit) as exit_info:
    eval_lib.main([*FILES, *where, option])
  assert exit_info.value.code == 2
  assert "only python -m coda_jax.train runs in" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--gin.TABLE_METRICS=[@metrics.f1]"], "@metrics.f1"),
    (["--gin.METRIC=f1"], "METRIC='f1', but 'table' has ['accuracy'"),
    (["--gin.SPLIT=test"], "'table' has no split 'test'"),
    (["--gin.CHECKPOINT_PATH=nowhere"], "no checkpoint found in nowhere"),
    (["--gin.CHECKPOINTPATH=x"], "did you mean CHECKPOINT_PATH?"),
    (["--gin.REDUCTIONS=(3, 0)"], "REDUCTIONS=(3, 0); expected"),
    (["--gin.MESH={'data': 8}"], "batch_size=2 does not divide among data=8"),
    (
      ["--gin.MIXTURE_OR_TASK_NAME=nothing"],
      "no seqio task or mixture 'nothing' is registered",
    ),
  ],
)
def test_bad_input_is_one_message(where, arguments, message, capsys):
  repeats = "--gin.TIMING_REPEATS=0"
  assert eval_lib.main([*FILES, *where, repeats, *arguments]) == 2
  err = capsys.readouterr().err
  assert err.startswith("python -m coda_jax.eval: ") and message in err
  assert "Traceback" not in err and "In call to configurable" not in err


def test_an_empty_task(tmp_path, where, capsys):
  (tmp_path / "r-validation.csv").write_text("text,label\n")
  assert eval_lib.main([*FILES, *where]) == 2
  assert "r-validation.csv: no usable row" in capsys.readouterr().err


def test_a_checkpoint_that_is_cut_off(tmp_path, where, capsys):
  (tmp_path / "all" / "a").mkdir(parents=True)
  (tmp_path / "all" / "a" / "config.json").write_text('{"format": "coda')
  more = [f"--gin.CHECKPOINT_PATH={tmp_path}/all"]
  assert eval_lib.main([*FILES, *where, *more]) == 2
  assert "all/a/config.json is not valid JSON" in capsys.readouterr().err
  assert not (tmp_path / "out").exists()
