"""A tagger of words, from a BERT's folder to its answers."""

import json

import numpy as np
import pytest

import coda_jax
from coda_jax import eval as eval_lib
from coda_jax import train

pytestmark = pytest.mark.usefixtures("fresh_registry")

TAGGING = (
  "--gin_file=tasks/token_table.gin",
  "--gin_file=objectives/classify_tokens.gin",
  "--gin.LABELS=('O', 'B-x', 'I-x')",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 14, 'targets': 1}",
  "--gin.DTYPE=float32",
)


@pytest.fixture
def table(tmp_path):
  """w0 to w4 begin an entity, w5 to w9 go on with one, others are outside."""
  rng = np.random.default_rng(0)
  for split, number in (("train", 64), ("validation", 16)):
    lines = []
    for _ in range(number):
      for _ in range(rng.integers(1, 4)):
        length = rng.integers(0, 3)
        lines.append(f"w{rng.integers(10, 20)}-w{rng.integers(20)} O")
        lines.append(f"w{rng.integers(5)} B-x")
        lines += [f"w{rng.integers(5, 10)} I-x" for _ in range(length)]
      lines.append("")
    (tmp_path / f"x-{split}.conll").write_text("\n".join(lines))
  return f"--gin.TABLE={tmp_path}/x-{{split}}.conll"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_routed_model_learns_tags(
  tmp_path, table, bert_folder, family, capsys
):
  folder, run = bert_folder(family=family), tmp_path / "run"
  argv = [
    "--gin_file=models/bert.gin",
    "--gin_file=methods/coda.gin",
    "--gin_file=schedules/adapter.gin",
    "--gin_file=runs/finetune.gin",
    *TAGGING,
    table,
    "--gin.REDUCTION=2",
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    f"--gin.MODEL_DIR={run}",
    "--gin.TRAIN_STEPS=60",
    "--gin.EVAL_PERIOD=0",
    "--gin.WARMUP_STEPS=0",
    "--gin.PEAK=0.03",
    "--gin.BATCH_SIZE=32",
    "--gin.DROPOUT_RATE=0.0",
    "--gin.BEST_METRIC=f1",
  ]
  assert train.main(argv) == 0
  out = capsys.readouterr().out
  assert ", head " in out and "routing/selected_share" in out
  merged = {}
  for line in (run / "metrics.jsonl").read_text().splitlines():
    merged |= json.loads(line)
  assert merged["eval/token_accuracy"] > 0.95 and merged["eval/f1"] > 0.9
  assert (run / "best" / "adapter").is_dir()

  model, _ = coda_jax.load_adapter(
    run / "adapter", *coda_jax.load_pretrained(folder)
  )
  assert model.config.head == "token_classification"
  assert model.config.labels == ("O", "B-x", "I-x")

  argv = [
    "--gin_file=runs/eval.gin",
    *TAGGING,
    table,
    f"--gin.VOCABULARY={folder}",
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    f"--gin.CHECKPOINT_PATH={run}/adapter",
    f"--gin.EVAL_OUTPUT_DIR={tmp_path}/out",
    "--gin.BATCH_SIZE=8",
    "--gin.TIMING_REPEATS=1",
  ]
  assert eval_lib.main(argv) == 0
  results = json.loads((tmp_path / "out/results.json").read_text())
  (row,) = results["rows"]
  assert results["metric"] == "f1"
  assert row["metrics"]["f1"] == pytest.approx(merged["eval/f1"])
  assert row["encoder_ms"] > 0 and row["inference_ms"] > 0
  (lines,) = (tmp_path / "out").glob("predictions/*/*/token_table.jsonl")
  answers = [json.loads(line) for line in lines.read_text().splitlines()]
  assert len(answers) == 16
  for answer in answers:  # A tag each, of words that are not cut.
    tags = answer["prediction"].split()
    assert 0 < len(tags) <= len(answer["input"].split())
  argv = [word.replace("'B-x', 'I-x'", "'I-x', 'B-x'") for word in argv]
  assert eval_lib.main(argv) == 2
  assert "set LABELS to these, in their order" in capsys.readouterr().err
