import numpy as np
import tensorflow as tf

from coda_jax.objectives import converters


def test_the_mask_is_of_places_not_of_ids():
  """A RoBERTa's first token has the id 0."""
  rows = [[0, 5, 7, 2], [0, 2], list(range(6))]
  dataset = tf.data.Dataset.from_generator(
    lambda: ({"inputs": np.array(row, np.int32)} for row in rows),
    output_signature={"inputs": tf.TensorSpec([None], tf.int32)},
  )
  found = list(
    converters.encoder_only()(dataset, {"inputs": 6}).as_numpy_iterator()
  )
  assert [row["encoder_input_tokens"].tolist() for row in found] == [
    [0, 5, 7, 2, 0, 0],
    [0, 2, 0, 0, 0, 0],
    [0, 1, 2, 3, 4, 5],
  ]
  assert [int(row["encoder_mask"].sum()) for row in found] == [4, 2, 6]
