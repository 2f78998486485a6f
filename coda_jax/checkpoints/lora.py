"""Merging LoRA into the kernels that it adapts."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from coda_jax import backbones, initialise
from coda_jax import params as params_lib
from coda_jax.checkpoints import leaves as leaves_lib

_A, _B = "/lora/a/kernel", "/lora/b/kernel"


def merge_lora(
  model: nn.Module, params: params_lib.Params
) -> tuple[nn.Module, dict[str, Any]]:
  """The same function without LoRA: kernel + (alpha / rank) a b.

  Summed in float32, whatever the parameters' dtype. Adapters and routers stay;
  a model that had LoRA alone becomes a plain backbone.

  Args:
    model: its config has `coda.lora`.
    params: its parameters.

  Returns:
    (model, params) with the backbone changed and no `lora` leaves.

  Raises:
    ValueError: the model has no LoRA, or the parameters are not its own.
  """
  coda = model.config.coda
  if coda is None or coda.lora is None:
    raise ValueError(
      "the model has no LoRA to merge: CodaConfig.lora is None; it was not "
      "trained with the method lora or coda_lora"
    )
  scale = coda.lora.alpha / coda.lora.rank
  leaves = params_lib.flatten(params)
  expected = initialise.abstract_params(model)
  leaves_lib.check(leaves, params_lib.flatten(expected), "params")
  merged = {p: x for p, x in leaves.items() if "/lora/" not in p}
  for path, a in leaves.items():
    if not path.endswith(_A):
      continue
    projection = path.removesuffix(_A)
    kernel = merged[f"{projection}/kernel"]
    delta = jnp.matmul(
      a.astype(jnp.float32),
      leaves[projection + _B].astype(jnp.float32),
      precision="highest",
    )
    merged[f"{projection}/kernel"] = (
      kernel.astype(jnp.float32) + scale * delta
    ).astype(kernel.dtype)
  rest = dataclasses.replace(coda, lora=None)
  keeps = model.config.is_routed or coda.bottleneck_dim > 0
  config = dataclasses.replace(model.config, coda=rest if keeps else None)
  return backbones.build(config), params_lib.unflatten(merged)
