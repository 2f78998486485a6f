"""Examples of texts that are split into words, a tag for each.

The tokenizer makes one or more tokens of a word, and the first one stands for
it. An example says where these are, and has the tags as a text, from which
`objectives.classify_tokens` makes labels.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from coda_jax.data.encoding import TOKEN_TYPES

# In an example before encoding: texts [words] each.
WORDS, TAGS = "words", "tags"
# After it: int32 [length] beside `inputs`, 1 for the first token of each word.
STARTS = "inputs_word_starts"


def encode(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
  """A seqio preprocessor: inputs with the tokenizer's special tokens.

  Longer inputs lose words at the end, and keep all special tokens.

  Args:
    dataset: of `words` and `tags`, strings [words].
    output_features: of the task, with an `HfVocabulary`.
    sequence_length: that of `inputs` cuts them.

  Returns:
    A dataset of `inputs`, `inputs_token_types` and `inputs_word_starts`, int32
    [length], of `targets`, and of the texts: `inputs_pretokenized`, the words,
    and `targets_pretokenized`, the tags of all words, with spaces between them.
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

  def tokens(words: np.ndarray) -> list[np.ndarray]:
    texts = [word.decode("utf-8", "replace") for word in words]
    encoded = vocabulary.encode_words(texts, max_length=max_length)
    return [array.astype(np.int32) for array in encoded]

  @seqio.map_over_dataset
  def convert(example):
    arrays = tf.numpy_function(
      tokens, [example[WORDS]], [tf.int32] * 3, stateful=False
    )
    names = ("inputs", TOKEN_TYPES, STARTS)
    tags = tf.strings.reduce_join(example[TAGS], separator=" ")
    return {
      **{
        name: tf.ensure_shape(array, [None])
        for name, array in zip(names, arrays, strict=True)
      },
      "targets": features["targets"].vocabulary.encode_tf(tags),
      "inputs_pretokenized": tf.strings.reduce_join(
        example[WORDS], separator=" "
      ),
      "targets_pretokenized": tags,
    }

  return convert(dataset)
