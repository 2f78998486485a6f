"""Examples for models whose tokenizer adds tokens of its own, such as BERT's.

seqio encodes a text, cuts it, and adds an end token. A `tokenizer.json` knows
more: the tokens before a text, between the two texts of a pair, and which of
the two a token belongs to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from coda_jax.data import hf_vocabulary

# In an example with a pair of texts: the second one, and the types of tokens.
PAIR = "pair"
TOKEN_TYPES = "inputs_token_types"


def has_own_tokens(vocabulary: seqio.Vocabulary) -> bool:
  """Whether `encode` is for tasks with such inputs."""
  return isinstance(vocabulary, hf_vocabulary.HfVocabulary)


def check_pairs(template: str | None, vocabulary: Any, name: str) -> None:
  """Refuses a template of a second text where none can be joined.

  Args:
    template: of the second text; None for none.
    vocabulary: seqio's, of the inputs.
    name: the vocabulary's, for the message.

  Raises:
    ValueError: the vocabulary joins no two texts.
  """
  if template and not has_own_tokens(vocabulary):
    raise ValueError(
      f"PAIR_TEMPLATE={template!r} with {name}, which joins no two texts; put "
      "both texts into INPUT_TEMPLATE, or use the tokenizer.json of a model "
      "that takes pairs, such as a BERT"
    )


def encode_texts(
  vocabulary: hf_vocabulary.HfVocabulary,
  texts: Sequence[str],
  max_length: int | None,
) -> tuple[np.ndarray, np.ndarray]:
  """The tokens of a text or of a pair of texts, special tokens included.

  Args:
    vocabulary: a `has_own_tokens` one.
    texts: one or two.
    max_length: in tokens; a longer input is cut as `encode` says. None for no
      limit.

  Returns:
    (tokens, their types), int32 [length] each.
  """
  one = tuple(texts) if len(texts) > 1 else texts[0]
  batch = vocabulary.encode_batch([one], max_length=max_length)
  return batch.input_ids[0], batch.token_types[0]


def encode(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
  """A seqio preprocessor: inputs with the tokenizer's special tokens.

  Longer inputs lose tokens at the end of the text, in a pair of the longer one,
  and keep all special tokens. Targets are encoded as seqio does.

  Args:
    dataset: of `inputs`, `targets` and perhaps `pair`, scalar strings.
    output_features: of the task; inputs with a `has_own_tokens` vocabulary.
    sequence_length: that of `inputs` cuts them.

  Returns:
    A dataset of `inputs`, `inputs_token_types` and `targets`, int32, and the
    texts: `inputs_pretokenized`, a pair in two lines, and
    `targets_pretokenized`.
  """
  return _encode(
    dataset, output_features, (sequence_length or {}).get("inputs")
  )


def encode_uncut(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """`encode`, but inputs stay whole."""
  return _encode(dataset, output_features, None)


def _encode(
  dataset: tf.data.Dataset,
  features: Mapping[str, seqio.Feature],
  max_length: int | None,
) -> tf.data.Dataset:
  vocabulary = features["inputs"].vocabulary

  def tokens(*texts: bytes) -> tuple[np.ndarray, np.ndarray]:
    texts = [text.decode("utf-8", "replace") for text in texts]
    return encode_texts(vocabulary, texts, max_length)

  @seqio.map_over_dataset
  def convert(example):
    texts = [example[name] for name in ("inputs", PAIR) if name in example]
    ids, types = tf.numpy_function(
      tokens, texts, (tf.int32, tf.int32), stateful=False
    )
    others = {k: x for k, x in example.items() if k != PAIR}
    return {
      **others,
      "inputs": tf.ensure_shape(ids, [None]),
      TOKEN_TYPES: tf.ensure_shape(types, [None]),
      "targets": features["targets"].vocabulary.encode_tf(example["targets"]),
      "inputs_pretokenized": tf.strings.join(texts, separator="\n"),
      "targets_pretokenized": example["targets"],
    }

  return convert(dataset)
