import csv

import pytest
import seqio
import tokenizers

from coda_jax.data import pair_tasks, vocabularies
from coda_jax.objectives.contrastive import Contrastive
from coda_jax.training import coverage, inputs

pytestmark = pytest.mark.usefixtures("fresh_registry")

LENGTHS = {"inputs": 4, "targets": 6}
ROWS = [
  ("w1", "w2 w3"),
  ("w4 w5 w6", "w7 w8 w9 w10 w11"),
  ("w12 w13", "w14 w15 w16 w17"),
]


@pytest.fixture
def register(tmp_path):
  """Registers the task on `ROWS`."""
  for split in ("train", "validation"):
    with (tmp_path / f"rows-{split}.csv").open("w") as file:
      csv.writer(file).writerows([("title", "body"), *ROWS])

  def make(vocabulary, **more):
    arguments = {"inputs": "{title}", "targets": "{body}", **more}
    pattern = str(tmp_path / "rows-{split}.csv")
    return pair_tasks.pair_task(
      pattern, vocabulary=str(vocabulary), **arguments
    )

  return make


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_batches_are_the_tokenizers_own(bert_folder, register, family):
  folder = bert_folder(family=family)
  batch = next(
    inputs.eval_batches(
      register(folder),
      "validation",
      objective=Contrastive(),
      lengths=LENGTHS,
      batch_size=4,
    )
  )
  assert {n: x.shape for n, x in batch.items()} == {
    "encoder_input_tokens": (4, 4),
    "encoder_mask": (4, 4),
    "target_encoder_input_tokens": (4, 6),
    "target_encoder_mask": (4, 6),
  }
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  for column, (prefix, length) in enumerate((("", 4), ("target_", 6))):
    tokenizer.enable_truncation(length)
    for row, texts in enumerate(ROWS):
      ids = tokenizer.encode(texts[column]).ids
      rest = [0] * (length - len(ids))
      found = batch[f"{prefix}encoder_input_tokens"][row].tolist()
      assert found == ids + rest
      # RoBERTa's first token is 0, and its padding is not.
      found = batch[f"{prefix}encoder_mask"][row].tolist()
      assert found == [1] * len(ids) + rest
  assert not any(x[3].any() for x in batch.values())


def test_t5s_texts_end_with_its_token(register):
  name = register("tiny")
  rows = list(inputs.task_examples(name, "train", LENGTHS))
  vocabulary = vocabularies.load("tiny")
  for row in rows:
    assert row["inputs"][-1] == row["targets"][-1] == vocabulary.eos_id
  assert len(rows[1]["inputs"]) == 4 and len(rows[1]["targets"]) == 6
  uncut = list(inputs.uncut_examples(name, "train", LENGTHS))
  assert vocabulary.decode(uncut[1]["targets"].tolist()) == ROWS[1][1]


def test_what_is_cut_is_said(bert_folder, register):
  lines = coverage.report(
    register(bert_folder()), "train", LENGTHS, Contrastive.token_features
  )
  assert lines[:4] == [
    "of the first 3 examples of split 'train'",
    "  inputs cut to 4 tokens: 33.3%",
    "  targets cut to 6 tokens: 33.3%",
    "  targets that the vocabulary can't write: 0.0%",
  ]


def test_what_can_not_be(register, tmp_path):
  with pytest.raises(ValueError, match="^TARGET_TEMPLATE=3; expected a text"):
    register("tiny", targets=3)
  with pytest.raises(ValueError, match="must hold '{split}'"):
    pair_tasks.pair_task("x.csv", inputs="", targets="", vocabulary="tiny")
  with pytest.raises(ValueError, match="no value for text; it has title, body"):
    register("tiny", targets="{text}")
  assert "pairs" not in seqio.TaskRegistry.names()
  (tmp_path / "rows-train.csv").write_text("title,body\na,b\nc,\n")
  with pytest.raises(ValueError, match="SKIP_BAD_ROWS=True"):
    register("tiny")
  with pytest.warns(UserWarning, match="left out 1 bad rows of 2"):
    register("tiny", skip_bad_rows=True)


def test_targets_need_embeddings_too(bert_folder, register):
  batches = inputs.eval_batches(
    register(bert_folder()),
    "validation",
    objective=Contrastive(),
    lengths=LENGTHS,
    batch_size=4,
    vocab_size=18,  # Enough for the inputs.
  )
  with pytest.raises(ValueError, match="'pairs': target_encoder_input_tokens"):
    next(batches)
