import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import seqio

import coda_jax
from coda_jax import cli, train

CORRUPTION = (
  "--gin_file=models/t5_1_1.gin",
  "--gin_file=sizes/tiny.gin",
  "--gin_file=schedules/rsqrt.gin",
  "--gin_file=tasks/span_corruption.gin",
)
FILES = (
  *CORRUPTION,
  "--gin_file=methods/full.gin",
  "--gin_file=runs/pretrain.gin",
)


@pytest.fixture
def corpus(tmp_path, fresh_registry):
  text = "the quick brown fox jumps over the lazy dog and runs away again\n"
  for split in ("train", "validation"):
    (tmp_path / f"x-{split}-0.txt").write_text(text * 20)
  return [f"--gin.CORPUS={tmp_path}/x-{{split}}-*.txt"]


def small(model_dir, steps):
  return [
    f"--gin.MODEL_DIR={model_dir}",
    f"--gin.TRAIN_STEPS={steps}",
    "--gin.WARMUP_STEPS=1",
    "--gin.BATCH_SIZE=2",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 12}",
    "--gin.EVAL_EXAMPLES=3",
    "--gin.config.T5Config.num_encoder_layers=2",
    "--gin.config.T5Config.num_decoder_layers=1",
  ]


def test_pretraining_and_then_coda(tmp_path, corpus, capsys):
  dense, coda = tmp_path / "dense", tmp_path / "coda"
  assert train.main([*FILES, *corpus, *small(dense, 3)]) == 0
  out = capsys.readouterr().out
  assert re.search(r"embedding, logits +4,194,304 +0", out), out
  assert f"saved {dense}/model" in out
  lines = (dense / "metrics.jsonl").read_text().splitlines()
  last = {}
  for line in lines:
    last |= json.loads(line)
  assert last["step"] == 3 and 0 < last["eval/loss"] < 40
  # What it wrote describes the same run: there is nothing left to train.
  again = [f"--gin_file={dense}/config.gin"]
  assert train.main(again) == 0
  assert "after step 3" in capsys.readouterr().out

  assert (
    train.main(
      [
        *CORRUPTION,
        "--gin_file=methods/coda.gin",
        "--gin_file=runs/coda_pretrain.gin",
        f"--gin.INITIAL_CHECKPOINT_PATH={dense}/model",
        *corpus,
        *small(coda, 2),
        "--gin.REDUCTION=2",
      ]
    )
    == 0
  )
  metrics = (coda / "metrics.jsonl").read_text()
  assert "eval/routing/selected_share" in metrics
  assert "train/divergence" in metrics
  # The backbone is frozen: what is new is an adapter of it.
  model, params = coda_jax.load_pretrained(coda / "adapter")
  _, before = coda_jax.load_pretrained(dense / "model")
  for name in ("attention", "mlp"):
    jax.tree.map(
      np.testing.assert_array_equal,
      params["encoder"]["layers_0"][name],
      before["encoder"]["layers_0"][name],
    )
  assert model.config.coda.reduction == 2 and model.config.vocab_size == 8192


TABLE = (
  "--gin_file=models/t5_1_1.gin",
  "--gin_file=sizes/tiny.gin",
  "--gin_file=methods/adapter.gin",
  "--gin_file=schedules/adapter.gin",
  "--gin_file=tasks/table.gin",
  "--gin_file=runs/finetune.gin",
  "--gin.INITIAL_CHECKPOINT_PATH=tiny",
  "--gin.INPUT_TEMPLATE=review: {text}",
  "--gin.TARGET_TEMPLATE={label}",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.BATCH_SIZE=2",
  "--gin.TRAIN_STEPS=2",
  "--gin.WARMUP_STEPS=1",
)


def test_a_users_own_table(tmp_path, capsys):
  for split in ("train", "validation"):
    (tmp_path / f"r-{split}.csv").write_text("text,label\nfine,good\nno,bad\n")
  where = [
    f"--gin.TABLE={tmp_path}/r-{{split}}.csv",
    f"--gin.MODEL_DIR={tmp_path}/run",
  ]
  assert train.main([*TABLE, *where]) == 0
  out = capsys.readouterr().out
  assert "validation: loss" in out and "accuracy" in out
  with open(tmp_path / "r-train.csv", "a") as file:
    file.write("one,two,three\n")
  seqio.TaskRegistry.remove("table")
  assert train.main([*TABLE, *where]) == 2
  assert "r-train.csv, line 4: 3 fields" in capsys.readouterr().err


