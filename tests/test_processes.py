"""Real processes on this machine that train one model together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy

STEPS = 40
MESH = "{'data': 2, 'fsdp': 2}"


@pytest.fixture
def start(tmp_path, small_model):
  for split in ("train", "validation"):
    rows = "".join(f"{i} is a number,{i % 3}\n" for i in range(50))
    (tmp_path / f"r-{split}.csv").write_text("text,label\n" + rows)
  command = [
    *(sys.executable, "-m", "coda_jax.train"),
    *("--gin_file=models/t5_1_1.gin", "--gin_file=sizes/tiny.gin"),
    *("--gin_file=methods/coda.gin", "--gin_file=schedules/adapter.gin"),
    *("--gin_file=tasks/table.gin", "--gin_file=runs/finetune.gin"),
    f"--gin.TABLE={tmp_path}/r-{{split}}.csv",
    "--gin.INPUT_TEMPLATE={text}",
    "--gin.TARGET_TEMPLATE={label}",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
    *small_model,
    "--gin.BATCH_SIZE=8",
    f"--gin.TRAIN_STEPS={STEPS}",
    "--gin.WARMUP_STEPS=1",
    "--gin.CHECKPOINT_PERIOD=1",
    "--gin.EVAL_PERIOD=0",
    "--gin.LOG_PERIOD=1",
    "--gin.DTYPE=float32",
    "--gin.loop.train.predict=False",
    f"--gin.MESH={MESH}",
  ]
  started = []

  def run(model_dir, count, only_last=()):
    """Starts `count` processes with four devices in all.

    `only_last`: further arguments of the last one.
    """
    with socket.socket() as free:
      free.bind(("localhost", 0))
      address = f"localhost:{free.getsockname()[1]}"
    group = []
    for i in range(count):
      several = [
        f"--coordinator_address={address}",
        f"--num_processes={count}",
        f"--process_id={i}",
      ]
      group.append(
        subprocess.Popen(
          [
            *command,
            f"--gin.MODEL_DIR={model_dir}",
            *(several if count > 1 else []),
            *(only_last if i == count - 1 else ()),
          ],
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
          env={**os.environ, "JAX_NUM_CPU_DEVICES": str(4 // count)},
        )
      )
    started.extend(group)
    return group

  yield run
  for process in started:
    process.kill()
    process.communicate()


def test_the_cause_is_on_the_screen_of_all(start, tmp_path):
  """One can't find its table; the other one waits for it, and hears why."""
  missing = f"{tmp_path}/missing-{{split}}.csv"
  for process in start(tmp_path / "run", 2, [f"--gin.TABLE={missing}"]):
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "missing-train.csv" in err, err


def wait_for_step(process, step):
  for line in process.stdout:
    if line.startswith(f"step {step}/"):
      return
  pytest.fail(process.stderr.read())


def adapter(model_dir):
  return safetensors.numpy.load_file(
    model_dir / "adapter" / "adapter_model.safetensors"
  )


def losses(model_dir):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return {r["step"]: r["train/loss"] for r in rows if "train/loss" in r}


def test_one_two_and_four_processes_train_the_same_model(start, tmp_path):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  (process,) = start(whole, 1)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  assert "mesh: data 2, fsdp 2, model 1\n" in out

  # Two, one of which is killed: the other says so, and ends.
  first, second = start(parts, 2)
  wait_for_step(first, 5)
  second.kill()
  killed = time.monotonic()
  _, err = first.communicate(timeout=60)
  assert time.monotonic() - killed < 60
  assert first.returncode not in (0, None)
  assert "process 0 of 2 ends: another process was lost" in err, err

  # Four go on from there, until one of them is asked to stop.
  group = start(parts, 4)
  wait_for_step(group[0], 15)
  group[2].send_signal(signal.SIGTERM)
  outs = [process.communicate(timeout=120) for process in group]
  codes = [process.returncode for process in group]
  assert codes == [0] * 4, "\n".join(err[:3000] for _, err in outs)
  assert "stopped by SIGTERM, saved after step" in outs[0][0]
  lines = [line for out, _ in outs[1:] for line in out.splitlines()]
  assert [line for line in lines if "[Gloo]" not in line] == []
  last = max(losses(parts))
  assert 15 <= last < STEPS
  assert (parts / "checkpoints" / str(last)).exists()

  # And one ends it.
  (process,) = start(parts, 1)
  out, err = process.communicate(timeout=300)
  assert process.returncode == 0, err
  assert f"resuming {parts} after step {last}" in out
  assert list(losses(parts)) == list(range(1, STEPS + 1))
  np.testing.assert_allclose(
    list(losses(parts).values()), list(losses(whole).values()), rtol=1e-3
  )
  expected = adapter(whole)
  for name, found in adapter(parts).items():
    np.testing.assert_allclose(found, expected[name], atol=1e-3, err_msg=name)
