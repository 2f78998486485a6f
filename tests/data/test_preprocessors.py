import collections

import numpy as np
import pytest
import seqio
import tensorflow as tf

from coda_jax.data import preprocessors, vocabularies

LAST_ID = 8191


@pytest.fixture(scope="module")
def vocabulary():
  return vocabularies.load("tiny")


def corrupt(tokens, vocabulary, seed=0, **settings):
  out = preprocessors.corrupt_spans(
    tf.constant(tokens, tf.int32),
    tf.constant([seed, 7]),
    num_tokens=len(tokens),
    vocabulary=vocabulary,
    **settings,
  )
  return out["inputs"].numpy().tolist(), out["targets"].numpy().tolist()


def is_sentinel(token):
  return token > LAST_ID - 100


def restore(inputs, targets):
  """Puts what the targets list back in the place of each sentinel."""
  spans = collections.defaultdict(list)
  for token in targets[:-1]:
    if is_sentinel(token):
      sentinel = token
    else:
      spans[sentinel].append(token)
  restored = []
  for token in inputs[:-1]:
    restored.extend(spans.pop(token) if is_sentinel(token) else [token])
  assert not spans
  return restored


def test_lengths_are_those_of_t5():
  # By hand: round(568 * .15) = 85 noise tokens in round(85 / 3) = 28 spans.
  assert preprocessors.noise_counts(568) == (85, 28)
  assert preprocessors.corrupted_lengths(568) == (568 - 85 + 28 + 1, 114)
  assert preprocessors.segment_length(512, 114) == 568


@pytest.mark.parametrize("density, mean", [(0.15, 3.0), (0.5, 3.0), (0.15, 20)])
def test_inputs_are_filled_exactly(density, mean):
  for length in range(16, 400):
    tokens = preprocessors.segment_length(length, 10_000, density, mean)
    inputs, _ = preprocessors.corrupted_lengths(tokens, density, mean)
    assert inputs == length


def test_inputs_with_kept_spans_are_filled_but_for_one():
  missing = set()
  for length in range(16, 400):
    tokens = preprocessors.segment_length(length, 10_000, 0.4, 8.0, True)
    inputs, _ = preprocessors.corrupted_lengths(tokens, 0.4, 8.0, True)
    missing.add(length - inputs)
  assert missing == {0, 1}


@pytest.mark.parametrize("seed", range(5))
def test_original_comes_back(vocabulary, seed):
  tokens = list(range(100, 668))
  inputs, targets = corrupt(tokens, vocabulary, seed)
  assert (len(inputs), len(targets)) == (512, 114)
  assert inputs[-1] == targets[-1] == 1
  sentinels = [LAST_ID - i for i in range(28)]
  assert [t for t in inputs if is_sentinel(t)] == sentinels
  assert [t for t in targets if is_sentinel(t)] == sentinels
  # A kept span comes first in the inputs, a sentinel first in the targets.
  assert inputs[0] == 100 and targets[0] == LAST_ID
  assert restore(inputs, targets) == tokens
  cut = sum(not is_sentinel(t) for t in targets[:-1])
  assert cut / len(tokens) == pytest.approx(0.15, abs=1 / len(tokens))


def test_smallest_case_by_hand(vocabulary):
  # Two tokens: the first is kept, the second is cut.
  inputs, targets = corrupt([7, 8], vocabulary, noise_density=0.5)
  assert inputs == [7, LAST_ID, 1]
  assert targets == [LAST_ID, 8, 1]


def test_kept_spans_by_hand(vocabulary):
  inputs, targets = corrupt(
    [7, 8], vocabulary, noise_density=0.5, keep_spans=True
  )
  assert inputs == [7, LAST_ID, 8, 1]
  assert targets == [LAST_ID, 8, 1]


