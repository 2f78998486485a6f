import itertools

import numpy as np
import pytest
import seqio

from coda_jax.data import metrics, tasks, vocabularies
from coda_jax.training import inputs as training_inputs

LENGTHS = {"inputs": 32, "targets": 16}


@pytest.fixture
def filepattern(tmp_path):
  for split, documents in (("train", 12), ("validation", 3)):
    lines = [
      " ".join(f"word{(i * 7 + j) % 50}" for j in range(40 + i))
      for i in range(documents)
    ]
    (tmp_path / f"x-{split}-0.txt").write_text("\n".join(lines) + "\n")
  return str(tmp_path / "*-{split}-*.txt")


pytestmark = pytest.mark.usefixtures("fresh_registry")


def examples(name, count=20, **kwargs):
  dataset = seqio.get_dataset(
    name,
    LENGTHS,
    seqio.EncDecFeatureConverter(pack=False),
    num_epochs=None,
    **kwargs,
  )
  return list(itertools.islice(dataset.as_numpy_iterator(), count))


def inputs(found):
  return np.stack([example["encoder_input_tokens"] for example in found])


def test_span_corruption_through_seqio(filepattern):
  name = tasks.span_corruption_task(filepattern)
  assert name == "span_corruption"
  found = examples(name, seed=0)
  assert inputs(found).shape == (20, 32) and inputs(found).dtype == np.int32
  # Full to the last place, which holds EOS.
  assert (inputs(found)[:, :-1] > 1).all() and (inputs(found)[:, -1] == 1).all()
  targets = found[0]["decoder_target_tokens"]
  assert targets[0] == 8191 and 1 in targets
  assert set(seqio.TaskRegistry.get(name).splits) == {"train", "validation"}


def test_order_and_noise_follow_the_seed(filepattern):
  name = tasks.span_corruption_task(filepattern)
  first = inputs(examples(name, seed=1))
  np.testing.assert_array_equal(first, inputs(examples(name, seed=1)))
  assert (first != inputs(examples(name, seed=2))).any()


def test_each_epoch_has_its_own_noise(filepattern):
  name = tasks.span_corruption_task(filepattern)
  # An epoch has far fewer segments; a few meet the same noise by chance.
  found = inputs(examples(name, 400, seed=0))
  assert len(np.unique(found, axis=0)) > 350


def test_registering_twice(filepattern):
  tasks.span_corruption_task(filepattern)
  assert tasks.span_corruption_task(filepattern) == "span_corruption"
  with pytest.raises(ValueError, match="give one of them another name"):
    tasks.span_corruption_task(filepattern, vocabulary="byt5")
  other = tasks.span_corruption_task(
    filepattern, vocabulary="byt5", name="bytes"
  )
  assert inputs(examples(other, seed=0)).max() == 258


def test_texts_without_labels(filepattern):
  name = tasks.texts_task(filepattern, vocabulary="tiny")
  task = seqio.get_mixture_or_task(name)
  dataset = task.get_dataset({"inputs": 24}, "train", shuffle=False)
  rows = [row["inputs"] for row in dataset.as_numpy_iterator()]
  assert rows and all(len(row) <= 24 and row[-1] == 1 for row in rows)
  assert set(task.output_features) == {"inputs"}
  with pytest.raises(ValueError, match="registered already"):
    tasks.texts_task(filepattern, vocabulary="byt5")


def test_mixture(filepattern):
  cut = tasks.span_corruption_task(filepattern)
  kept = tasks.span_corruption_task(filepattern, name="kept", keep_spans=True)
  rates = [(cut, 0.75), (kept, 0.25)]
  assert tasks.mixture(rates, name="both") == "both"
  assert tasks.mixture(rates, name="both") == "both"
  # Fewer raw tokens fill the inputs where spans are kept, so fewer are noise.
  lengths = {}
  for name in (cut, kept, "both"):
    found = examples(name, 200, seed=0)
    lengths[name] = [np.sum(e["decoder_target_tokens"] > 0) for e in found]
  (of_cut,), (of_kept,) = set(lengths[cut]), set(lengths[kept])
  assert of_kept < of_cut
  assert set(lengths["both"]) == {of_cut, of_kept}
  assert 0.15 < np.mean(np.equal(lengths["both"], of_kept)) < 0.35
  with pytest.raises(ValueError, match="'both' is registered already"):
    tasks.mixture(rates[:1], name="both")
  with pytest.raises(ValueError, match="'both' is registered already"):
    tasks.span_corruption_task(filepattern, name="both")


