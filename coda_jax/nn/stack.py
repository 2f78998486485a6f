"""A stack of layers, one after the other: each on its own, or in a loop.

In a loop, layers of one shape compile once. A TPU's compiler takes minutes for
each kind of layer at the largest sizes; T5 XXL has 48. The parameters keep
their paths, `layers_0`, `layers_1`, ...; they are stacked on the way in, which
costs a copy of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax.nn import coda, config, router

# Each layer's `Selection`, None if it is dense.
Routing = tuple[router.Selection | None, ...]

# The names of the rngs that layers draw from.
_RNGS = ("dropout", "routing")


def encode(
  module: nn.Module,
  make_block: Callable[..., nn.Module],
  cfg: config.Conditional,
  x: Array,
  mask: Array,
  *,
  deterministic: bool,
  **inputs: Any,
) -> tuple[Array, Routing]:
  """Applies an encoder's layers, conditional where the configuration says so.

  Args:
    module: the bound module that owns `layers_0`, `layers_1`, ...
    make_block: of one layer, see `coda.Block`; takes a linen module's `name`
      and `parent`.
    cfg: of the backbone.
    x: [batch, n, emb_dim].
    mask: bool [batch, n], True for real tokens.
    deterministic: turns dropout off.
    **inputs: further arguments of the blocks.

  Returns:
    The tokens after the last layer, [batch, n, emb_dim], and the routing. For
    those who look at layers from outside, the collection "intermediates", where
    it is mutable, has "mask" and "layers", the tokens after each layer.
  """
  module.sow("intermediates", "mask", mask)
  is_seen = module.is_mutable_collection("intermediates")

  def make(i: int, **place: Any) -> nn.Module:
    if cfg.coda is None:
      return make_block(**place)
    block = make_block(parent=None)
    return coda.CodaLayer(
      block, cfg.coda, cfg.layer_reduction(i), cfg.dtype, **place
    )

  def call(
    layer: Any,
    x: Array,
    before: Sequence[tuple[router.Selection | None, Array | None]],
  ) -> tuple[Array, tuple[router.Selection | None, Array | None]]:
    selection = None
    if cfg.coda is None:
      x = coda.dense(layer, x, mask, deterministic, **inputs)
    else:
      if cfg.coda.shared_router:
        selection = next((one for one, _ in before if one is not None), None)
      x, selection = layer(
        x, mask, deterministic, selection=selection, **inputs
      )
    return x, (selection, x if is_seen else None)

  x, found = apply_layers(
    module,
    make,
    call,
    x,
    number=cfg.num_encoder_layers,
    remat=cfg.remat,
    loop=cfg.scan_layers,
  )
  if is_seen:
    module.sow("intermediates", "layers", tuple(tokens for _, tokens in found))
  return x, tuple(selection for selection, _ in found)


def apply_layers(
  module: nn.Module,
  make: Callable[..., nn.Module],
  call: Callable[[Any, Array, Sequence[Any]], tuple[Array, Any]],
  x: Array,
  *,
  number: int,
  remat: bool,
  loop: bool,
) -> tuple[Array, list[Any]]:
  """Applies layers one after the other.

  Args:
    module: the bound module that owns `layers_0`, `layers_1`, ...
    make: (i, name=... or parent=None) -> layer number i.
    call: (layer, tokens, further results of the layers before) -> (tokens,
      further result). In a loop the second argument is ().
    x: the tokens.
    number: how many layers there are.
    remat: recompute each layer in the backward pass.
    loop: run them as a loop over layer 0, which all must be like. Layers are
      initialised one by one nevertheless.

  Returns:
    The tokens after the last layer, and the further results of each layer.
  """
  if loop and not module.is_initializing():
    return _in_a_loop(module, make(0, parent=None), call, x, number, remat)
  if remat:
    call = nn.remat(call, prevent_cse=True)
  others = []
  for i in range(number):
    x, other = call(make(i, name=f"layers_{i}"), x, tuple(others))
    others.append(other)
  return x, others


def _in_a_loop(module, layer, call, x, number, remat) -> tuple[Array, list]:
  params = [module.variables["params"][f"layers_{i}"] for i in range(number)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
  keys = {
    name: jax.random.split(module.make_rng(name), number)
    for name in _RNGS
    if module.has_rng(name)
  }

  def step(x: Array, own: Any) -> tuple[Array, Any]:
    params, rngs = own
    return layer.apply({"params": params}, x, (), method=call, rngs=rngs)

  if remat:
    # A loop's body has nothing outside to share a subexpression with.
    step = jax.checkpoint(step, prevent_cse=False)
  x, others = jax.lax.scan(step, x, (stacked, keys))
  return x, [jax.tree.map(lambda y, i=i: y[i], others) for i in range(number)]
