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
    converters.encoder_only(["encoder_input_tokens", "encoder_mask"])(
      dataset, {"inputs": 6}
    ).as_numpy_iterator()
  )
  assert [row["encoder_input_tokens"].tolist() for row in found] == [
    [0, 5, 7, 2, 0, 0],
    [0, 2, 0, 0, 0, 0],
    [0, 1, 2, 3, 4, 5],
  ]
  assert all(len(row) == 2 for row in found)
  assert [int(row["encoder_mask"].sum()) for row in found] == [4, 2, 6]


def test_labels_and_types_of_tokens():
  rows = [([5, 6, 7], [0, 1, 1], [3, 4], b"yes"), ([8], [0], [9], b"no")]
  names = ("inputs", "inputs_token_types", "targets", "targets_pretokenized")
  tokens = tf.TensorSpec([None], tf.int32)
  dataset = tf.data.Dataset.from_generator(
    lambda: (dict(zip(names, row, strict=True)) for row in rows),
    output_signature={
      **dict.fromkeys(names[:3], tokens),
      names[3]: tf.TensorSpec([], tf.string),
    },
  )
  made = ["encoder_input_tokens", "encoder_token_types", "encoder_mask"]
  converter = converters.encoder_only(
    made,
    label=lambda targets, targets_pretokenized: np.float32(
      targets.sum() + len(targets_pretokenized)
    ),
    label_dtype=np.float32,
  )
  lengths = {"inputs": 4, "targets": 2}
  found = list(converter(dataset, lengths).as_numpy_iterator())
  assert [set(row) for row in found] == [{*made, "labels", "loss_weights"}] * 2
  assert found[0]["encoder_token_types"].tolist() == [0, 1, 1, 0]
  assert found[0]["encoder_mask"].tolist() == [1, 1, 1, 0]
  assert [row["labels"] for row in found] == [10.0, 11.0]
  assert found[0]["labels"].dtype == np.float32
  assert [row["loss_weights"] for row in found] == [1, 1]
  assert converter.get_model_feature_lengths(lengths) == {
    **dict.fromkeys(made, 4),
    "labels": 1,
    "loss_weights": 1,
  }
