"""seqio's feature converters for encoders without a decoder.

In functions, since seqio is at hand only where data are read.
"""

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  import seqio


def encoder_only() -> "seqio.FeatureConverter":
  """Makes `encoder_input_tokens` and `encoder_mask` of a task's inputs.

  The mask is 1 for the tokens of the example, whatever their ids are; seqio
  pads both with 0.
  """
  return _encoder_only_class()(pack=False)


@functools.cache
def _encoder_only_class() -> type:
  import seqio
  import tensorflow as tf

  spec = seqio.FeatureConverter.FeatureSpec

  class EncoderOnly(seqio.FeatureConverter):
    TASK_FEATURES = {"inputs": spec(dtype=tf.int32)}
    MODEL_FEATURES = {
      "encoder_input_tokens": spec(dtype=tf.int32),
      "encoder_mask": spec(dtype=tf.int32),
    }
    PACKING_FEATURE_DTYPES = {}

    def _convert_features(self, ds, task_feature_lengths):
      @seqio.map_over_dataset
      def convert(example):
        tokens = example["inputs"]
        mask = tf.ones_like(tokens)
        return {"encoder_input_tokens": tokens, "encoder_mask": mask}

      lengths = self.get_model_feature_lengths(task_feature_lengths)
      return seqio.utils.trim_and_pad_dataset(convert(ds), lengths)

    def get_model_feature_lengths(self, task_feature_lengths):
      return dict.fromkeys(self.MODEL_FEATURES, task_feature_lengths["inputs"])

  return EncoderOnly
