"""Span corruption, the pretraining task of T5.

Source: Raffel et al. 2020, arXiv:1910.10683, section 3.1.4 and figure 2.
Spans of a token sequence are cut out of the input, each marked by a sentinel;
the target lists the sentinels, each followed by what was cut out:

  tokens   thank you for inviting me to your party last week
  inputs   thank you <X> me to your party <Y> week </s>
  targets  <X> for inviting <Y> last </s>

Span copying, our own task, marks the spans and leaves them in. A model with
little pretraining must learn it before it can quote its input.

  inputs   thank you <X> for inviting me to your party <Y> last week </s>
"""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from coda_jax.data import vocabularies

NOISE_DENSITY = 0.15
MEAN_SPAN_LENGTH = 3.0


def noise_counts(
  num_tokens: int,
  noise_density: float = NOISE_DENSITY,
  mean_span_length: float = MEAN_SPAN_LENGTH,
) -> tuple[int, int]:
  """The numbers (noise tokens, noise spans) of a segment of `num_tokens`."""
  noise = min(max(round(num_tokens * noise_density), 1), num_tokens - 1)
  spans = max(round(noise / mean_span_length), 1)
  return noise, min(spans, noise, num_tokens - noise)


def corrupted_lengths(
  num_tokens: int,
  noise_density: float = NOISE_DENSITY,
  mean_span_length: float = MEAN_SPAN_LENGTH,
  keep_spans: bool = False,
) -> tuple[int, int]:
  """The (inputs, targets) lengths of a segment, EOS included."""
  noise, spans = noise_counts(num_tokens, noise_density, mean_span_length)
  kept = num_tokens if keep_spans else num_tokens - noise
  return kept + spans + 1, noise + spans + 1


def check_noise(noise_density: float, mean_span_length: float) -> None:
  """Refuses noise that no segment can have.

  Raises:
    ValueError: a value that is not a number, or out of its range.
  """
  if not (_is_number(noise_density) and 0 < noise_density < 1):
    raise ValueError(
      f"noise_density={noise_density!r}; expected a number between 0 and 1"
    )
  if not (_is_number(mean_span_length) and mean_span_length >= 1):
    raise ValueError(
      f"mean_span_length={mean_span_length!r}; expected a number, 1 or more"
    )


def _is_number(value: object) -> bool:
  return isinstance(value, int | float)


def segment_length(
  inputs_length: int,
  targets_length: int,
  noise_density: float = NOISE_DENSITY,
  mean_span_length: float = MEAN_SPAN_LENGTH,
  keep_spans: bool = False,
) -> int:
  """The number of raw tokens that fill `inputs_length` when corrupted.

  They fill it exactly; if the spans are kept, one token may be missing.

  Raises:
    ValueError: an `inputs_length` that is too short to corrupt anything, or a
      `targets_length` that the targets do not fit in.
  """
  check_noise(noise_density, mean_span_length)
  settings = (noise_density, mean_span_length, keep_spans)
  if inputs_length < corrupted_lengths(2, *settings)[0]:
    raise ValueError(
      f"an inputs length of {inputs_length} is too short for span corruption:"
      " set TASK_FEATURE_LENGTHS['inputs'] to 16 or more"
    )
  # One more raw token adds one to the inputs, or one to the noise; where spans
  # are kept, one or two to the inputs.
  num_tokens = 2
  while corrupted_lengths(num_tokens + 1, *settings)[0] <= inputs_length:
    num_tokens += 1
  needed = corrupted_lengths(num_tokens, *settings)[1]
  if needed > targets_length:
    raise ValueError(
      f"span corruption of inputs of length {inputs_length} makes targets of"
      f" length {needed}, more than the {targets_length} that are allowed: set"
      f" TASK_FEATURE_LENGTHS['targets'] to {needed} or more"
    )
  return num_tokens


def split_stream(dataset: tf.data.Dataset, num_tokens: int) -> tf.data.Dataset:
  """Joins documents end to end and cuts the stream into equal segments.

  Args:
    dataset: int32 `[n]` tokens of a document, n varies.
    num_tokens: length of a segment.

  Returns:
    A dataset of int32 `[num_tokens]`. The last tokens, too few, are dropped.
  """

  def cut(rest, document):
    stream = tf.concat([rest, document], axis=0)
    whole = tf.size(stream) // num_tokens * num_tokens
    return stream[whole:], tf.reshape(stream[:whole], [-1, num_tokens])

  dataset = dataset.scan(tf.zeros([0], tf.int32), cut)
  return dataset.unbatch()


