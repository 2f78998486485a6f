"""The parameters of a model before training: their shapes, axes and values."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from coda_jax import backbones
from coda_jax import params as params_lib
from coda_jax.nn.config import Conditional


def init_params(
  model: Any, key: jax.Array, shardings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Fresh parameters of a model, a nested dict of float32 arrays.

  Args:
    model: of `backbones.build`.
    key: of the random numbers, which do not depend on the shardings.
    shardings: the tree of `partitioning.shardings`; each device then makes what
      it holds. None for one device.
  """
  return jax.jit(lambda key: fresh(model, key), out_shardings=shardings)(key)


def abstract_params(model: Any) -> dict[str, Any]:
  """The shapes and dtypes of `init_params`, without computing anything."""
  return params_lib.unflatten(params_lib.flatten(_traced(model)["params"]))


def logical_axes(model: Any) -> dict[str, tuple[str, ...]]:
  """{parameter path: its logical axes}, one name a dimension."""
  axes = params_lib.flatten(_traced(model)["params_axes"])
  return {path.removesuffix("_axes"): x.names for path, x in axes.items()}


@functools.lru_cache(maxsize=16)
def _traced(model: Any) -> dict[str, Any]:
  # Traced once: at Base that takes half a second, and a run asks often.
  return jax.eval_shape(lambda: _variables(model, jax.random.key(0)))


def fresh(model: Any, key: jax.Array) -> dict[str, Any]:
  """`init_params` as a pure function, to be compiled with others."""
  return _variables(model, key)["params"]


def ones(config: Conditional) -> dict[str, jax.Array]:
  """Arguments of a call of a model, where their values do not matter.

  Returns:
    Arrays of ones, which are not padding, in the shapes of `backbones.example`.
  """
  return jax.tree.map(
    lambda x: jnp.ones(x.shape, x.dtype), backbones.example(config)
  )


def _variables(model: Any, key: jax.Array) -> dict[str, Any]:
  return model.init(key, **ones(model.config), enable_dropout=False)
