import json

import pytest
import seqio

from coda_jax.data import token_metrics, token_tasks
from coda_jax.training import coverage, inputs

pytestmark = pytest.mark.usefixtures("fresh_registry")


def write(folder, *splits, tags=("B-x", "O", "O")):
  row = json.dumps({"tokens": ["w1", "w2", "w3"], "tags": tags})
  for split in splits:
    (folder / f"x-{split}.jsonl").write_text(f"{row}\n{row}\n")
  return f"{folder}/x-{{split}}.jsonl"


def add(pattern, folder, **kwargs):
  return token_tasks.token_table_task(
    pattern, name="tagged", vocabulary=str(folder), **kwargs
  )


def test_examples(tmp_path, bert_folder):
  pattern = write(tmp_path, "train", "test")
  task = add(pattern, bert_folder(family="roberta"))
  assert inputs.splits(task) == ("train", "test")
  assert inputs.num_examples(task, "test") == 2
  inputs.check_lengths(task, {"inputs": 8, "targets": 2})
  (example, _) = inputs.task_examples(
    task, "train", {"inputs": 8, "targets": 2}
  )
  assert example["inputs"].tolist() == [0, 5, 6, 7, 2]
  assert example["inputs_word_starts"].tolist() == [0, 1, 1, 1, 0]
  assert example["inputs_pretokenized"] == b"w1 w2 w3"
  assert example["targets_pretokenized"] == b"B-x O O"
  # The same again is the same task; a changed one needs another name.
  assert add(pattern, tmp_path / "bert") == task
  with pytest.raises(ValueError, match="'tagged' is registered already"):
    add(pattern, tmp_path / "bert", metric_fns=["accuracy"])


def test_what_a_run_loses_is_counted(tmp_path, bert_folder):
  task = add(write(tmp_path, "train"), bert_folder())
  found = coverage.of_tasks(
    task, "train", {"inputs": 4, "targets": 2}, features=("inputs",)
  )
  assert found[task].cut_inputs == found[task].examples == 2
  found = coverage.of_tasks(
    task, "train", {"inputs": 5, "targets": 2}, features=("inputs",)
  )
  assert found[task].cut_inputs == 0


def test_metrics(tmp_path, bert_folder):
  pattern, folder = write(tmp_path, "train", tags=["NOUN"] * 3), bert_folder()
  with pytest.raises(ValueError, match=r"found 'NOUN'; .*=\['accuracy'\]"):
    add(pattern, folder)

  def own(targets, predictions):
    return {"own": 1.0}

  add(pattern, folder, metric_fns=["accuracy", own])
  assert seqio.TaskRegistry.get("tagged").metric_fns == [
    token_metrics.accuracy,
    own,
  ]


def test_what_does_not_fit(tmp_path, bert_folder):
  folder = bert_folder()
  with pytest.raises(
    FileNotFoundError, match="no file matches TABLE=.*x-train"
  ):
    add(write(tmp_path, "validation"), folder)
  pattern = write(tmp_path, "train")
  with pytest.raises(ValueError, match="must hold '{split}', as in 'data/enti"):
    add("x.jsonl", folder)
  with pytest.raises(ValueError, match="TABLE_METRICS='accuracy'; expected a"):
    add(pattern, folder, metric_fns="accuracy")
  with pytest.raises(ValueError, match="TABLE_METRICS has 'rouge'; expected s"):
    add(pattern, folder, metric_fns=["rouge"])
  with pytest.raises(ValueError, match="VOCABULARY='tiny' does not say which"):
    add(pattern, "tiny")
