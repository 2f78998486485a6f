"""A classifier of texts, from a BERT's folder to its answers."""

import json

import numpy as np
import pytest

import coda_jax
from coda_jax import convert, infer, inspect, train
from coda_jax import eval as eval_lib
from coda_jax.checkpoints import adapter, folders

pytestmark = pytest.mark.usefixtures("fresh_registry")

LABELS = "--gin.LABELS=('No', 'Yes')"
TASK = (
  "--gin_file=tasks/table.gin",
  "--gin.INPUT_TEMPLATE={text}",
  "--gin.TARGET_TEMPLATE={label}",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 12, 'targets': 2}",
)
CLASSIFY = ("--gin_file=objectives/classify.gin", LABELS)


@pytest.fixture
def rows(tmp_path):
  """16 random texts, half of which have each label."""
  rng = np.random.default_rng(0)
  lines = ["text,label"]
  for i in range(16):
    words = " ".join(f"w{w}" for w in rng.integers(0, 20, rng.integers(4, 14)))
    lines.append(f"{words},{('No', 'Yes')[i % 2]}")
  for split in ("train", "validation"):
    (tmp_path / f"rows-{split}.csv").write_text("\n".join(lines) + "\n")
  return f"--gin.TABLE={tmp_path}/rows-{{split}}.csv"


def training(rows, folder, model_dir, method, steps, *more):
  return [
    "--gin_file=models/bert.gin",
    f"--gin_file=methods/{method}.gin",
    "--gin_file=schedules/adapter.gin",
    "--gin_file=runs/finetune.gin",
    *TASK,
    *CLASSIFY,
    rows,
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    f"--gin.MODEL_DIR={model_dir}",
    f"--gin.TRAIN_STEPS={steps}",
    "--gin.EVAL_PERIOD=0",
    "--gin.WARMUP_STEPS=0",
    "--gin.PEAK=0.02",
    "--gin.BATCH_SIZE=16",
    "--gin.DROPOUT_RATE=0.0",
    "--gin.DTYPE=float32",
    *more,
  ]


def evaluating(rows, folder, checkpoint, out, *more):
  return [
    "--gin_file=runs/eval.gin",
    *TASK,
    *CLASSIFY,
    rows,
    f"--gin.VOCABULARY={folder}",
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    f"--gin.CHECKPOINT_PATH={checkpoint}",
    f"--gin.EVAL_OUTPUT_DIR={out}",
    "--gin.BATCH_SIZE=8",
    "--gin.DTYPE=float32",
    *more,
  ]


def last(model_dir):
  merged = {}
  for line in (model_dir / "metrics.jsonl").read_text().splitlines():
    merged |= json.loads(line)
  return merged


def logits(model, params):
  batch = {
    "encoder_input_tokens": np.array([[2, 5, 9, 3, 0], [2, 7, 8, 6, 3]]),
    "encoder_mask": np.array([[1, 1, 1, 1, 0], [1] * 5]),
  }
  return model.apply({"params": params}, **batch, enable_dropout=False)


