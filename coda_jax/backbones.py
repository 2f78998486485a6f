"""The families of models, and what the rest of the package asks of each.

The only module that knows them all. It knows them by name, and imports a family
when it is asked for. docs/backbones.md shows how to add one.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import jax
from flax import linen as nn

from coda_jax.nn.config import Conditional

# {name: the module that has its `BACKBONE`}.
_MODULES = {"t5": "coda_jax.t5.backbone", "bert": "coda_jax.bert.backbone"}


class HuggingFace(Protocol):
  """A module that reads and writes a family's Hugging Face checkpoints.

  Pure functions of what is in the files: `checkpoints.hf` opens them.
  """

  # Values of `model_type` in config.json.
  MODEL_TYPES: tuple[str, ...]
  # transformers' class, for the command that turns a pickle into safetensors.
  TRANSFORMERS_CLASS: str

  def read(
    self, fields: Mapping[str, Any], tensors: Mapping[str, Any], folder: Any
  ) -> tuple[Conditional, dict[str, Any]]:
    """A configuration and {parameter path: Leaf}.

    There may be leaves of a head that the model does not have: such a head can
    start from them.

    Args:
      fields: of config.json.
      tensors: {name: Leaf} of the safetensors files.
      folder: for messages.

    Raises:
      ValueError: the model is not one of the family, naming why.
    """

  def write(
    self, config: Conditional, leaves: Mapping[str, Any], dtype: str
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse: the fields of config.json, and {name: Leaf}.

    Raises:
      ValueError: leaves or settings that the format has no place for.
    """


class Backbone(NamedTuple):
  """A family of models.

  Attributes:
    name: key of the configuration in our own files, such as "t5".
    title: its name in messages, such as "T5".
    config: the dataclass of its configuration.
    model: makes the linen module from a configuration. Its `encode` takes
      `encoder_inputs`, `enable_dropout` and `return_routing`; its `__call__`
      takes what `example` has, and these two.
    example: (config, batch size, lengths of the task's features) -> shapes of
      the arguments of a call.
    encoder_inputs: names of the arguments of `encode`.
    hf: reads and writes Hugging Face checkpoints; None if there are none.
    config_of_leaves: (leaves of a t5x checkpoint, its name) -> configuration,
      since such files have none; None if there are none.
    assume: (such a configuration, the expected one) -> the former, as expected
      where leaves do not tell.
  """

  name: str
  title: str
  config: type[Conditional]
  model: Callable[[Any], nn.Module]
  example: Callable[
    [Any, int, Mapping[str, int]], dict[str, jax.ShapeDtypeStruct]
  ]
  encoder_inputs: tuple[str, ...]
  hf: HuggingFace | None = None
  config_of_leaves: Callable[[Mapping[str, Any], str], Any] | None = None
  assume: Callable[[Any, Any], Any] | None = None


def families() -> Iterator[Backbone]:
  """All families, in the order of their names' list; imports each in turn."""
  for name in _MODULES:
    yield named(name)


def names() -> tuple[str, ...]:
  """The names of all families."""
  return tuple(_MODULES)


def named(name: str) -> Backbone:
  """The family of that name, one of `names`."""
  return importlib.import_module(_MODULES[name]).BACKBONE


def of(config: Conditional) -> Backbone:
  """The family of a configuration.

  Raises:
    TypeError: not a configuration of any family.
  """
  for family in families():
    if type(config) is family.config:
      return family
  raise TypeError(
    f"{type(config).__name__} is not the configuration of a backbone; expected "
    f"one of {[family.config.__name__ for family in families()]}"
  )


def build(config: Conditional) -> nn.Module:
  """The model of a configuration."""
  return of(config).model(config)


def example(
  config: Conditional,
  batch_size: int = 1,
  lengths: Mapping[str, int] | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a model's arguments.

  Args:
    config: of the model.
    batch_size: examples.
    lengths: of the task's features, {"inputs": n, "targets": m}; None takes a
      few tokens of each, which is enough where only parameters matter.
  """
  lengths = lengths or {"inputs": 8, "targets": 8}
  return of(config).example(config, batch_size, lengths)


def encoder_inputs(
  config: Conditional, batch: Mapping[str, Any]
) -> dict[str, Any]:
  """The arrays of a batch that are arguments of a model's `encode`, by name."""
  names = of(config).encoder_inputs
  return {name: batch[name] for name in names if name in batch}
