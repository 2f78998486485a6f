"""Real training processes that are ended in the middle of their work."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

# More is better and slower: a start takes seconds.
KILLS = int(os.environ.get("CODA_JAX_TEST_KILLS", "3"))
STEPS = 20


@pytest.fixture
def start(tmp_path, small_model):
  for split in ("train", "validation"):
    rows = "".join(f"{i} is a number,{i % 3}\n" for i in range(50))
    (tmp_path / f"r-{split}.csv").write_text("text,label\n" + rows)
  started = []

  def run(model_dir, train_steps=STEPS):
    process = subprocess.Popen(
      [
        sys.executable,
        "-m",
        "coda_jax.train",
        *("--gin_file=models/t5_1_1.gin", "--gin_file=sizes/tiny.gin"),
        *("--gin_file=methods/coda.gin", "--gin_file=schedules/adapter.gin"),
        *("--gin_file=tasks/table.gin", "--gin_file=runs/finetune.gin"),
        f"--gin.TABLE={tmp_path}/r-{{split}}.csv",
        "--gin.INPUT_TEMPLATE={text}",
        "--gin.TARGET_TEMPLATE={label}",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
        *small_model,
        "--gin.BATCH_SIZE=2",
        f"--gin.TRAIN_STEPS={train_steps}",
        "--gin.WARMUP_STEPS=1",
        "--gin.CHECKPOINT_PERIOD=1",
        "--gin.EVAL_PERIOD=0",
        "--gin.LOG_PERIOD=1",
        "--gin.loop.train.predict=False",
        f"--gin.MODEL_DIR={model_dir}",
      ],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    started.append(process)
    return process

  yield run
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()


def adapter(model_dir):
  return (model_dir / "adapter" / "adapter_model.safetensors").read_bytes()


def steps(model_dir):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return {r["step"]: r["train/loss"] for r in rows if "train/loss" in r}


def test_kill_9_at_random_moments_changes_nothing(start, tmp_path):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  begun = time.monotonic()
  process = start(whole)
  out = process.communicate(timeout=300)[0]
  seconds = time.monotonic() - begun
  assert process.returncode == 0, out

  moments = random.Random(0)
  for _ in range(KILLS):
    process = start(parts)
    try:
      process.wait(moments.uniform(0.3, 1.0) * seconds)
    except subprocess.TimeoutExpired:
      process.kill()
    process.communicate()
  process = start(parts)
  out = process.communicate(timeout=300)[0]
  assert process.returncode == 0, out
  assert adapter(parts) == adapter(whole)
  assert steps(parts) == steps(whole)
  assert list(steps(parts)) == list(range(1, STEPS + 1))


def test_sigterm_saves_and_exits_with_0(start, tmp_path):
  process = start(tmp_path / "run")
  for line in process.stdout:
    if line.startswith("step 3/"):
      break
  begun = time.monotonic()
  process.send_signal(signal.SIGTERM)
  out = process.communicate(timeout=60)[0]
  assert process.returncode == 0, out
  assert time.monotonic() - begun < 30
  assert "stopped by SIGTERM, saved after step" in out
  assert not (tmp_path / "run" / "adapter").exists()
  last = max(steps(tmp_path / "run"))
  assert 3 <= last < STEPS
  assert (tmp_path / "run" / "checkpoints" / str(last)).exists()


def test_a_second_process_is_refused(start, tmp_path):
  first = start(tmp_path / "run", train_steps=100_000)
  for line in first.stdout:
    if line.startswith("step 1/"):
      break
  second = start(tmp_path / "run")
  out = second.communicate(timeout=300)[0]
  assert second.returncode == 2
  assert f"is in use by process {first.pid}" in out