def test_bad_filepatterns(tmp_path):
  with pytest.raises(ValueError, match="must hold '{split}'"):
    tasks.span_corruption_task(str(tmp_path / "*.txt"))
  with pytest.raises(FileNotFoundError, match="scripts/build_corpus.py"):
    tasks.span_corruption_task(str(tmp_path / "{split}.txt"))


def test_no_text_at_all(tmp_path):
  (tmp_path / "x-train-0.txt").write_text("")
  name = tasks.span_corruption_task(str(tmp_path / "x-{split}-0.txt"))
  batches = training_inputs.train_batches(
    name, lengths=LENGTHS, batch_size=1, seed=0
  )
  with pytest.raises(ValueError, match="split 'train' of .* has no examples"):
    next(batches)


@pytest.fixture
def table(tmp_path):
  for split, rows in (("train", 6), ("validation", 2)):
    lines = ["text,label"] + [f"word{i} is here,l{i}" for i in range(rows)]
    (tmp_path / f"t-{split}.csv").write_text("\n".join(lines))
  return str(tmp_path / "t-{split}.csv")


def test_a_users_table(table):
  name = tasks.table_task(
    table,
    name="mine",
    inputs="which: {text}",
    targets="{label}",
    metric_fns=["rouge", metrics.accuracy],
  )
  task = seqio.TaskRegistry.get(name)
  assert task.metric_fns == [metrics.rouge, metrics.accuracy]
  assert set(task.splits) == {"train", "validation"}
  assert task.num_input_examples("train") == 6
  (first, second) = task.get_dataset(
    LENGTHS, split="validation", shuffle=False
  ).as_numpy_iterator()
  vocabulary = vocabularies.load("tiny")
  assert vocabulary.decode(first["inputs"].tolist()) == "which: word0 is here"
  assert vocabulary.decode(second["targets"].tolist()) == "l1"
  assert second["targets"][-1] == vocabulary.eos_id


def test_line_breaks_of_a_table(tmp_path):
  (tmp_path / "t-train.csv").write_text('text,label\n"one\ntwo","a\nb"\n')
  name = tasks.table_task(
    str(tmp_path / "t-{split}.csv"),
    name="broken",
    inputs="{text}",
    targets="{label}",
    newlines="|",
  )
  (example,) = examples(name, dataset_split="train", shuffle=False, count=1)
  tokens = example["decoder_target_tokens"].tolist()
  assert vocabularies.load("tiny").decode(tokens) == "a | b"
  targets = seqio.TaskRegistry.get(name).output_features["targets"]
  assert targets.vocabulary.decode(tokens) == "a\nb"


def test_bad_rows_are_skipped_only_where_asked(table, tmp_path):
  with (tmp_path / "t-train.csv").open("a") as file:
    file.write("\nof one field")
  arguments = {"name": "rows", "inputs": "{text}", "targets": "{label}"}
  with pytest.warns(UserWarning, match="left out 1 bad rows of 7"):
    tasks.table_task(table, skip_bad_rows=True, **arguments)
  with pytest.raises(ValueError, match="'rows' is registered already"):
    tasks.table_task(table, **arguments)


def test_a_metric_that_does_not_exist(table):
  with pytest.raises(ValueError, match="metric 'acuracy': expected .*rouge"):
    tasks.table_task(
      table,
      name="none",
      inputs="{text}",
      targets="{label}",
      metric_fns=["acuracy"],
    )


def test_a_users_table_needs_training_rows(table, tmp_path):
  arguments = {"inputs": "{text}", "targets": "{label}"}
  (tmp_path / "t-train.csv").unlink()
  with pytest.raises(FileNotFoundError, match=r"t-train\.csv"):
    tasks.table_task(table, name="none", **arguments)
  with pytest.raises(ValueError, match="must hold '{split}'"):
    tasks.table_task(str(tmp_path / "t.csv"), name="none", **arguments)
  assert "none" not in seqio.TaskRegistry.names()