def pieces(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
  """Cuts documents into pieces that fill an encoder's input.

  Each piece has the vocabulary's first and last special token. A document's
  last piece may be short; one of less than 16 tokens is left out, unless it is
  the only one.

  Args:
    dataset: scalar strings, a document each.
    sequence_length: {"inputs": n}, special tokens included.
    output_features: {"inputs": a feature}.

  Returns:
    A dataset of {"inputs": int32 [at most n]}.
  """
  vocabulary = output_features["inputs"].vocabulary
  first, last = (
    tf.constant([token] if token is not None and token >= 0 else [], tf.int32)
    for token in (vocabulary.bos_id, vocabulary.eos_id)
  )
  room = sequence_length["inputs"] - first.shape[0] - last.shape[0]

  def cut(document: tf.Tensor) -> tf.data.Dataset:
    tokens = vocabulary.encode_tf(document)
    starts = tf.range(0, tf.size(tokens), room)
    kept = (starts == 0) | (tf.size(tokens) - starts >= 16)
    return tf.data.Dataset.from_tensor_slices(starts[kept]).map(
      lambda start: {
        "inputs": tf.concat([first, tokens[start : start + room], last], 0)
      }
    )

  return dataset.flat_map(cut)


def random_lengths(total: int, parts: int, seed: tf.Tensor) -> tf.Tensor:
  """Cuts `total` into `parts` positive lengths, all ways equally likely.

  Returns:
    int32 `[parts]` with sum `total`.
  """
  order = tf.argsort(tf.random.stateless_uniform([total - 1], seed))
  cuts = tf.sort(order[: parts - 1]) + 1
  bounds = tf.concat([[0], cuts, [total]], axis=0)
  return bounds[1:] - bounds[:-1]


def corrupt_spans(
  tokens: tf.Tensor,
  seed: tf.Tensor,
  *,
  num_tokens: int,
  vocabulary: seqio.Vocabulary,
  noise_density: float = NOISE_DENSITY,
  mean_span_length: float = MEAN_SPAN_LENGTH,
  keep_spans: bool = False,
) -> dict[str, tf.Tensor]:
  """Makes the `inputs` and `targets` of one segment.

  Kept and cut spans alternate, a kept one first. The sentinels count down from
  the vocabulary's last id.

  Args:
    tokens: int32 `[num_tokens]`.
    seed: int `[2]`; the result is a function of `tokens` and `seed` only.
    num_tokens: the static length of `tokens`.
    vocabulary: gives the sentinels and EOS.
    noise_density: share of the tokens that is cut out.
    mean_span_length: mean length of a span that is cut out.
    keep_spans: leave them in the inputs, after their sentinels.

  Returns:
    int32 `inputs` and `targets` of `corrupted_lengths(num_tokens, ...)`.
  """
  noise, spans = noise_counts(num_tokens, noise_density, mean_span_length)
  seeds = tf.random.experimental.stateless_split(seed, 2)
  kept_lengths = random_lengths(num_tokens - noise, spans, seeds[0])
  noise_lengths = random_lengths(noise, spans, seeds[1])
  alternating = tf.reshape(tf.stack([kept_lengths, noise_lengths], 1), [-1])
  pieces = tf.RaggedTensor.from_row_lengths(tokens, alternating, validate=False)
  last_id = vocabulary.vocab_size - 1
  sentinels = tf.range(last_id, last_id - spans, -1, dtype=tf.int32)[:, None]
  eos = tf.constant([vocabulary.eos_id], tf.int32)
  marked = [pieces[0::2], sentinels, *([pieces[1::2]] if keep_spans else [])]
  inputs = tf.concat(marked, axis=1).flat_values
  targets = tf.concat([sentinels, pieces[1::2]], axis=1).flat_values
  inputs_length, targets_length = corrupted_lengths(
    num_tokens, noise_density, mean_span_length, keep_spans
  )
  return {
    "inputs": tf.ensure_shape(tf.concat([inputs, eos], 0), [inputs_length]),
    "targets": tf.ensure_shape(tf.concat([targets, eos], 0), [targets_length]),
  }


def span_corruption(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  *,
  noise_density: float = NOISE_DENSITY,
  mean_span_length: float = MEAN_SPAN_LENGTH,
  keep_spans: bool = False,
) -> tf.data.Dataset:
  """A seqio preprocessor: texts in, corrupted segments out.

  Args:
    dataset: scalar strings, a document each.
    sequence_length: lengths of `inputs`, filled exactly, and of `targets`.
    output_features: that of `targets` gives the vocabulary.
    noise_density: share of the tokens that is cut out.
    mean_span_length: mean length of a span that is cut out.
    keep_spans: span copying: leave them in the inputs, after their sentinels.

  Returns:
    A dataset of `inputs` and `targets`, int32, EOS at the end of both.

  Raises:
    ValueError: lengths that are missing or do not fit, or a vocabulary with too
      few sentinels.
  """
  if not {"inputs", "targets"} <= set(sequence_length or {}):
    raise ValueError(
      "span corruption needs the lengths of 'inputs' and 'targets', got"
      f" {sequence_length}: set TASK_FEATURE_LENGTHS"
    )
  vocabulary = output_features["targets"].vocabulary
  settings = {
    "noise_density": noise_density,
    "mean_span_length": mean_span_length,
    "keep_spans": keep_spans,
  }
  num_tokens = segment_length(
    sequence_length["inputs"], sequence_length["targets"], **settings
  )
  _, spans = noise_counts(num_tokens, noise_density, mean_span_length)
  available = vocabularies.num_sentinels(vocabulary)
  if spans > available:
    raise ValueError(
      f"inputs of length {sequence_length['inputs']} hold {spans} spans, the"
      f" vocabulary has {available} sentinels: shorten the inputs or set a"
      " greater mean_span_length"
    )

  @seqio.map_over_dataset(num_seeds=1)
  def corrupt(tokens, seed):
    return corrupt_spans(
      tokens,
      seed,
      num_tokens=num_tokens,
      vocabulary=vocabulary,
      **settings,
    )

  dataset = dataset.map(vocabulary.encode_tf, tf.data.AUTOTUNE)
  return corrupt(split_stream(dataset, num_tokens))
