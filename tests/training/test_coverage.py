import itertools
import time

import numpy as np
import pytest
import seqio
import tensorflow as tf

from coda_jax.data import tasks, vocabularies
from coda_jax.training import coverage, inputs
from coda_jax.training.coverage import Losses

LENGTHS = {"inputs": 12, "targets": 4}


class Letters:
  """Has a token for each small letter, none for a line break, else 2."""

  unk_id = 2

  def encode(self, text):
    return [ord(x) - 90 if x.islower() else 2 for x in text if x != "\n"]

  def decode(self, tokens):
    return "".join(chr(x + 90) if x > 2 else "?" for x in tokens)


def example(inputs, targets):
  tokens = [*Letters().encode(targets), 1]
  return {
    "inputs": np.arange(inputs),
    "targets": np.array(tokens),
    "targets_pretokenized": targets.encode(),
  }


def test_what_is_cut_and_what_cannot_be_written():
  examples = [
    example(12, "abc"),  # Just as long as allowed.
    example(13, "abcd"),
    example(2, "a{"),
    example(2, "{}b"),
    example(2, "c\n"),  # White space at the ends does not count.
    example(2, "c\nd"),
  ]
  assert coverage.losses(examples, LENGTHS, Letters()) == Losses(
    6, 1, 1, 3, frozenset("{}\n")
  )
  # A vocabulary without unknown tokens, and no texts.
  plain = [{"inputs": np.arange(3), "targets": np.array([2, 1])}]
  passing = seqio.PassThroughVocabulary(48)
  assert coverage.losses(plain, LENGTHS, passing) == Losses(1)


@pytest.mark.parametrize(("newlines", "unwritable"), [(None, 1), ("|", 0)])
def test_line_breaks_that_are_lost(newlines, unwritable):
  vocabulary = vocabularies.load("tiny", newlines=newlines)
  text = "one\ntwo"
  found = coverage.losses(
    [
      {
        "inputs": np.arange(3),
        "targets": np.array(vocabulary.encode(text)),
        "targets_pretokenized": text.encode(),
      }
    ],
    {"inputs": 9, "targets": 9},
    vocabulary,
  )
  lost = frozenset("\n" if unwritable else "")
  assert found == Losses(1, 0, 0, unwritable, lost)


@pytest.fixture
def tables(tmp_path, fresh_registry):
  """Two tasks on bytes, of 40 rows, and a mixture of them."""
  for name, target in (("short", "ab"), ("long", "abcdef")):
    rows = [f"{'x' * (i + 1)},{target}\n" for i in range(40)]
    (tmp_path / f"{name}-train.csv").write_text("text,label\n" + "".join(rows))
    tasks.table_task(
      str(tmp_path / f"{name}-{{split}}.csv"),
      name=name,
      inputs="{text}",
      targets="{label}",
      vocabulary="byt5",
    )
  tasks.mixture([("short", 1.0), ("long", 3.0)], name="both")


def test_tasks_of_a_mixture(tables):
  # 11 letters and the end token go into 12.
  found = coverage.of_tasks("both", "train", LENGTHS, seconds=100)
  assert found == {"short": Losses(40, 29, 0), "long": Losses(40, 29, 40)}
  assert coverage.of_tasks("both", "test", LENGTHS) == {}
  lines = list(coverage.describe(found, "train", LENGTHS))
  assert lines[:4] == [
    "of the first 80 examples of split 'train'",
    "  inputs cut to 12 tokens: 72.5%",
    "  targets cut to 4 tokens: 50.0%",
    "  targets that the vocabulary can't write: 0.0%",
  ]
  warnings = [line.partition(" are longer")[0] for line in lines[4:]]
  assert warnings == [
    "warning: 72.5% of the inputs of 'long'",
    "warning: 100.0% of the targets of 'long'",
    "warning: 72.5% of the inputs of 'short'",
  ]


def test_no_warning_where_little_is_lost():
  found = {"x": Losses(200, 2, 2, 2, frozenset("{"))}
  lines = list(coverage.describe(found, "train", LENGTHS))
  assert len(lines) == 4 and "1.0%" in lines[1]
  found = {"x": Losses(200, 2, 2, 3, frozenset("{\n"))}
  (warning,) = list(coverage.describe(found, "train", LENGTHS))[4:]
  assert "1.5% of the targets of 'x' can't be written" in warning
  assert r"the vocabulary lacks '\n', '{'" in warning


def test_training_batches_are_the_same_after_a_look(tables):
  def batches():
    found = inputs.train_batches(
      "long", lengths=LENGTHS, batch_size=4, seed=3, skip=2
    )
    return [b["encoder_input_tokens"] for b in itertools.islice(found, 5)]

  before = batches()
  assert "inputs" in coverage.report("long", "train", LENGTHS)[1]
  np.testing.assert_array_equal(batches(), before)


def test_lengths_that_a_preprocessor_makes_are_not_cut(
  tmp_path, fresh_registry
):
  text = " ".join(f"word{i}" for i in range(200))
  (tmp_path / "x-train.txt").write_text(f"{text}\n" * 3)
  name = tasks.span_corruption_task(str(tmp_path / "x-{split}.txt"))
  lengths = {"inputs": 32, "targets": 16}
  found = coverage.of_tasks(name, "train", lengths, seconds=100)[name]
  assert found.examples > 20
  assert found == Losses(found.examples)


@pytest.fixture
def endless(fresh_registry):
  """A task whose examples come without end, 100 a second."""

  def rows():
    while True:
      time.sleep(0.01)
      yield {"inputs": np.int32([3, 1]), "targets": np.int32([3, 1])}

  spec = tf.TensorSpec([None], tf.int32)
  feature = seqio.Feature(seqio.PassThroughVocabulary(48), add_eos=False)
  seqio.TaskRegistry.add(
    "endless",
    source=seqio.FunctionDataSource(
      lambda split, shuffle_files, seed=None: tf.data.Dataset.from_generator(
        rows, output_signature={"inputs": spec, "targets": spec}
      ),
      splits=["train"],
    ),
    preprocessors=[],
    output_features={"inputs": feature, "targets": feature},
  )


def test_a_look_ends(endless, monkeypatch):
  found = coverage.of_tasks("endless", "train", LENGTHS, seconds=0.3)
  assert found["endless"].examples < 31
  # What had to be waited for is counted, however late it came.
  found = coverage.of_tasks("endless", "train", LENGTHS, seconds=0)
  assert found["endless"].examples == 1
  monkeypatch.setattr(coverage, "_EXAMPLES", 5)
  found = coverage.of_tasks("endless", "train", LENGTHS, seconds=100)
  assert found["endless"].examples == 5


def test_examples_that_cannot_be_read_are_left_to_training(
  tmp_path, fresh_registry
):
  (tmp_path / "x-train.txt").write_text("")
  name = tasks.span_corruption_task(str(tmp_path / "x-{split}.txt"))
  assert coverage.report(name, "train", {"inputs": 32, "targets": 16}) == []
  (line,) = coverage.report(name, "train", {"inputs": 32, "targets": 1})
  assert line.startswith(f"no look at the examples of {name!r}: ")
