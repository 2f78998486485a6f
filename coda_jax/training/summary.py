"""A run in numbers: the table before its first step, and means over steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from coda_jax import analysis
from coda_jax import params as params_lib
from coda_jax.formatting import format_scalars, format_table
from coda_jax.nn.config import Conditional

_NORMS = ("grad_norm", "update_norm")


def model_table(
  config: Conditional, lengths: Mapping[str, int], trained: Any, frozen: Any
) -> str:
  """A table of trained and frozen parameters, and the forward pass's FLOPs.

  Args:
    config: the model's shape.
    lengths: {"inputs": n, "targets": m}, in tokens.
    trained: nested mapping of the leaves that are trained.
    frozen: of those that are not.
  """
  rows = [
    (part, f"{a:,}", f"{b:,}")
    for part, (a, b) in analysis.parameter_counts(trained, frozen).items()
  ]
  a, b = params_lib.count(trained), params_lib.count(frozen)
  rows.append(("all", f"{a:,}", f"{b:,}"))
  encoder = analysis.encoder_flops(config, lengths["inputs"])
  rest = analysis.decoder_flops(
    config, lengths["inputs"], lengths.get("targets", 1)
  )
  costs = f"encoder {encoder / 1e9:.3g}"
  if rest:  # An encoder may stand alone.
    name = "head" if config.head_fields else "decoder"
    costs += f", {name} {rest / 1e9:.3g}"
  return (
    format_table([("parameters", "trained", "frozen"), *rows])
    + f"\ntrained share: {a / (a + b):.2%}"
    + f"\nGFLOPs an example, forward: {costs}"
  )


def summarize(
  history: Sequence[Mapping[str, Any]], done: int
) -> dict[str, float]:
  """Means over the steps since the last report, by the steps' weights.

  Args:
    history: the metrics of each step, of `steps.make_train_step`.
    done: the last of them.

  Raises:
    FloatingPointError: a loss or a norm is not finite.
  """
  first = done - len(history) + 1
  for step, metrics in enumerate(history, first):
    watched = {name: metrics[name] for name in ("loss", *_NORMS)}
    if not all(np.isfinite(value) for value in watched.values()):
      raise FloatingPointError(
        f"step {step}: training has diverged: {format_scalars(watched)}. "
        "Checkpoints are kept. Lower the learning rate, lengthen the warm-up, "
        "or set clip_norm of the optimizer, and run the same command to resume "
        "from the last checkpoint"
      )
  weights = np.array([float(m["weight"]) for m in history])
  weights = np.maximum(weights, 1e-9)
  own = history[0].keys() - {"loss", *_NORMS, "weight", "tokens"}
  means = {
    name: float(np.average([float(m[name]) for m in history], weights=weights))
    for name in ("loss", *sorted(own), *_NORMS)
  }
  return {**means, "tokens": np.mean([float(m["tokens"]) for m in history])}
