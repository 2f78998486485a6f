"""The settings that a run takes from the checkpoint that it starts from.

A CoDA checkpoint knows its own `CodaConfig`. The fields that the gin files
leave as None are the checkpoint's; the others are the gin files', where the
checkpoint's parameters allow it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from coda_jax import backbones
from coda_jax.nn.config import COMPUTE, CodaConfig, Conditional, LoraConfig

# {field: the macro that sets it}; other fields are set by their own names.
_MACROS = {
  "reduction": "REDUCTION",
  "layer_reductions": "LAYER_REDUCTIONS",
  "attention": "ATTENTION",
  "router": "ROUTER",
  "epsilon": "EPSILON",
  "bottleneck_dim": "BOTTLENECK_DIM",
  "adapter_scale": "ADAPTER_SCALE",
  "convolution": "CONVOLUTION",
  "shared_router": "SHARED_ROUTER",
  "always_ends": "ALWAYS_ENDS",
  "rank": "LORA_RANK",
}
# Fields that change the shapes of the parameters.
_SHAPES = ("bottleneck_dim", "convolution", "rank")
# Fields that a run may choose freely. The others give the size and the kind of
# the model. So may a head where the checkpoint has none.
_FREE = (
  *COMPUTE,
  "coda",
  "dropout_rate",
  "attention_dropout_rate",
  "head_dropout_rate",
  "labels",
)


def inherit(
  config: Conditional, saved: Conditional, source: str
) -> tuple[Conditional, list[str]]:
  """The configuration of a run, with its checkpoint's `CodaConfig` as defaults.

  Args:
    config: of the gin files.
    saved: of the checkpoint.
    source: the checkpoint's name, for messages.

  Returns:
    (config, lines), a line for each setting that differs from the checkpoint's.

  Raises:
    ValueError: the backbones differ, or parameters of the checkpoint do not fit
      the settings; all differences are named, with the macros that set them.
  """
  if type(config) is not type(saved):
    raise ValueError(
      f"the gin files describe a {backbones.of(config).title}, but {source} is "
      f"a {backbones.of(saved).title}; use the files of models/ and sizes/ of "
      "that model"
    )
  free = _FREE if saved.head_fields else (*_FREE, *saved.task_fields)
  if differing := [
    f"{name} = {old!r}, {source} has {new!r}"
    for name, (old, new) in _differences(config, saved, free).items()
  ]:
    raise ValueError(
      f"the gin files describe another model than {source}; use the files of "
      f"models/ and sizes/ of that model, or set {type(config).__name__}:\n  "
      + "\n  ".join(differing)
    )
  coda, before = config.coda, saved.coda
  if coda is None or before is None:
    return config, []
  lora, lines = coda.lora, []
  if lora is not None and before.lora is not None:
    lora, lines = _merge(lora, before.lora, source)
  coda, others = _merge(coda, before, source)
  coda = dataclasses.replace(coda, lora=lora)
  return dataclasses.replace(config, coda=coda), [*others, *lines]


def _merge(
  chosen: Any, before: CodaConfig | LoraConfig, source: str
) -> tuple[Any, list[str]]:
  """Takes the unset fields from `before`, and lists the others that differ."""
  taken = {name: getattr(before, name) for name in chosen.unset}
  lines = []
  for name, (new, old) in _differences(
    chosen, before, ("lora", *COMPUTE)
  ).items():
    if name in taken:
      continue
    macro = _MACROS.get(name, f"{type(chosen).__name__}.{name}")
    if name in _SHAPES and new and old:
      raise ValueError(
        f"{macro} = {new}, but the parameters of {source} were trained with "
        f"{old}; leave {macro} out (None), or start from another checkpoint"
      )
    lines.append(f"{macro} = {new!r}; {source} was trained with {old!r}")
  return dataclasses.replace(chosen, **taken), lines


def _differences(
  a: Any, b: Any, ignored: Sequence[str]
) -> Mapping[str, tuple[Any, Any]]:
  return {
    field.name: (getattr(a, field.name), getattr(b, field.name))
    for field in dataclasses.fields(a)
    if field.name not in ignored
    and getattr(a, field.name) != getattr(b, field.name)
  }
