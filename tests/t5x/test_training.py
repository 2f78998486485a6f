"""t5x trains what coda_jax's own engine does."""

import json

import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import train
from coda_jax.checkpoints import formats

from .conftest import HERE, STACK, STEPS, TRAINING, python, rows, run_t5x

pytestmark = pytest.mark.t5x


def logged(folder, name):
  """{step: value} of a scalar that t5x wrote for TensorBoard."""
  import tensorflow as tf
  from tensorflow.core.util import event_pb2

  found = {}
  files = [str(p) for p in sorted(folder.glob("events*"))]
  for record in tf.data.TFRecordDataset(files).as_numpy_iterator():
    event = event_pb2.Event.FromString(record)
    for value in event.summary.value:
      if value.tag == name:
        found[event.step] = float(tf.make_ndarray(value.tensor))
  return found


def saved_state(checkpoint):
  """{path: shape} of the optimizer's state in a checkpoint of t5x."""
  import tensorstore as ts

  folder = checkpoint / "state"
  metadata = json.loads((folder / "_METADATA").read_text())
  found = {}
  for entry in metadata["tree_metadata"].values():
    keys = [key["key"] for key in entry["key_metadata"]]
    if keys[:2] == ["state", "param_states"]:
      store = {"driver": "ocdbt", "base": f"file://{folder}/"}
      array = ts.open(
        {"driver": "zarr", "kvstore": {**store, "path": ".".join(keys) + "/"}}
      ).result()
      found["/".join(keys)] = array.shape
  return found


def leaves_of(checkpoint):
  return formats.read(checkpoint)[1]


def task_leaves(leaves):
  return {p for p in leaves if params_lib.matches(p, params_lib.TASK_PATTERNS)}


def test_loss_of_every_step(theirs, ours):
  expected = {
    row["step"]: row["train/loss"]
    for row in rows(ours / "metrics.jsonl")
    if "train/loss" in row
  }
  found = logged(theirs / "train", "loss")
  assert found.keys() == expected.keys() == set(range(1, STEPS + 1))
  difference = max(abs(found[step] - expected[step]) for step in found)
  print(f"\nlargest difference of a step's loss: {difference:.3g}")
  assert difference < 1e-4
  # It has learned something, which an error of 1e-4 would show.
  assert expected[STEPS] < expected[1] - 1


def test_self_distillation_is_ours(start, tmp_path):
  """The same losses at each step; norms stay, since the teacher has them."""
  steps = 6
  macros = {**TRAINING, "TRAIN_STEPS": steps, "CHECKPOINT_PERIOD": steps}
  macros |= {"EVAL_PERIOD": 0, "TARGETS": 0.5}
  run_t5x(
    "train",
    "t5x/runs/finetune",
    "t5x/models/t5_1_1",
    *STACK,
    "schedules/adapter",
    "t5x/objectives/distil_seq2seq",
    **macros,
    MODEL_DIR=f"'{tmp_path}/theirs'",
    INITIAL_CHECKPOINT_PATH=f"'{start}/tiny_coda/checkpoint_0'",
    RANDOM_SEED=0,
    DATA_SEED=0,
  )
  code = train.main(
    [
      *(f"--gin_file={file}.gin" for file in ("models/t5_1_1", *STACK)),
      "--gin_file=schedules/adapter.gin",
      "--gin_file=runs/finetune.gin",
      "--gin_file=objectives/distil_seq2seq.gin",
      *(f"--gin.{name}={value}" for name, value in macros.items()),
      f"--gin.MODEL_DIR={tmp_path}/ours",
      "--gin.INITIAL_CHECKPOINT_PATH=tiny_coda",
      "--gin.TRAINED=%params.ADDED_PATTERNS",
      "--gin.SEED=0",
    ]
  )
  assert code == 0
  written = rows(tmp_path / "ours/metrics.jsonl")
  for theirs_name, ours_name in (
    ("loss", "train/loss"),
    ("divergence", "train/divergence"),
    ("hidden_error", "train/hidden_error"),
    ("cross_entropy", "train/cross_entropy"),
  ):
    found = logged(tmp_path / "theirs/train", theirs_name)
    expected = {r["step"]: r[ours_name] for r in written if ours_name in r}
    assert found.keys() == expected.keys() == set(range(1, steps + 1))
    for step, value in expected.items():
      assert found[step] == pytest.approx(value, abs=1e-4), (theirs_name, step)
  before, after = (
    leaves_of(tmp_path / f"theirs/checkpoint_{step}") for step in (0, steps)
  )
  for path in after:
    same = np.array_equal(before[path].read(), after[path].read())
    assert same == (not params_lib.is_added(path)), path


