"""Elastic training: a reduction factor sampled for each step.

Routers, adapters and norms have the same shapes at every r, so that one set of
parameters can be trained for all, and then served at any.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from flax import linen as nn


def at_reduction(model: nn.Module, reduction: float) -> nn.Module:
  """The same model with another r; layers with an r of their own keep it.

  At r = 1 nothing is routed, and the routers' parameters are not used.

  Args:
    model: a `Transformer` that routes.
    reduction: r, 1 or more.

  Raises:
    ValueError: the model does not route, or r is below 1.
  """
  config = model.config
  if not config.is_routed:
    raise ValueError(
      f"reduction {reduction} asked of a model that does not route; use "
      "methods/coda.gin or methods/coda_lora.gin, with REDUCTION above 1"
    )
  coda = dataclasses.replace(config.coda, reduction=reduction)
  return type(model)(dataclasses.replace(config, coda=coda))


def choose(reductions: Sequence[float], *, seed: int, step: int) -> float:
  """The r of a step, uniform over `reductions`; the same for the same step."""
  return reductions[
    np.random.default_rng([seed, step]).integers(len(reductions))
  ]
