"""Checkpoints go from t5x to coda_jax and back, and answer the same."""

import json

import numpy as np
import pytest

import coda_jax
from coda_jax import convert
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig
from coda_jax.under_t5x import saved_model

from .conftest import (
  CODA,
  HERE,
  LENGTHS,
  MACROS,
  STACK,
  STEPS,
  python,
  rows,
  run_t5x,
  spread,
)

pytestmark = pytest.mark.t5x


def accuracy(answers):
  """The share of the answers that are right."""
  right = [row["prediction"] == row["target"] for row in answers]
  return sum(right) / len(right)


def test_their_evaluation_is_ours(theirs, our_answers, evaluate, devices):
  metrics = evaluate(theirs / f"checkpoint_{STEPS}", devices)
  assert metrics["accuracy"] == pytest.approx(accuracy(our_answers))
  assert metrics["accuracy"] > 0


def test_their_answers_are_ours(theirs, our_answers, devices, tmp_path):
  run_t5x(
    "infer",
    "t5x/runs/infer",
    "t5x/models/t5_1_1",
    *STACK,
    devices=devices,
    **MACROS,
    **spread(devices),
    CHECKPOINT_PATH=f"'{theirs}/checkpoint_{STEPS}'",
    INFER_OUTPUT_DIR=f"'{tmp_path}'",
  )
  answers = rows(tmp_path / "bbc_topic-predict.jsonl-00000-of-00001")
  assert len({row["prediction"] for row in answers}) > 2
  assert [row["prediction"] for row in answers] == [
    row["prediction"] for row in our_answers
  ]


@pytest.mark.filterwarnings("ignore")  # Of tensorflow.
def test_their_export_answers_the_same(theirs, our_answers, devices, tmp_path):
  pytest.importorskip("tensorflow_serving", reason="t5x.export needs it")
  tf = pytest.importorskip("tensorflow")
  pytest.importorskip("tensorflow_text")
  run_t5x(
    "export",
    "t5x/runs/export",
    "t5x/models/t5_1_1",
    "sizes/tiny",
    "methods/coda",
    # An open batch can't be split over devices.
    **MACROS
    | {
      "BATCH_SIZE": None if devices == 1 else devices,
      "TASK_FEATURE_LENGTHS": LENGTHS,
    },
    devices=devices,
    **spread(devices),
    CHECKPOINT_PATH=f"'{theirs}/checkpoint_{STEPS}'",
    MODEL_OUTPUT_DIR=f"'{tmp_path}/topic/1'",
    MODEL_NAME="'topic'",
  )
  folder = tmp_path / "topic_cpu/1"
  assert saved_model.main([str(folder)]) == 0
  answer = tf.saved_model.load(str(folder)).signatures["serving_default"]
  texts = [row["input"] for row in our_answers]
  size = len(texts) if devices == 1 else devices
  found = []
  for start in range(0, len(texts), size):
    batch = texts[start : start + size]
    batch += [""] * (size - len(batch))
    found += (
      answer(text_batch=tf.constant(batch))["output_0"]
      .numpy()
      .ravel()[: len(texts) - start]
      .tolist()
    )
  assert [text.decode() for text in found] == [
    row["prediction"] for row in our_answers
  ]


def test_an_adapter_of_theirs(theirs, ours, tmp_path):
  """What `convert` makes of t5x's run is the adapter of ours."""
  source, target = theirs / f"checkpoint_{STEPS}", tmp_path / "adapter"
  convert.main(
    [str(source), str(target), "--to=adapter", f"--coda={json.dumps(CODA)}"]
  )
  backbone = coda_jax.load_pretrained("tiny_coda")
  model, params = coda_jax.load_adapter(target, *backbone)
  our_model, expected = coda_jax.load_adapter(ours / "adapter", *backbone)
  assert model.config == our_model.config
  params, expected = map(params_lib.flatten, (params, expected))
  assert params.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_allclose(params[path], leaf, atol=1e-4)


def test_their_evaluation_of_ours(ours, our_answers, evaluate, tmp_path):
  convert.convert(
    ours / "adapter",
    tmp_path / "checkpoint_20",
    "t5x",
    dtype="float32",
    initial_checkpoint_path="tiny_coda",
  )
  metrics = evaluate(tmp_path / "checkpoint_20")
  assert metrics["accuracy"] == pytest.approx(accuracy(our_answers))
  assert metrics["accuracy"] > 0


@pytest.mark.parametrize("where", ["checkpoint_0", "published/checkpoint_0"])
def test_their_own_network_in_ours(programs, tmp_path, where):
  python(HERE / "own_network.py", tmp_path)
  saved = np.load(tmp_path / "logits.npz")
  tokens = saved["tokens"]
  dense = coda_jax.load_pretrained(tmp_path / where)
  coda = coda_jax.load_pretrained(
    tmp_path / where, coda=CodaConfig(reduction=1)
  )
  for model, params in (dense, coda):  # A fresh adapter adds 0.
    logits = model.apply(
      {"params": params}, tokens, tokens, tokens, enable_dropout=False
    )
    # Targets that are padding have logits of nothing, which differ.
    difference = np.abs(np.asarray(logits) - saved["logits"])
    difference = difference[tokens > 0].max()
    print(f"\n{where}: largest difference of logits {difference:.3g}")
    assert difference < 1e-5
    assert np.abs(saved["logits"]).max() > 0.1
