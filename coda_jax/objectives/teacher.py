"""The teacher of self-distillation: the same model without what CoDA adds.

It shares the frozen parameters. Only the small ones that training changes, such
as norms, exist twice.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from coda_jax import backbones
from coda_jax import params as params_lib

# Where the parameters have the teacher's own, those that training changes.
TEACHER = "teacher"


def check_weights(objective: str, weights: Mapping[str, Any]) -> None:
  """Refuses a weight of a loss that is no number, or below 0.

  Raises:
    ValueError: naming it.
  """
  for name, value in weights.items():
    if not (isinstance(value, int | float) and 0 <= value < math.inf):
      raise ValueError(
        f"{objective}.{name}={value!r}; expected a number, 0 or more"
      )


def check(config: Any) -> None:
  """Refuses a model without anything added.

  Raises:
    ValueError: saying so.
  """
  if config.coda is None:
    raise ValueError(
      "self-distillation of a plain model changes nothing: it is its own "
      "teacher; use a file of methods/"
    )


def constants(trained: Any) -> dict[str, Any]:
  """The teacher's own parameters, as they are before the first step."""
  leaves = {
    path: jnp.copy(leaf)
    for path, leaf in params_lib.flatten(trained).items()
    if not params_lib.is_added(path)
  }
  return {TEACHER: params_lib.unflatten(leaves)} if leaves else {}


def model_of(model: nn.Module) -> nn.Module:
  """The teacher of a model."""
  return backbones.build(dataclasses.replace(model.config, coda=None))


def params_of(params: Any) -> dict[str, Any]:
  """The teacher's parameters, of those that training has."""
  leaves = params_lib.flatten(params)
  own = f"{TEACHER}/"
  kept = {
    path: leaf
    for path, leaf in leaves.items()
    if not (path.startswith(own) or params_lib.is_added(path))
  }
  kept |= {
    path.removeprefix(own): leaf
    for path, leaf in leaves.items()
    if path.startswith(own)
  }
  return params_lib.unflatten(kept)
