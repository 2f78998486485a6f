"""Runs the programs of the real t5x, each in a process of its own."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from coda_jax import cli, convert, infer, train
from coda_jax.checkpoints import formats

HERE = pathlib.Path(__file__).parent
# t5x imports them too, and the index has none of them as it needs them.
SOURCES = ("t5x", "airio", "jestimator")
INSTALL = (
  "pip install 'coda_jax[t5x]', and put the repositories of t5x, airio and "
  "jestimator on PYTHONPATH: docs/t5x.md"
)

# What tiny_coda was pretrained with; t5x's checkpoints do not say it.
CODA = {
  "layer_reductions": [[0, 1], [-1, 1]],
  "epsilon": 0.1,
  "bottleneck_dim": 64,
  "convolution": 5,
  "adapter_scale": 100,
}
LENGTHS = "{'inputs': 64, 'targets': 8}"
STEPS = 20
# No dropout and one order of the data: both engines then do the same.
MACROS = {
  "REDUCTION": 3,
  "LAYER_REDUCTIONS": ((0, 1), (-1, 1)),
  "EPSILON": 0.1,
  "BOTTLENECK_DIM": 64,
  "CONVOLUTION": 5,
  "ADAPTER_SCALE": 100,
  "DTYPE": "'float32'",
  "BATCH_SIZE": 8,
  "TASK_FEATURE_LENGTHS": LENGTHS,
}
TRAINING = {
  **MACROS,
  "TRAIN_STEPS": STEPS,
  "PEAK": 1e-2,
  "WARMUP_STEPS": 5,
  "EVAL_PERIOD": STEPS,
  "CHECKPOINT_PERIOD": STEPS,
  "LOG_PERIOD": 1,
  "DROPOUT_RATE": 0.0,
}
STACK = ("sizes/tiny", "methods/coda", "tasks/bbc_topic")
# On CPUs t5x ignores the number of partitions.
EIGHT = {"NUM_PARTITIONS": None, "MODEL_PARALLEL_SUBMESH": (1, 2)}


def python(*arguments, devices=1):
  """Runs Python with so many fake devices; returns what it printed."""
  flag = f"--xla_force_host_platform_device_count={devices}"
  done = subprocess.run(
    [sys.executable, *map(str, arguments)],
    capture_output=True,
    text=True,
    env={**os.environ, "XLA_FLAGS": flag},
  )
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stdout


def run_t5x(program, *files, devices=1, **macros):
  """Runs one of t5x's programs as a user would; macros are Python's values."""
  python(
    "-m",
    f"t5x.{program}",
    f"--gin_search_paths={cli.configs_dir()}",
    *(f"--gin_file={file}.gin" for file in files),
    *(f"--gin.{name}={value}" for name, value in macros.items()),
    devices=devices,
  )


def spread(devices):
  """The macros for so many devices."""
  return {} if devices == 1 else EIGHT


def rows(path):
  """A file of JSON lines."""
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session", autouse=True)
def programs():
  """Skips where t5x can't be imported."""
  missing = [name for name in SOURCES if not importlib.util.find_spec(name)]
  if missing:
    pytest.skip(f"no module {', '.join(missing)}; {INSTALL}")
  done = subprocess.run(
    [sys.executable, "-c", "import t5x.train, t5x.infer, t5x.eval"],
    capture_output=True,
    text=True,
  )
  if done.returncode:
    reason = done.stderr.strip().splitlines()[-1]
    pytest.skip(f"t5x can't be imported: {reason}; {INSTALL}")


@pytest.fixture(scope="session")
def start(programs, tmp_path_factory):
  """The shipped models as checkpoints of t5x."""
  folder = tmp_path_factory.mktemp("start")
  for name in formats.SHIPPED:
    target = folder / name / "checkpoint_0"
    convert.convert(name, target, "t5x", dtype="float32")
  return folder


@pytest.fixture(scope="session", params=[1, 8], ids=["1_device", "8_devices"])
def devices(request):
  return request.param


@pytest.fixture(scope="session")
def theirs(start, devices, tmp_path_factory):
  """A finetuning run of t5x's: its `MODEL_DIR`."""
  folder = tmp_path_factory.mktemp("theirs")
  run_t5x(
    "train",
    "t5x/runs/finetune",
    "t5x/models/t5_1_1",
    *STACK,
    "schedules/adapter",
    devices=devices,
    **TRAINING,
    **spread(devices),
    MODEL_DIR=f"'{folder}'",
    INITIAL_CHECKPOINT_PATH=f"'{start}/tiny_coda/checkpoint_0'",
    RANDOM_SEED=0,
    DATA_SEED=0,
    EVALUATOR_NUM_EXAMPLES=8,
  )
  return folder


@pytest.fixture(scope="session")
def ours(tmp_path_factory, programs):
  """The same run of coda_jax's own engine."""
  folder = tmp_path_factory.mktemp("ours")
  files = ["models/t5_1_1", *STACK, "schedules/adapter", "runs/finetune"]
  macros = {
    **TRAINING,
    "MODEL_DIR": f"'{folder}'",
    "INITIAL_CHECKPOINT_PATH": "tiny_coda",
    "SEED": 0,
    "EVAL_EXAMPLES": 8,
  }
  code = train.main(
    [
      *(f"--gin_file={file}.gin" for file in files),
      *(f"--gin.{name}={value}" for name, value in macros.items()),
    ]
  )
  assert code == 0
  return folder


@pytest.fixture(scope="session")
def our_answers(ours, tmp_path_factory):
  """What coda_jax answers on the split, with the adapter of its own run."""
  folder = tmp_path_factory.mktemp("answers")
  macros = {
    "CHECKPOINT_PATH": ours / "adapter",
    "INITIAL_CHECKPOINT_PATH": "tiny_coda",
    "INFER_OUTPUT_DIR": folder,
    "VOCABULARY": "tiny",
    "DTYPE": "float32",
    "BATCH_SIZE": 8,
    "TASK_FEATURE_LENGTHS": LENGTHS,
  }
  code = infer.main(
    [
      "--gin_file=tasks/bbc_topic.gin",
      "--gin_file=runs/infer.gin",
      *(f"--gin.{name}={value}" for name, value in macros.items()),
    ]
  )
  assert code == 0
  return rows(folder / "predictions.jsonl")


@pytest.fixture(scope="session")
def evaluate(tmp_path_factory):
  """A function that evaluates a checkpoint with t5x: its metrics."""

  def run(checkpoint, devices=1):
    folder = tmp_path_factory.mktemp("eval")
    run_t5x(
      "eval",
      "t5x/runs/eval",
      "t5x/models/t5_1_1",
      *STACK,
      devices=devices,
      **MACROS,
      **spread(devices),
      CHECKPOINT_PATH=f"'{checkpoint}'",
      EVAL_OUTPUT_DIR=f"'{folder}'",
    )
    (metrics,) = rows(folder / "inference_eval/bbc_topic-metrics.jsonl")
    return metrics

  return run
