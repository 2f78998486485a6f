"""The cost of the quickstart's models: time, measured in turn, and FLOPs."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from coda_jax import analysis
from coda_jax.quickstart.runs import LENGTHS, Result


def costs(
  results: Mapping[str, Result], tokens: Array, *, repeats: int
) -> dict[str, dict[str, Any]]:
  """Measures models on one batch; all alternatives in one run, in turn.

  Args:
    results: {label: run}; the first is what others are compared with.
    tokens: int32 [batch, length] of real articles.
    repeats: how often each is timed; the median counts.

  Returns:
    {label: fields of results.json}. Times are milliseconds a batch, FLOPs are
    of the encoder for one full sequence.
  """
  costs = analysis.inference_costs(
    {label: (result.model, result.params) for label, result in results.items()},
    {"encoder_input_tokens": tokens},
    max_length=LENGTHS["topic"]["targets"],
    repeats=repeats,
  )
  return {
    label: {
      "trained_share": analysis.trained_share(results[label].params),
      **cost,
    }
    for label, cost in costs.items()
  }


def batch(vocabulary: Any, task: str, texts: list[str]) -> Array:
  """int32 [len(texts), length]: inputs of a task, tokenised."""
  length = LENGTHS[task]["inputs"]
  rows = []
  for text in texts:
    ids = vocabulary.encode(text)[: length - 1] + [1]
    rows.append(ids + [0] * (length - len(ids)))
  return jnp.asarray(rows, jnp.int32)
