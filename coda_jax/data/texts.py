"""The texts of a task's examples, and whether a model can read them."""

from collections.abc import Mapping
from typing import Any

import numpy as np


def check_vocabulary(vocabulary: Any, vocab_size: int, what: str) -> None:
  """Checks that a model has an embedding for every token.

  Args:
    vocabulary: seqio's.
    vocab_size: rows of the model's embedding.
    what: is in that vocabulary, for the message.

  Raises:
    ValueError: it has not.
  """
  if vocabulary.vocab_size > vocab_size:
    raise ValueError(
      f"the vocabulary for {what} has {vocabulary.vocab_size} tokens, the "
      f"model only {vocab_size}; set VOCABULARY to the one that the model was "
      "made with, or T5Config.vocab_size of a new model"
    )


def text_of(
  example: Mapping[str, np.ndarray], feature: str, features: Mapping[str, Any]
) -> str:
  """The text of an example's feature: the original, or else decoded.

  Args:
    example: see `inputs.task_examples`.
    feature: "inputs" or "targets".
    features: the task's `output_features`.
  """
  text = example.get(f"{feature}_pretokenized")
  if isinstance(text, bytes):
    return text.decode()
  return features[feature].vocabulary.decode(example[feature].tolist())
