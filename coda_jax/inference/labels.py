"""Answers inputs with labels or numbers, by a model with a head for them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding

from coda_jax import token_ids
from coda_jax.inference import batching
from coda_jax.inference.sources import Example
from coda_jax.objectives.classify import Classify


def answer(
  model: nn.Module,
  params: Any,
  examples: Sequence[Example],
  *,
  objective: Classify,
  batch_size: int,
  task_feature_lengths: Mapping[str, int],
  report: Callable[[int, int], None] = lambda examples, tokens: None,
  sharding: NamedSharding | None = None,
) -> list[str]:
  """Answers inputs, in batches of one size and of few lengths.

  Args:
    model: with a head for classification.
    params: its parameters.
    examples: the inputs.
    objective: with the model's labels.
    batch_size: inputs a batch; the last one is filled up with padding.
    task_feature_lengths: {"inputs": n}, in tokens.
    report: is told after each batch how many inputs and tokens were read.
    sharding: of batches, `partitioning.batch_sharding`; None for one device.

  Returns:
    The label of each example, or its number as a text, in their order, whatever
    the batches were.

  Raises:
    FloatingPointError: an answer is not a number.
    ValueError: a token that the model has no embedding for.
  """
  answers: dict[int, str] = {}
  lengths = [len(example.input_tokens) for example in examples]
  buckets = batching.bucket_lengths(task_feature_lengths["inputs"])
  for batch in batching.plan(lengths, batch_size, buckets):
    rows = [examples[place] for place in batch.places]
    for row in rows:
      token_ids.check(
        f"input {row.index}", row.input_tokens, model.config.vocab_size
      )
    arrays = {
      "encoder_input_tokens": [row.input_tokens for row in rows],
      "encoder_token_types": [row.token_types for row in rows],
      "encoder_mask": [[1] * len(row.input_tokens) for row in rows],
    }
    placed = {
      name: jax.device_put(
        batching.pad(values, batch_size, batch.length), sharding
      )
      for name, values in arrays.items()
    }
    found = objective.predict(model, params, placed, max_length=1)
    found = np.asarray(found)[: len(rows)]  # The rest is padding.
    is_number = np.isfinite(found) if found.dtype == np.float32 else found >= 0
    for place, fine in zip(batch.places, is_number, strict=True):
      if not fine:
        raise FloatingPointError(
          f"the answer to input {examples[place].index} is not a number: the "
          "checkpoint's parameters are damaged. What was written before is kept"
        )
    answers |= zip(batch.places, objective.answers(found), strict=True)
    report(len(rows), sum(lengths[place] for place in batch.places))
  return [answers[place] for place in range(len(examples))]
