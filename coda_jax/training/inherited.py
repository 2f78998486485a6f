"""The settings that a run takes from the checkpoint that it starts from.

A CoDA checkpoint knows its own `CodaConfig`. The fields that the gin files
leave as None are the checkpoint's; the others are the gin files', where the
checkpoint's parameters allow it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from coda_jax.nn.config import COMPUTE, CodaConfig, LoraConfig
from coda_jax.t5.config import T5Config

# {field: the macro that sets it}; other fields are set by their own names.
_MACROS = {
  "reduction": "REDUCTION",
  "layer_reductions": "LAYER_REDUCTIONS",
  "attention": "ATTENTION",
  "router": "ROUTER",
  "epsilon": "EPSILON",
  "bottleneck_dim": "BOTTLENECK_DIM",
  "rank": "LORA_RANK",
}
# Fields that change the shapes of the parameters.
_SHAPES = ("bottleneck_dim", "rank")
# Fields of `T5Config` that the size and the kind of the model determine.
_SIZES = (
  "vocab_size",
  "emb_dim",
  "num_heads",
  "num_encoder_layers",
  "num_decoder_layers",
  "head_dim",
  "mlp_dim",
  "mlp_activations",
  "logits_via_embedding",
  "relpos_bias_per_layer",
)


def inherit(
  config: T5Config, saved: T5Config, source: str
) -> tuple[T5Config, list[str]]:
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
  if differing := [
    f"{name} = {getattr(config, name)!r}, {source} has {getattr(saved, name)!r}"
    for name in _SIZES
    if getattr(config, name) != getattr(saved, name)
  ]:
    raise ValueError(
      f"the gin files describe another model than {source}; use the files of "
      "models/ and sizes/ of that model, or set T5Config:\n  "
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
  for name, (new, old) in _differences(chosen, before).items():
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


def _differences(a: Any, b: Any) -> Mapping[str, tuple[Any, Any]]:
  return {
    field.name: (getattr(a, field.name), getattr(b, field.name))
    for field in dataclasses.fields(a)
    if field.name not in ("lora", *COMPUTE)
    and getattr(a, field.name) != getattr(b, field.name)
  }