@pytest.mark.parametrize("seed", range(3))
def test_kept_spans_change_the_inputs_only(vocabulary, seed):
  tokens = list(range(100, 220))
  settings = {"noise_density": 0.4, "mean_span_length": 8.0}
  inputs, targets = corrupt(
    tokens, vocabulary, seed, keep_spans=True, **settings
  )
  cut, same = corrupt(tokens, vocabulary, seed, **settings)
  assert targets == same
  assert [t for t in inputs if not is_sentinel(t)] == [*tokens, 1]
  for sentinel in filter(is_sentinel, targets):
    # What follows a sentinel in the targets follows it in the inputs too.
    followers = [x[x.index(sentinel) + 1] for x in (inputs, targets)]
    assert followers[0] == followers[1] != cut[cut.index(sentinel) + 1]


def test_same_seed_same_noise(vocabulary):
  tokens = list(range(100, 300))
  assert corrupt(tokens, vocabulary, 1) == corrupt(tokens, vocabulary, 1)
  assert corrupt(tokens, vocabulary, 1) != corrupt(tokens, vocabulary, 2)


def test_random_lengths_are_uniform():
  seeds = tf.stack([tf.range(3000), tf.zeros([3000], tf.int32)], axis=1)
  draw = tf.function(
    lambda: tf.map_fn(
      lambda seed: preprocessors.random_lengths(5, 3, seed), seeds
    )
  )
  lengths = draw().numpy()
  assert (lengths.sum(axis=1) == 5).all() and lengths.min() == 1
  ways, counts = np.unique(lengths, axis=0, return_counts=True)
  # 5 = 1+1+3 and 1+2+2 in any order: six ways, each near a sixth.
  assert len(ways) == 6
  np.testing.assert_allclose(counts / 3000, 1 / 6, atol=0.03)


def test_split_stream_loses_no_token_but_the_last():
  documents = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10, 11], [12, 13]]
  dataset = tf.data.Dataset.from_generator(
    lambda: documents, output_signature=tf.TensorSpec([None], tf.int32)
  )
  segments = list(preprocessors.split_stream(dataset, 4).as_numpy_iterator())
  assert np.array(segments).tolist() == [
    [1, 2, 3, 4],
    [5, 6, 7, 8],
    [9, 10, 11, 12],
  ]


def run(lengths, vocabulary, **settings):
  feature = seqio.Feature(vocabulary)
  return preprocessors.span_corruption(
    tf.data.Dataset.from_tensors(tf.constant("a text")),
    lengths,
    {"inputs": feature, "targets": feature},
    **settings,
  )


@pytest.mark.parametrize(
  "lengths, settings, message",
  [
    ({"inputs": 512}, {}, "set TASK_FEATURE_LENGTHS"),
    ({"inputs": 512, "targets": 113}, {}, r"\['targets'\] to 114"),
    ({"inputs": 2, "targets": 9}, {}, "2 is too short"),
    ({"inputs": 2048, "targets": 999}, {}, "has 100 sentinels"),
    ({"inputs": 64, "targets": 64}, {"noise_density": 1.5}, "noise_density=1"),
    ({"inputs": 64, "targets": 64}, {"mean_span_length": 0}, "1 or more"),
  ],
)
def test_bad_settings(lengths, settings, message, vocabulary):
  with pytest.raises(ValueError, match=message):
    run(lengths, vocabulary, **settings)


def test_pieces_of_documents(vocabulary):
  documents = ["a b c d e f g h " * 12, "short", "", "x y z " * 22]
  feature = seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32)
  pieces = preprocessors.pieces(
    tf.data.Dataset.from_tensor_slices(documents),
    {"inputs": 40},
    {"inputs": feature},
  )
  rows = [row["inputs"].tolist() for row in pieces.as_numpy_iterator()]
  assert all(len(row) <= 40 and row[-1] == vocabulary.eos_id for row in rows)
  expected = []
  for document in documents:
    tokens = vocabulary.encode(document)
    cut = [tokens[i : i + 39] for i in range(0, len(tokens), 39)]
    expected += [c for i, c in enumerate(cut) if i == 0 or len(c) >= 16]
  assert [row[:-1] for row in rows] == expected
  assert len(expected) > 4  # Some documents have several.
