"""seqio's feature converters for encoders without a decoder.

In functions, since seqio is at hand only where data are read.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  import seqio

# Before the names of an encoder's arguments that are made of the targets.
OF_TARGETS = "target_"


def encoder_only(
  arguments: Sequence[str],
  *,
  label: Callable[..., Any] | None = None,
  label_dtype: Any = None,
  of_words: bool = False,
) -> "seqio.FeatureConverter":
  """Makes the arguments of a model of a task's inputs, an example a row.

  The mask is 1 for the tokens of the example, whatever their ids are; seqio
  pads all of them with 0.

  Args:
    arguments: some of `encoder_input_tokens`, `encoder_token_types` and
      `encoder_mask`, int32 [length] each.
    label: takes those of `targets` and `targets_pretokenized` that an example
      has, by name, and returns its label. Each row then has `labels` too, and
      `loss_weights`, int32 1. None leaves the targets out.
    label_dtype: of the labels, such as `np.int32`.
    of_words: the examples are those of `data.words`, and `label` takes
      `targets_pretokenized` alone and returns a label for each word, [words].
      `labels` and `loss_weights` are then [length]: those of a word at its
      first token, and 0 elsewhere.
  """
  return _encoder_only_class()(arguments, label, label_dtype, of_words)


@functools.cache
def _encoder_only_class() -> type:
  import seqio
  import tensorflow as tf

  from coda_jax.data import words

  spec = seqio.FeatureConverter.FeatureSpec

  class EncoderOnly(seqio.FeatureConverter):
    PACKING_FEATURE_DTYPES = {}

    def __init__(self, arguments, label, label_dtype, of_words):
      self._arguments, self._label = tuple(arguments), label
      self._of_words, self._by_token = of_words, tuple(arguments)
      self.TASK_FEATURES = {"inputs": spec(dtype=tf.int32)}
      self.MODEL_FEATURES = dict.fromkeys(arguments, spec(dtype=tf.int32))
      if label is not None:
        self._dtype = tf.as_dtype(label_dtype)
        self.TASK_FEATURES["targets"] = spec(dtype=tf.int32)
        if of_words:
          self._by_token += ("labels", "loss_weights")
        rank = 1 if of_words else 0
        self.MODEL_FEATURES |= {
          "labels": spec(dtype=self._dtype, rank=rank),
          "loss_weights": spec(dtype=tf.int32, rank=rank),
        }
      super().__init__(pack=False)

    def _convert_features(self, ds, task_feature_lengths):
      if self._of_words and words.STARTS not in ds.element_spec:
        raise ValueError(
          "the examples of this task do not say where words start; use "
          "tasks/token_table.gin, alone: a mixture loses it"
        )

      @seqio.map_over_dataset
      def convert(example):
        tokens = example["inputs"]
        types = example.get("inputs_token_types", tf.zeros_like(tokens))
        made = {
          "encoder_input_tokens": tokens,
          "encoder_token_types": types,
          "encoder_mask": tf.ones_like(tokens),
        }
        made = {name: made[name] for name in self._arguments}
        if self._of_words:
          starts = example[words.STARTS]
          made["labels"] = self._labels_of(example, starts)
          made["loss_weights"] = starts
        elif self._label is not None:
          made["labels"] = self._label_of(example)
          made["loss_weights"] = tf.constant(1)
        return made

      return seqio.utils.trim_and_pad_dataset(
        convert(ds),
        dict.fromkeys(self._by_token, task_feature_lengths["inputs"]),
      )

    def _labels_of(self, example, starts):
      """[length], the label of each word at its first token."""
      labels = tf.numpy_function(
        self._label, [example["targets_pretokenized"]], self._dtype
      )
      # Words are counted from 1; 0 is for all other tokens.
      numbered = tf.concat([[tf.zeros((), self._dtype)], labels], axis=0)
      return tf.gather(numbered, tf.cumsum(starts) * starts)

    def _label_of(self, example):
      names = [x for x in ("targets", "targets_pretokenized") if x in example]
      label = tf.numpy_function(
        lambda *values: self._label(**dict(zip(names, values, strict=True))),
        [example[name] for name in names],
        self._dtype,
      )
      return tf.ensure_shape(label, ())

    def get_model_feature_lengths(self, task_feature_lengths):
      length = task_feature_lengths["inputs"]
      scalars = dict.fromkeys(self.MODEL_FEATURES, 1)
      return scalars | dict.fromkeys(self._by_token, length)

  return EncoderOnly


def two_texts() -> "seqio.FeatureConverter":
  """Makes an encoder's arguments of inputs and of targets, an example a row.

  They are `encoder_input_tokens` and `encoder_mask`, int32 [length of inputs],
  and the same of the targets, which begin with `OF_TARGETS`. The mask is that
  of `encoder_only`.
  """
  return _two_texts_class()(pack=False)


@functools.cache
def _two_texts_class() -> type:
  import seqio
  import tensorflow as tf

  spec = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
  prefixes = {"inputs": "", "targets": OF_TARGETS}
  made_of = {
    f"{prefix}{name}": feature
    for feature, prefix in prefixes.items()
    for name in ("encoder_input_tokens", "encoder_mask")
  }

  class TwoTexts(seqio.FeatureConverter):
    PACKING_FEATURE_DTYPES = {}
    TASK_FEATURES = dict.fromkeys(prefixes, spec)
    MODEL_FEATURES = dict.fromkeys(made_of, spec)

    def _convert_features(self, ds, task_feature_lengths):
      @seqio.map_over_dataset
      def convert(example):
        return {
          name: tf.ones_like(example[feature])
          if name.endswith("mask")
          else example[feature]
          for name, feature in made_of.items()
        }

      return seqio.utils.trim_and_pad_dataset(
        convert(ds), self.get_model_feature_lengths(task_feature_lengths)
      )

    def get_model_feature_lengths(self, task_feature_lengths):
      return {n: task_feature_lengths[f] for n, f in made_of.items()}

  return TwoTexts
