"""The same model by another method, for comparing what methods cost."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from flax import linen as nn

from coda_jax import backbones
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig, LoraConfig

METHODS = ("full", "adapter", "lora", "coda", "coda_lora")


class Variant(NamedTuple):
  """A model and what is trained of it.

  Attributes:
    method: one of `METHODS`.
    reduction: r; 1 where nothing is routed.
    model: of `backbones.build`.
    trained_patterns: see `params.split`.
  """

  method: str
  reduction: float
  model: nn.Module
  trained_patterns: Sequence[str]

  @property
  def reductions(self) -> str:
    """The layers' r: "3"; where they differ, "1 in 1 layer, 3 in 11 layers"."""
    config = self.model.config
    counts: dict[float, int] = {}
    for i in range(config.num_encoder_layers):
      r = config.layer_reduction(i)
      counts[r] = counts.get(r, 0) + 1
    if len(counts) == 1:
      return f"{next(iter(counts)):g}"
    return ", ".join(
      f"{r:g} in {n} layer{'s' * (n > 1)}" for r, n in sorted(counts.items())
    )


def as_given(
  model: nn.Module,
  trained_patterns: Sequence[str] = params_lib.ALL_PATTERNS,
  reductions: Sequence[float] = (),
) -> list[Variant]:
  """The model as it is, at its own r or at each of several."""
  coda = model.config.coda
  if not coda:
    return [Variant("full", 1.0, model, trained_patterns)]
  if not reductions:
    return [Variant(coda.method, coda.reduction, model, trained_patterns)]
  return [
    Variant(
      coda.method,
      r,
      backbones.build(model.config.with_reduction(r)),
      trained_patterns,
    )
    for r in reductions
  ]


def by_methods(
  model: nn.Module, methods: Sequence[str], reductions: Sequence[float]
) -> list[Variant]:
  """The model by each method, those that route at each r.

  What a method needs and the model has, such as the width of adapters, is the
  model's; what it lacks is as in configs/methods/.

  Args:
    model: of `backbones.build`.
    methods: of `METHODS`.
    reductions: r of "coda" and "coda_lora"; none takes the model's own.

  Raises:
    ValueError: no such method.
  """
  own = model.config.coda or CodaConfig()
  lora = own.lora or LoraConfig()
  width = own.bottleneck_dim or CodaConfig().bottleneck_dim
  variants = []
  for method in methods:
    if method not in METHODS:
      raise ValueError(
        f"method {method!r}; expected some of {', '.join(METHODS)}"
      )
    routes = method in ("coda", "coda_lora")
    for r in (reductions or (own.reduction,)) if routes else (1.0,):
      # Only a given r is for all layers that route; else each has its own.
      routing = dataclasses.replace(
        own,
        reduction=r,
        layer_reductions=own.layer_reductions if routes else (),
      )
      if routes and reductions and model.config.is_routed:
        routing = model.config.with_reduction(r).coda
      coda = dataclasses.replace(
        routing,
        bottleneck_dim=0 if method == "lora" else width,
        lora=lora if method.endswith("lora") else None,
      )
      config = dataclasses.replace(
        model.config, coda=None if method == "full" else coda
      )
      patterns = (
        params_lib.ALL_PATTERNS
        if method == "full"
        else params_lib.TASK_PATTERNS
      )
      variants.append(
        Variant(method, float(r), backbones.build(config), patterns)
      )
  return variants
