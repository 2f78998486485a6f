"""Elastic training: a reduction factor sampled for each step.

Routers, adapters and norms have the same shapes at every r, so one set of
parameters can be trained for all of them, and then served at any.
"""

from collections.abc import Sequence

import numpy as np


def choose(reductions: Sequence[float], *, seed: int, step: int) -> float:
  """The r of a step, uniform over `reductions`; the same for the same step."""
  return reductions[
    np.random.default_rng([seed, step]).integers(len(reductions))
  ]
