"""A task small enough to train on in a test: the answer is the first token."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

VOCAB_SIZE = 48
EXAMPLES = {"train": 40, "validation": 7}


def read(split, shuffle_files=False, seed=None):
  del shuffle_files, seed
  rng = np.random.default_rng(len(split))
  rows = [
    rng.integers(2, 6, rng.integers(3, 8)).astype(np.int32)
    for _ in range(EXAMPLES[split])
  ]
  return tf.data.Dataset.from_generator(
    lambda: ({"inputs": row, "targets": row[:1]} for row in rows),
    output_signature={
      name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")
    },
  )


def exact(targets, predictions):
  pairs = zip(targets, predictions, strict=True)
  return {"exact": 100 * np.mean([list(t) == list(p) for t, p in pairs])}


@pytest.fixture
def task():
  vocabulary = seqio.PassThroughVocabulary(VOCAB_SIZE, eos_id=1)
  feature = seqio.Feature(vocabulary, add_eos=True, dtype=tf.int32)
  seqio.TaskRegistry.add(
    "toy",
    source=seqio.FunctionDataSource(
      read, splits=tuple(EXAMPLES), num_input_examples=EXAMPLES
    ),
    preprocessors=[seqio.preprocessors.append_eos_after_trim],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=[exact],
  )
  yield "toy"
  seqio.TaskRegistry.remove("toy")
