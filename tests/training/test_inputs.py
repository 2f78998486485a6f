import itertools

import numpy as np
import pytest

from coda_jax import testing
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import inputs

LENGTHS = {"inputs": 8, "targets": 3}


def batches(task, count, **kwargs):
  found = inputs.train_batches(task, lengths=LENGTHS, batch_size=4, **kwargs)
  return [b["encoder_input_tokens"] for b in itertools.islice(found, count)]


def test_train_batches_repeat_by_seed_and_skip_what_was_seen(task):
  # More than an epoch of 10 batches.
  first = batches(task, 24, seed=0)
  assert all(batch.shape == (4, 8) for batch in first)
  np.testing.assert_array_equal(first, batches(task, 24, seed=0))
  np.testing.assert_array_equal(first[13:], batches(task, 11, seed=0, skip=13))
  assert (np.array(first) != batches(task, 24, seed=1)).any()


def test_eval_batches_cover_the_split_and_fill_up_with_padding(task):
  found = list(
    inputs.eval_batches(task, "validation", lengths=LENGTHS, batch_size=4)
  )
  assert [batch["decoder_target_tokens"].shape for batch in found] == [
    (4, 3)
  ] * 2
  real = [int((b["encoder_input_tokens"] > 0).any(1).sum()) for b in found]
  assert real == [4, 3]
  assert all((value[3] == 0).all() for value in found[1].values())
  # A target and the end.
  assert sum(int(b["decoder_loss_weights"].sum()) for b in found) == 14
  few = inputs.eval_batches(
    task, "validation", lengths=LENGTHS, batch_size=4, num_examples=2
  )
  assert [int(b["decoder_loss_weights"].sum()) for b in few] == [4]


@pytest.mark.parametrize(
  ("name", "vocab_size", "message"),
  [
    ("toi", 48, "no seqio task or mixture 'toi'.*'toy'"),
    ("toy", 47, "'toy': the vocabulary for 'inputs' has 48 .* model only 47"),
  ],
)
def test_task_that_does_not_fit(task, name, vocab_size, message):
  def check(name, vocab_size):
    config = testing.tiny_config(vocab_size=vocab_size)
    inputs.check_task(name, Seq2Seq(), config)

  check(task, 48)
  with pytest.raises(ValueError, match=message):
    check(name, vocab_size)


def test_no_such_split(task):
  inputs.check_split(task, "validation")
  with pytest.raises(ValueError, match=r"no split 'test'; choose one of \['tr"):
    inputs.check_split(task, "test")


def test_tokens_that_the_model_lacks(task):
  # The task's are 1 to 5, whichever rows a process has.
  rows = {"rows": np.array([0])}
  assert batches(task, 10, seed=0, vocab_size=6, **rows)
  with pytest.raises(ValueError, match="has the token id 5; expected 0 to 4"):
    batches(task, 10, seed=0, vocab_size=5, **rows)
  with pytest.raises(
    ValueError, match="split 'validation' of 'toy': encoder_in"
  ):
    list(
      inputs.eval_batches(
        task, "validation", lengths=LENGTHS, batch_size=4, vocab_size=5
      )
    )


def test_task_examples_are_the_tasks_own_cut(task):
  found = list(inputs.task_examples(task, "validation", LENGTHS))
  whole = list(inputs.task_examples(task, "validation", {"inputs": 3}))
  assert len(found) == len(whole) == 7
  for example, cut in zip(found, whole, strict=True):
    assert example["inputs"][-1] == cut["inputs"][-1] == 1
    assert cut["inputs"][:-1].tolist() == example["inputs"][:2].tolist()
    assert example["targets"].tolist() == [example["inputs"][0], 1]


def test_each_feature_has_a_length(task):
  inputs.check_lengths(task, LENGTHS)
  with pytest.raises(ValueError, match=r"are \['inputs', 'targets'\].*\['targ"):
    inputs.check_lengths(task, {"inputs": 8})
  with pytest.raises(ValueError, match="no seqio task or mixture 'toi'"):
    inputs.check_lengths("toi", LENGTHS)