def test_frozen_leaves_stay_and_have_no_state(theirs):
  before, after = (
    leaves_of(theirs / f"checkpoint_{step}") for step in (0, STEPS)
  )
  trained = task_leaves(after)
  assert before.keys() == after.keys() > trained
  for path in after:
    same = np.array_equal(before[path].read(), after[path].read())
    assert same == (path not in trained), path
  state = saved_state(theirs / f"checkpoint_{STEPS}")
  moments = {
    path: shape
    for path, shape in state.items()
    if path.split("/")[-1] != "count"
  }
  expected = {
    f"{moment}/{path}": after[path].shape
    for path in trained
    for moment in ("mu", "nu")
  }
  # state/param_states/1/0/mu/encoder/...: place in optax's chain, then path.
  assert {"/".join(p.split("/")[4:]): s for p, s in moments.items()} == expected
  size = 4 * sum(int(np.prod(shape)) for shape in moments.values())
  of_all = sum(leaf.nbytes for leaf in after.values())
  print(f"\noptimizer state {size:,} bytes, parameters {of_all:,} bytes")
  assert size == 2 * sum(after[path].nbytes for path in trained)
  assert size < 0.04 * of_all


@pytest.mark.parametrize("microbatches", [1, 2])
def test_frozen_leaves_have_no_gradient(programs, microbatches):
  """The compiler drops what nothing reads: the FLOPs are those of our step."""
  cost = json.loads(
    python(HERE / "step_cost.py", microbatches).splitlines()[-1]
  )
  print(f"\nFLOPs of a step: {cost}")
  (theirs, everything), (ours, _) = cost["theirs"], cost["ours"]
  assert theirs == pytest.approx(ours, rel=0.03)
  assert theirs < 0.8 * everything


def test_lora_by_adafactor_from_a_dense_checkpoint_and_resumed(start, tmp_path):
  """New leaves are initialised, the others are the file's; t5x's Adafactor."""

  def train(steps):
    run_t5x(
      "train",
      "t5x/runs/finetune",
      "t5x/models/t5_1_1",
      "sizes/tiny",
      "methods/coda_lora",
      "tasks/bbc_topic",
      "schedules/constant",
      "t5x/optimizers/adafactor",
      **{k: v for k, v in TRAINING.items() if k != "WARMUP_STEPS"}
      | {"TRAIN_STEPS": steps, "EVAL_PERIOD": 0, "CHECKPOINT_PERIOD": 2},
      MULTIPLY_BY_PARAMETER_SCALE=False,
      MODEL_DIR=f"'{tmp_path}/run'",
      INITIAL_CHECKPOINT_PATH=f"'{start}/tiny/checkpoint_0'",
      RANDOM_SEED=0,
      DATA_SEED=0,
    )

  train(2)
  dense = leaves_of(start / "tiny/checkpoint_0")
  first = leaves_of(tmp_path / "run/checkpoint_0")
  for path, leaf in dense.items():
    np.testing.assert_array_equal(first[path].read(), leaf.read())
  added = first.keys() - dense.keys()
  assert {p.split("/")[-2] for p in added} == {"down", "up", "router", "a", "b"}
  state = saved_state(tmp_path / "run/checkpoint_2")
  trained = task_leaves(first)
  assert {"/".join(path.split("/")[2:-1]) for path in state} == trained
  train(4)
  assert sorted(logged(tmp_path / "run/train", "loss")) == [1, 2, 3, 4]
  last = leaves_of(tmp_path / "run/checkpoint_4")
  changed = {
    path
    for path in first
    if not np.array_equal(first[path].read(), last[path].read())
  }
  assert changed == trained
