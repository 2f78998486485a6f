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
from jax import Array

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


def hidden_error(found: Array, expected: Array, mask: Array) -> Array:
  """The squared error of hidden states over the teacher's squares.

  Args:
    found: [batch, length, emb_dim], any float dtype.
    expected: the teacher's, the same shape.
    mask: bool [batch, length], True for real tokens.

  Returns:
    float32 [batch], 0 for a row of padding alone.
  """
  found, expected = (x.astype(jnp.float32) for x in (found, expected))
  squares = sum_of_tokens(jnp.square(expected), mask).sum(axis=-1)
  error = sum_of_tokens(jnp.square(found - expected), mask).sum(axis=-1)
  return error / jnp.maximum(squares, 1e-12)


def sum_of_tokens(x: Array, mask: Array) -> Array:
  """[batch, length, d] -> [batch, d], over the real tokens."""
  return jnp.where(mask[..., None], x, 0.0).sum(axis=1)
