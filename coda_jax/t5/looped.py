"""Layers of one shape as a loop over one of them, which compiles once.

A TPU's compiler takes minutes for each kind of layer at the largest sizes; T5
XXL has 48. The parameters keep their paths, `layers_0`, `layers_1`, ...; they
are stacked on the way in, which costs a copy of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

# The names of the rngs that layers draw from.
_RNGS = ("dropout", "routing")

# Applies a layer: (parameters, tokens, rngs) -> (tokens, further results).
Apply = Callable[[Any, Array, Mapping[str, Array]], tuple[Array, Any]]


def apply_layers(
  apply: Apply,
  params: Sequence[Any],
  rngs: Mapping[str, Array],
  *,
  x: Array,
  remat: bool,
) -> tuple[Array, list[Any]]:
  """Applies layers one after the other.

  Args:
    apply: applies one layer; the same function for all.
    params: the parameters of each layer, trees of one shape.
    rngs: keys; each is split into one a layer.
    x: [batch, length, emb_dim].
    remat: recompute each layer in the backward pass.

  Returns:
    The tokens after the last layer, and the further results of each layer.
  """
  number = len(params)
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
  keys = {name: jax.random.split(key, number) for name, key in rngs.items()}

  def step(x: Array, layer: Any) -> tuple[Array, Any]:
    return apply(layer[0], x, layer[1])

  if remat:
    # A loop's body has nothing outside to share a subexpression with.
    step = jax.checkpoint(step, prevent_cse=False)
  x, others = jax.lax.scan(step, x, (stacked, keys))
  return x, [jax.tree.map(lambda y, i=i: y[i], others) for i in range(number)]


def layer_inputs(
  module: Any, number: int
) -> tuple[list[Any], dict[str, Array]]:
  """The arguments of `apply_layers`, from a bound module with such layers.

  Args:
    module: with parameters `layers_0` to `layers_{number - 1}`.
    number: how many layers it has.

  Returns:
    (params, rngs).
  """
  own = module.variables["params"]
  rngs = {n: module.make_rng(n) for n in _RNGS if module.has_rng(n)}
  return [own[f"layers_{i}"] for i in range(number)], rngs