def test_an_adapter_learns_16_texts_and_is_loaded(
  tmp_path, rows, bert_folder, capsys
):
  folder, run = bert_folder(), tmp_path / "run"
  best = ["--gin.BEST_METRIC=label_accuracy"]
  first = training(rows, folder, run, "adapter", 20, *best)
  assert train.main(first) == 0
  out = capsys.readouterr().out
  assert "head " in out and "can't be written" not in out
  assert "targets" not in out.split("of the first")[1].split("warning")[0]
  assert train.main(training(rows, folder, run, "adapter", 80, *best)) == 0
  out = capsys.readouterr().out
  assert "after step 20" in out and "every answer" not in out
  found = last(run)
  assert found["eval/label_accuracy"] == found["eval/accuracy"] == 1

  # What a run, its best and its adapter hold is the same model.
  plain, params = coda_jax.load_pretrained(folder)
  assert plain.config.head is None
  model, loaded = coda_jax.load_adapter(run / "adapter", plain, params)
  assert model.config.labels == ("No", "Yes") and model.config.num_labels == 2
  expected = logits(model, loaded)
  assert expected.shape == (2, 2)
  paths = [str(run / "checkpoints" / "80"), str(run / "adapter")]
  for _, other, its in folders.load_each(paths, folder):
    np.testing.assert_array_equal(logits(other, its), expected)
  assert folders.read_config(run / "adapter", folder) == model.config

  out = tmp_path / "out"
  argv = evaluating(rows, folder, run / "adapter", out)
  assert eval_lib.main([*argv, "--gin.TIMING_REPEATS=1"]) == 0
  (row,) = json.loads((out / "results.json").read_text())["rows"]
  assert row["metrics"]["accuracy"] == row["metrics"]["label_accuracy"] == 1
  assert row["encoder_ms"] > 0 and row["inference_ms"] > 0
  (lines,) = out.glob("predictions/*/*/table.jsonl")
  answers = [json.loads(line) for line in lines.read_text().splitlines()]
  assert [x["prediction"] for x in answers] == ["No", "Yes"] * 8
  checkpoint = inspect.open_checkpoint(run / "adapter")
  assert checkpoint.fields["labels"] == ["No", "Yes"]

  # The order of labels is the model's.
  argv[argv.index(LABELS)] = "--gin.LABELS=('Yes', 'No')"
  assert eval_lib.main(argv) == 2
  assert "set LABELS to these, in their order" in capsys.readouterr().err

  # Inference has the same answers: to the task, and to its rows as texts.
  shared = [
    "--gin_file=runs/infer.gin",
    f"--gin.VOCABULARY={folder}",
    f"--gin.CHECKPOINT_PATH={run}/adapter",
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    "--gin.DTYPE=float32",
    f"--gin.INFER_OUTPUT_DIR={tmp_path}",
  ]
  table = rows.split("=")[1].replace("{split}", "train")
  texts = [
    "--gin_file=tasks/text.gin",
    f"--gin.INPUT_PATH={table}",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 12}",
  ]
  for name, source in (("task", [*TASK, rows]), ("texts", texts)):
    assert infer.main([*shared[:-1], *source, f"{shared[-1]}/{name}"]) == 0
    found = (tmp_path / name / "predictions.txt").read_text()
    assert found.splitlines() == [x["prediction"] for x in answers]


@pytest.mark.parametrize("method", ["coda", "lora", "full"])
def test_other_methods_on_roberta(tmp_path, rows, bert_folder, method, capsys):
  """Whose padding is 1, and whose first token is 0."""
  folder, run = bert_folder(family="roberta"), tmp_path / "run"
  more = ["--gin.REDUCTION=2"] if method == "coda" else []
  if method == "full":
    more.append("--gin.PEAK=0.0")
  argv = training(rows, folder, run, method, 2, *more)
  if method == "coda":
    assert train.main([*argv, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "encoder_mask (16, 12)" in out and not run.exists()
    assert ", head " in out
  assert train.main(argv) == 0
  out = capsys.readouterr().out
  if method == "full":
    assert "warning: every answer to 'table' is " in out
    model, _ = coda_jax.load_pretrained(run / "model")
    assert model.config.labels == ("No", "Yes")
    theirs, ours = tmp_path / "hf", tmp_path / "backbone"
    convert.convert(run / "model", theirs, "hf")
    again, _ = coda_jax.load_pretrained(theirs)
    assert again.config.labels == ("No", "Yes")
    convert.convert(theirs, ours, "hf", backbone=True)
    assert coda_jax.load_pretrained(ours)[0].config.head is None
  else:
    fields = adapter.read_config(run / "adapter")
    assert fields["head"]["labels"] == ["No", "Yes"]
    if method == "coda":
      assert "routing/selected_share" in out


def test_what_does_not_fit(tmp_path, rows, bert_folder, capsys):
  folder = bert_folder(
    head="classification", num_labels=3, labels=("a", "b", "c")
  )
  assert train.main(training(rows, folder, tmp_path / "x", "adapter", 1)) == 2
  err = capsys.readouterr().err
  assert "has a head for classification, with 3 labels ('a', 'b', 'c')" in err
  assert "convert --backbone" in err
  plain = bert_folder("plain")
  argv = training(rows, plain, tmp_path / "x", "adapter", 1)
  for word in (*CLASSIFY, "--gin.PEAK=0.02"):
    argv.remove(word)
  assert train.main([*argv, LABELS]) == 2
  assert "Seq2Seq needs an encoder-decoder, but the model is a BERT; add" in (
    capsys.readouterr().err
  )
  argv = training(rows, "tiny", tmp_path / "x", "adapter", 1)
  assert train.main([*argv, "--gin.VOCABULARY=tiny"]) == 2
  assert "tiny is a T5, which has no heads" in capsys.readouterr().err
  assert not (tmp_path / "x").exists()
