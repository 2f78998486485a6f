"""An encoder learns pairs of texts, from gin files to its vectors."""

import json

import numpy as np
import pytest

import coda_jax
from coda_jax import eval as eval_lib
from coda_jax import testing, train

pytestmark = pytest.mark.usefixtures("fresh_registry")

WORDS = [f"w{i}" for i in range(16)]


@pytest.fixture
def table(tmp_path):
  """A row for each pair of words, of which the text has one, many times."""
  lines = [f"{WORDS[i]},{' '.join([WORDS[i + 8]] * 4)}" for i in range(8)]
  for split in ("train", "validation"):
    text = "\n".join(["title,body", *lines]) + "\n"
    (tmp_path / f"pairs-{split}.csv").write_text(text)
  return f"--gin.TABLE={tmp_path}/pairs-{{split}}.csv"


def results(model_dir, kind):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  return [row for row in map(json.loads, lines) if f"{kind}/loss" in row]


@pytest.mark.parametrize("method", [(), ("--gin_file=methods/full.gin",)])
def test_a_few_steps_bring_pairs_together(tmp_path, table, method):
  encoder, run = tmp_path / "encoder", tmp_path / "run"
  testing.save_sentence_encoder(encoder, WORDS, num_encoder_layers=3)
  argv = [
    "--gin_file=experiments/embed_pairs.gin",
    *method,
    table,
    f"--gin.INITIAL_CHECKPOINT_PATH={encoder}",
    f"--gin.MODEL_DIR={run}",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 4, 'targets': 8}",
    "--gin.BATCH_SIZE=8",
    "--gin.TRAIN_STEPS=40",
    "--gin.WARMUP_STEPS=0",
    "--gin.PEAK=0.02",
    "--gin.LOG_PERIOD=1",
    "--gin.EVAL_PERIOD=0",
  ]
  assert train.main(argv) == 0
  losses = [row["train/loss"] for row in results(run, "train")]
  (end,) = results(run, "eval")
  assert len(losses) == 40
  assert end["eval/loss"] < 0.9 * losses[0]
  assert 0 <= end["eval/first"] <= 1
  if method:
    assert "eval/routing/selected_share" not in end
    return
  assert any(name.startswith("eval/routing/") for name in end)

  # The adapter is for the commands that embed.
  model, params = coda_jax.load_pretrained(encoder)
  model, params = coda_jax.load_adapter(run / "adapter", model, params)
  sentences = coda_jax.load_sentences(encoder)
  a = coda_jax.embed(model, params, WORDS[:8], sentences)
  b = coda_jax.embed(
    model, params, [" ".join([w] * 4) for w in WORDS[8:]], sentences
  )
  nearest = (a @ b.T).argmax(axis=1) == np.arange(8)
  assert nearest.mean() == pytest.approx(end["eval/first"])

  out = tmp_path / "out"
  argv = [
    "--gin_file=tasks/pairs.gin",
    "--gin_file=runs/eval.gin",
    "--gin_file=objectives/contrastive.gin",
    table,
    "--gin.INPUT_TEMPLATE={title}",
    "--gin.TARGET_TEMPLATE={body}",
    f"--gin.VOCABULARY={encoder}",
    f"--gin.INITIAL_CHECKPOINT_PATH={encoder}",
    f"--gin.CHECKPOINT_PATH={run}/adapter",
    f"--gin.EVAL_OUTPUT_DIR={out}",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 4, 'targets': 8}",
    "--gin.BATCH_SIZE=8",
    "--gin.DTYPE=float32",
    "--gin.TIMING_REPEATS=1",
  ]
  assert eval_lib.main(argv) == 0
  (row,) = json.loads((out / "results.json").read_text())["rows"]
  assert row["metrics"]["loss"] == pytest.approx(end["eval/loss"], rel=1e-4)
  assert row["metrics"]["first"] == end["eval/first"]
