"""Counts the arithmetic of a traced program.

The compiler's own count takes the body of a loop once, however often it runs.
"""

import math
from collections.abc import Callable
from typing import Any

from jax.extend import core


def matrix_flops(jaxpr: Any, branch: Callable[[list[int]], int] = max) -> int:
  """Floating-point operations of a program's matrix products.

  Two a multiply-add. The body of a `scan` counts as often as it runs. The body
  of a `while` counts once, since its end may depend on the data.

  Args:
    jaxpr: the whole program, for all devices together.
    branch: which branch of a conditional counts: `max`, the most expensive one,
      or `min`.
  """
  total = 0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    name = equation.primitive.name
    inner = [matrix_flops(one, branch) for one in _jaxprs(equation.params)]
    if name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      size = math.prod(left[axis] for axis in contracted)
      total += 2 * size * math.prod(equation.outvars[0].aval.shape)
    elif name == "cond":
      total += branch(inner)
    elif name == "scan":
      total += equation.params["length"] * sum(inner)
    else:
      total += sum(inner)
  return total


def _jaxprs(params: dict[str, Any]) -> list[Any]:
  """The programs within an equation."""
  kinds = (core.Jaxpr, core.ClosedJaxpr)
  inner = []
  for value in params.values():
    several = value if isinstance(value, tuple | list) else (value,)
    inner += [one for one in several if isinstance(one, kinds)]
  return inner