def test_a_dry_run_shows_the_plan(tmp_path, capsys):
  for split in ("train", "validation"):
    (tmp_path / f"r-{split}.csv").write_text("text,label\nfine,good\nno,bad\n")
  command = [
    *TABLE,
    f"--gin.TABLE={tmp_path}/r-{{split}}.csv",
    f"--gin.MODEL_DIR={tmp_path}/run",
    "--dry_run",
  ]
  assert train.main(command) == 0
  out = capsys.readouterr().out
  assert "2 steps of 2 examples, 4 in all" in out
  assert "nothing was written" in out
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "required macros are not set: MODEL_DIR; add --gin.MODEL_DIR=..."),
    (["--gin.TRAINSTEPS=3"], "uses the macro TRAINSTEPS; did you mean TRAIN_"),
    (["--gin.loop.train.sed=3"], "parameter named 'sed'"),
    (["--gin.loopy.train.seed=3"], "'loopy.train'"),
    (["--gin.OPTIMIZER=@optimizers.adamx"], "'@optimizers.adamx'"),
    (["--gin.MODEL=%MODELS"], "required macros are not set: MODELS"),
    (["--gin.BATCH_SIZE={1,"], "--gin.BATCH_SIZE={1,: not a value"),
    (["--gin_file=nowhere.gin"], "nowhere.gin"),
    (["--gin.MODEL_DIR=x", "--gin.DTYPE=float16"], "float16 is refused"),
    (["--gin.MODEL_DIR=x"], "no training text matches"),
  ],
)
def test_bad_input_is_one_message(arguments, message, capsys):
  assert train.main([*FILES, "--gin.CORPUS=x-{split}", *arguments]) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.startswith("python -m coda_jax.train: ")
  assert message in err
  assert "Traceback" not in err and "In call to configurable" not in err


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--gin.MODEL_DIR=x"], "--gin_file is required"),
    ([*FILES, "--steps=3"], "'--steps=3' is neither an option nor --gin.NAME"),
  ],
)
def test_bad_command_line(arguments, message, capsys):
  with pytest.raises(SystemExit) as exit_info:
    train.main(arguments)
  assert exit_info.value.code == 2
  assert message in capsys.readouterr().err


def test_processes_that_are_not_found(capsys):
  argv = [*FILES, "--gin.MODEL_DIR=x", "--num_processes=2", "--process_id=0"]
  assert train.main(argv) == 1  # They may only be late.
  assert "could not join the other processes: " in capsys.readouterr().err


def test_an_address_needs_a_port(capsys):
  argv = [*FILES, "--gin.MODEL_DIR=x", "--coordinator_address=host0"]
  argv += ["--num_processes=1", "--process_id=0"]
  assert train.main(argv) == 2
  assert "=host0; expected HOST:PORT" in capsys.readouterr().err


def test_files_that_bind_nothing_of_the_function(capsys):
  assert train.main(["--gin_file=methods/full.gin"]) == 2
  assert "coda_jax.training.loop.train" in capsys.readouterr().err


def test_divergence_and_the_traceback_on_request(tmp_path, capsys, monkeypatch):
  def fail():
    raise FloatingPointError("step 3: loss nan")

  monkeypatch.setattr(cli, "configured", lambda function: fail)
  argv = [*FILES, f"--gin.MODEL_DIR={tmp_path}"]
  assert train.main(argv) == 1
  assert "step 3: loss nan" in capsys.readouterr().err
  monkeypatch.setenv("CODA_JAX_TRACEBACK", "1")
  with pytest.raises(FloatingPointError):
    train.main(argv)


@pytest.mark.parametrize(
  ("value", "quoted"),
  [
    ("runs/x", "'runs/x'"),
    ("./x-{split}.txt", "'./x-{split}.txt'"),
    ("/a b", "'/a b'"),
    ("word", "'word'"),
    ("-", "'-'"),
    ("-1", "-1"),
    ("{label} it", "'{label} it'"),
    ("{'a': 1}", "{'a': 1}"),
    ("True", "True"),
    ("None", "None"),
    ("1e-3", "1e-3"),
    ("'x'", "'x'"),
    ("@f()", "@f()"),
    ("%NAME", "%NAME"),
    ("(1, 'a')", "(1, 'a')"),
  ],
)
def test_quote(value, quoted):
  assert cli.quote(value) == quoted


def test_process():
  done = subprocess.run(
    [sys.executable, "-m", "coda_jax.train", *FILES],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and done.stdout == ""
  assert len(done.stderr.splitlines()) == 2
  assert "MODEL_DIR" in done.stderr
