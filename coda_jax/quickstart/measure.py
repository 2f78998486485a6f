"""What the quickstart's models cost: time, in turn, and FLOPs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from coda_jax import analysis
from coda_jax.quickstart.runs import LENGTHS, Result
from coda_jax.t5 import decoding


def costs(
  results: Mapping[str, Result], tokens: Array, *, repeats: int
) -> dict[str, dict[str, Any]]:
  """Measures topic models on one batch; all alternatives in one run, in turn.

  Args:
    results: {label: topic run}; the first is what others are compared with.
    tokens: int32 [batch, length] of real articles.
    repeats: how often each is timed; the median counts.

  Returns:
    {label: fields of results.json}. Times are milliseconds a batch, FLOPs are
    of the encoder for one full sequence.
  """
  encoders, generators = {}, {}
  for label, result in results.items():
    encode = jax.jit(
      lambda params, tokens, model=result.model: model.apply(
        {"params": params}, tokens, enable_dropout=False, method=model.encode
      )
    )
    encoders[label] = lambda r=result, f=encode: f(r.params, tokens)
    generators[label] = lambda r=result: decoding.generate(
      r.model, r.params, tokens, max_length=LENGTHS["topic"]["targets"]
    )
  encoder_ms = analysis.paired_medians(encoders, repeats)
  inference_ms = analysis.paired_medians(generators, repeats)
  base = next(iter(results))
  return {
    label: {
      "trained_share": analysis.trained_share(result.params),
      "encoder_flops": analysis.encoder_flops(
        result.model.config, tokens.shape[1]
      ),
      "encoder_ms": encoder_ms[label],
      "inference_ms": inference_ms[label],
      "encoder_speedup": encoder_ms[base] / encoder_ms[label],
      "inference_speedup": inference_ms[base] / inference_ms[label],
    }
    for label, result in results.items()
  }


def batch(vocabulary: Any, task: str, texts: list[str]) -> Array:
  """int32 [len(texts), length]: inputs of "topic" or "headline", tokenised."""
  length = LENGTHS[task]["inputs"]
  rows = []
  for text in texts:
    ids = vocabulary.encode(f"{task}: {text}")[: length - 1] + [1]
    rows.append(ids + [0] * (length - len(ids)))
  return jnp.asarray(rows, jnp.int32)
