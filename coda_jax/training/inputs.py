"""Batches from a seqio task or mixture, as NumPy dictionaries."""

import contextlib
import re
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np

from coda_jax import token_ids
from coda_jax.objectives import Objective
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import tf_iterator

Batch = dict[str, np.ndarray]


def check_lengths(name: str, lengths: Mapping[str, int]) -> None:
  """Checks that the task is registered, and that each feature has a length.

  Args:
    name: seqio task or mixture.
    lengths: of the task's features.

  Raises:
    ValueError: naming what does not fit.
  """
  features = _features(name)
  if differing := sorted(features.keys() ^ lengths.keys()):
    raise ValueError(
      f"TASK_FEATURE_LENGTHS={dict(lengths)} does not fit {name!r}, whose "
      f"features are {sorted(features)}: give lengths of these ({differing} "
      "differ)"
    )


def check_task(name: str, objective: Objective, config: Any) -> None:
  """Checks that the task is registered, and fits the objective and the model.

  Args:
    name: seqio task or mixture.
    objective: to use the task for.
    config: of the model.

  Raises:
    ValueError: naming what does not fit.
  """
  features = _features(name)
  try:
    objective.check(features, config)
  except ValueError as error:
    raise ValueError(f"{name!r}: {error}") from error


def _features(name: str) -> Mapping[str, Any]:
  """The output features of a task or mixture."""
  import seqio

  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in known:
    raise ValueError(
      f"no seqio task or mixture {name!r} is registered; known are "
      f"{sorted(known)}; import the module that adds it in a gin file"
    )
  return seqio.get_mixture_or_task(name).output_features


def splits(name: str) -> tuple[str, ...]:
  """The splits that the task or mixture has."""
  import seqio

  return tuple(seqio.get_mixture_or_task(name).splits)


def num_examples(name: str, split: str) -> int | None:
  """How many examples a split has, before preprocessing; None if unknown."""
  import seqio

  task = seqio.get_mixture_or_task(name)
  if isinstance(task, seqio.Mixture):
    return None  # its tasks are repeated in proportions of their own
  return task.num_input_examples(split)


def check_split(name: str, split: str) -> None:
  """Checks that the task or mixture has the split.

  Raises:
    ValueError: naming the splits that it has.
  """
  if split not in splits(name):
    raise ValueError(
      f"{name!r} has no split {split!r}; choose one of {list(splits(name))}"
    )


def train_batches(
  name: str,
  *,
  objective: Objective = Seq2Seq(),
  lengths: Mapping[str, int],
  batch_size: int,
  seed: int,
  skip: int = 0,
  pack: bool = False,
  rows: np.ndarray | None = None,
  vocab_size: int | None = None,
) -> Generator[Batch, None, None]:
  """Endless shuffled batches, the same for the same seed.

  Args:
    name: seqio task or mixture.
    objective: makes arrays of the examples.
    lengths: of the task's features, {"inputs": n, "targets": m}.
    batch_size: examples a batch.
    seed: of the shuffle and of random preprocessors.
    skip: batches to leave out, those that a resumed run has already seen.
    pack: put several short examples into one row.
    rows: those of each batch to yield; None for all. A batch is then the same
      for any number of processes, whichever rows each of them has.
    vocab_size: of the model that gets them; None if none does.

  Raises:
    OSError: see `readable`.
    ValueError: no examples, or a token that the model has no embedding for.
  """
  dataset = _dataset(
    name,
    "train",
    objective,
    lengths,
    pack=pack,
    shuffle=True,
    seed=seed,
    num_epochs=None,
  )
  dataset = dataset.batch(batch_size, drop_remainder=True).skip(skip)
  with readable(name, "train"):
    for batch in tf_iterator.read(dataset.prefetch(8)):
      # All rows, so that all processes find the same.
      _check_tokens(batch, name, "train", vocab_size)
      yield batch if rows is None else {n: x[rows] for n, x in batch.items()}
  raise ValueError(f"split 'train' of {name!r} has no examples")


