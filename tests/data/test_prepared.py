import json
import time

import pytest

from coda_jax.data import prepared, text_tasks
from coda_jax.training import evaluation, inputs

pytestmark = pytest.mark.usefixtures("fresh_registry")

RTE = {"sentence1": "a", "sentence2": "b", "label": 0, "idx": 0}


def test_source_reads_what_is_prepared(prepare):
  folder = prepare("glue/rte:2.0.0", train=[RTE, RTE], validation=[RTE])
  assert prepared.folder("glue/rte:2.0.0") == str(folder)
  source = prepared.source("glue/rte:2.0.0", {"test": "validation"})
  assert source.num_input_examples("test") == 1
  (example,) = source.get_dataset("test", shuffle=False).as_numpy_iterator()
  assert example == {**RTE, "sentence1": b"a", "sentence2": b"b"}
  everything = prepared.source("glue/rte:2.0.0").splits
  assert set(everything) == {"train", "validation"}


def test_missing_data_is_an_error_at_once(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  start = time.monotonic()
  with pytest.raises(FileNotFoundError) as caught:
    text_tasks.text_task("mnli")
  assert time.monotonic() - start < 5
  assert str(caught.value) == (
    "data set glue/mnli:2.0.0 is not prepared:"
    f" {tmp_path}/glue/mnli/2.0.0 does not exist (TFDS_DATA_DIR is {tmp_path})."
    f" Prepare it with `tfds build glue/mnli:2.0.0 --data_dir={tmp_path}`, or"
    " set TFDS_DATA_DIR to the folder that has it"
  )


def test_other_versions_are_named(prepare):
  prepare("glue/rte:2.0.0", train=[RTE])
  with pytest.raises(FileNotFoundError, match="only version 2.0.0 "):
    prepared.source("glue/rte:1.0.0")


def test_without_the_variable(monkeypatch):
  monkeypatch.delenv("TFDS_DATA_DIR")
  assert prepared.data_dir().endswith("/tensorflow_datasets")
  assert not prepared.data_dir().startswith("~")
  with pytest.raises(FileNotFoundError, match="TFDS_DATA_DIR is not set"):
    prepared.source("no_such_data:1.0.0")


def test_what_needs_more_than_a_name(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  assert " --manual_dir=" in prepared.command("xsum:1.1.0")
  assert " --beam_pipeline_options=" in prepared.command("c4/en:3.1.0")


def test_no_version():
  with pytest.raises(ValueError, match="'glue/rte' lacks its version"):
    prepared.source("glue/rte")


def test_no_such_split(prepare):
  prepare("glue/rte:2.0.0", train=[RTE])
  with pytest.raises(ValueError, match="no split 'dev'; .* has train"):
    prepared.source("glue/rte:2.0.0", {"validation": "dev"})


def test_empty_split(prepare):
  folder = prepare("glue/rte:2.0.0", train=[RTE], validation=[RTE])
  info = json.loads((folder / "dataset_info.json").read_text())
  (split,) = (s for s in info["splits"] if s["name"] == "validation")
  split["shardLengths"] = ["0"]
  (folder / "dataset_info.json").write_text(json.dumps(info))
  with pytest.raises(ValueError, match="split 'validation' of .* is empty"):
    prepared.source("glue/rte:2.0.0")


def test_lost_file(prepare):
  folder = prepare("glue/rte:2.0.0", train=[RTE])
  (file,) = folder.glob("*train.tfrecord*")
  file.unlink()
  with pytest.raises(FileNotFoundError, match=f"lacks 1 files .* {file.name}"):
    prepared.source("glue/rte:2.0.0")


def test_damaged_file(prepare):
  folder = prepare(
    "glue/rte:2.0.0", in_order=False, train=[RTE] * 4, validation=[RTE] * 4
  )
  for file in folder.glob("*.tfrecord*"):
    file.write_bytes(file.read_bytes()[:-5])
  name = text_tasks.text_task("glue_rte")
  lengths = {"inputs": 8, "targets": 4}
  message = "'{}' of 'glue_rte' can't be read: .*prepare the data again"
  with pytest.raises(OSError, match=message.format("train")):
    next(inputs.train_batches(name, lengths=lengths, batch_size=9, seed=0))
  with pytest.raises(OSError, match=message.format("validation")):
    list(inputs.eval_batches(name, "validation", lengths=lengths, batch_size=9))
  with pytest.raises(OSError, match=message.format("validation")):
    list(inputs.task_examples(name, "validation", lengths))
  with pytest.raises(OSError, match=message.format("validation")):
    evaluation.Evaluation(
      None,
      name,
      split="validation",
      task_feature_lengths=lengths,
      batch_size=9,
    )
