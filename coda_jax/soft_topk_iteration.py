"""The paper's iteration for soft top-k, which the closed form replaces.

Source: CoDA (arXiv 2304.04947), section 3.
"""

import math
import numbers
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike


def iterate(scores: Array, k: ArrayLike, schedule: Sequence[float]) -> Array:
  """The paper's coordinate ascent on the dual, from a = 0 and b = 0.

  Args:
    scores: float [..., n]; -inf can't be selected.
    k: int [...], the budget.
    schedule: epsilon of each step.

  Returns:
    Weights, the shape and dtype of `scores`.
  """
  selectable = scores != -jnp.inf
  count = jnp.sum(selectable, axis=-1, keepdims=True, dtype=jnp.int32)
  k = jnp.broadcast_to(jnp.asarray(k, jnp.int32), count.shape[:-1])[..., None]
  k = jnp.clip(k, 0, count)
  # Rows with nothing to decide are replaced by harmless ones, for the
  # gradient's sake, and answered at the end.
  decided = (k == 0) | (k == count)
  inputs = jnp.where(decided | ~selectable, 0, scores)
  allowed = decided | selectable
  log_k = jnp.log(jnp.where(decided, 1, k).astype(scores.dtype))

  def ascend(b, epsilon):
    total = jax.nn.logsumexp(
      (inputs + b) / epsilon, axis=-1, keepdims=True, where=allowed
    )
    a = epsilon * (log_k - total)
    return jnp.minimum(-inputs - a, 0), a

  epsilons = jnp.asarray(schedule, scores.dtype)
  _, a = lax.scan(ascend, jnp.zeros_like(inputs), epsilons)
  # inputs + a + b, where b is ascend's, in the form that can't round above 0.
  weights = jnp.exp(jnp.minimum(inputs + a[-1], 0) / schedule[-1])
  answer = (selectable & (k > 0)).astype(scores.dtype)
  return jnp.where(decided, answer, jnp.where(allowed, weights, 0))


def epsilon_schedule(
  epsilon: float, num_iterations: int, epsilon_init: float, epsilon_decay: float
) -> list[float]:
  """The epsilon of each step: decayed from epsilon_init, at least epsilon.

  Raises:
    ValueError: an argument out of range.
  """
  if operator.index(num_iterations) < 1:
    raise ValueError(f"num_iterations is {num_iterations}; expected 1 or more")
  epsilon_init = positive("epsilon_init", epsilon_init)
  if not 0 < epsilon_decay <= 1:
    raise ValueError(f"epsilon_decay is {epsilon_decay}; expected (0, 1]")
  return [
    max(epsilon, epsilon_init * epsilon_decay**i) for i in range(num_iterations)
  ]


def positive(name: str, value: float) -> float:
  """The value as a float.

  Raises:
    TypeError: not a Python number.
    ValueError: not positive and finite.
  """
  if not isinstance(value, numbers.Real):
    raise TypeError(
      f"{name} is a {type(value).__name__}; expected a Python float, fixed at "
      "tracing"
    )
  if not (value > 0 and math.isfinite(value)):
    raise ValueError(f"{name} is {value}; expected a positive, finite number")
  return float(value)