def eval_batches(
  name: str,
  split: str,
  *,
  objective: Objective = Seq2Seq(),
  lengths: Mapping[str, int],
  batch_size: int,
  num_examples: int | None = None,
  vocab_size: int | None = None,
) -> Iterator[Batch]:
  """One pass in the file's order; the last batch is filled up with padding.

  Rows of padding are all zeros, loss weights included, so that every batch has
  one shape.

  Raises:
    OSError: see `readable`.
    ValueError: invalid tokens; see `train_batches`.
  """
  dataset = _dataset(name, split, objective, lengths, seed=0, num_epochs=1)
  if num_examples:
    dataset = dataset.take(num_examples)
  with readable(name, split):
    for batch in tf_iterator.read(dataset.batch(batch_size)):
      _check_tokens(batch, name, split, vocab_size)
      yield pad_batch(batch, batch_size)


@contextlib.contextmanager
def readable(name: str, split: str) -> Iterator[None]:
  """Says which data it is that tensorflow can't read or prepare.

  Raises:
    OSError: for any of tensorflow's errors in the body.
    ValueError: for one that a function of this package raised there.
  """
  import tensorflow as tf

  try:
    yield
  except tf.errors.OpError as error:
    reason = error.message.split("\n")[0]
    if found := re.search(r"\bValueError: (.*)", reason):
      raise ValueError(f"split {split!r} of {name!r}: {found[1]}") from error
    raise OSError(
      f"split {split!r} of {name!r} can't be read: {reason}; if a file is"
      " damaged, prepare the data again"
    ) from error


def task_examples(
  name: str, split: str, lengths: Mapping[str, int]
) -> Iterator[dict[str, np.ndarray]]:
  """The examples of one task in the file's order, cut to the lengths.

  Yields:
    {"inputs", "targets"}, tokens without padding, and whatever else the task's
    preprocessors leave, such as "inputs_pretokenized".

  Raises:
    OSError: see `readable`.
  """
  import seqio

  _only_read()
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    sequence_length=dict(lengths),
    split=split,
    shuffle=False,
    num_epochs=1,
    try_in_mem_cache=False,
  )
  with readable(name, split):
    yield from tf_iterator.read(dataset)


def uncut_examples(
  name: str, split: str, lengths: Mapping[str, int]
) -> Iterator[dict[str, np.ndarray]]:
  """Like `task_examples`, but leaves whole what is longer than the lengths.

  Preprocessors that make examples of these lengths, such as span corruption,
  still do so.
  """
  import seqio

  from coda_jax.data import encoding, words

  _only_read()
  task = seqio.TaskRegistry.get(name)
  # These are where seqio cuts: here, and after all preprocessors.
  instead = {
    seqio.preprocessors.append_eos_after_trim: seqio.preprocessors.append_eos,
    encoding.encode: encoding.encode_uncut,
    words.encode: words.encode_uncut,
  }
  whole = task.replace(
    preprocessors=[
      next((new for old, new in instead.items() if step is old), step)
      for step in task.preprocessors
    ]
  )
  dataset = whole.get_dataset(
    sequence_length=dict(lengths),
    split=split,
    shuffle=False,
    num_epochs=1,
    trim_output_features=False,
    try_in_mem_cache=False,
  )
  with readable(name, split):
    yield from tf_iterator.read(dataset)


def pad_batch(batch: Batch, batch_size: int) -> Batch:
  """Adds rows of zeros up to `batch_size`."""
  missing = batch_size - len(next(iter(batch.values())))
  return {
    name: np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
    for name, x in batch.items()
  }


def _check_tokens(
  batch: Batch, name: str, split: str, vocab_size: int | None
) -> None:
  if vocab_size is None:
    return
  for feature in (
    "encoder_input_tokens",
    "decoder_target_tokens",
    "target_encoder_input_tokens",
  ):
    if feature in batch:
      what = f"split {split!r} of {name!r}: {feature}"
      token_ids.check(what, batch[feature], vocab_size)


def _dataset(name, split, objective, lengths, *, pack=False, **kwargs):
  import seqio

  _only_read()
  features = seqio.get_mixture_or_task(name).output_features
  return seqio.get_dataset(
    name,
    task_feature_lengths=dict(lengths),
    feature_converter=objective.converter(features, pack=pack),
    dataset_split=split,
    verbose=False,
    **kwargs,
  )


def _only_read():
  """Leaves the accelerator's memory to jax: tensorflow only reads here."""
  import tensorflow as tf

  tf.config.set_visible_devices([], "GPU")
