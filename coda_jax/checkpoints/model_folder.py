"""Our own checkpoint folder: `config.json` and `model.safetensors`.

Keys are parameter paths joined by "/". An interrupted write leaves the old
model or the new one, never half of each.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from coda_jax import backbones, initialise
from coda_jax import params as params_lib
from coda_jax.checkpoints import described, files, kinds, tensors
from coda_jax.checkpoints import leaves as leaves_lib
from coda_jax.checkpoints.leaves import Leaf, leaves_of
from coda_jax.nn.config import COMPUTE, CodaConfig, Conditional, LoraConfig

FORMAT = "coda_jax"
CONFIG_FILE = kinds.CONFIG_FILE
WEIGHTS_FILE = "model.safetensors"


def config_to_dict(config: Conditional) -> dict[str, Any]:
  """The fields that say what a model is, without `COMPUTE`, for JSON."""
  coda = None if config.coda is None else coda_to_dict(config.coda)
  return {**without_compute(dataclasses.asdict(config)), "coda": coda}


def config_from_dict(
  kind: type[Conditional], fields: Mapping[str, Any]
) -> Conditional:
  """The inverse of `config_to_dict`, with the defaults for `COMPUTE`."""
  coda = fields["coda"]
  coda = None if coda is None else coda_from_dict(coda)
  return kind(**{**without_compute(fields), "coda": coda})


def coda_to_dict(coda: CodaConfig) -> dict[str, Any]:
  """A `CodaConfig` as JSON-ready values, without `COMPUTE`."""
  return without_compute(dataclasses.asdict(coda))


def coda_from_dict(fields: Mapping[str, Any]) -> CodaConfig:
  """The inverse of `coda_to_dict`, with the defaults for `COMPUTE`."""
  lora = fields["lora"]
  lora = None if lora is None else LoraConfig(**lora)
  return CodaConfig(**{**without_compute(fields), "lora": lora})


def without_compute(fields: Mapping[str, Any]) -> dict[str, Any]:
  """Drops the fields in `COMPUTE`, which files of older versions have."""
  return {name: x for name, x in fields.items() if name not in COMPUTE}


def save_model(
  folder: str | os.PathLike[str],
  config: Conditional,
  params: params_lib.Params,
  *,
  dtype: Any = jnp.float32,
) -> None:
  """Writes a model folder.

  Args:
    folder: made if it does not exist; a model in it is replaced.
    config: the model's shape.
    params: its parameters.
    dtype: float32 or bfloat16, of the file.

  Raises:
    FileExistsError: the folder holds a checkpoint of another kind.
    ValueError: parameters of another model.
  """
  leaves = leaves_of(params)
  expected = initialise.abstract_params(backbones.build(config))
  leaves_lib.check(leaves, params_lib.flatten(expected), "params")
  write(folder, config, {p: x.astype(dtype) for p, x in leaves.items()})


def write(
  folder: str | os.PathLike[str],
  config: Conditional,
  leaves: Mapping[str, Leaf],
) -> None:
  """Writes a model folder from {parameter path: Leaf}.

  Raises:
    FileExistsError: the folder holds a checkpoint of another kind.
  """
  folder = pathlib.Path(folder)
  kinds.check_replaces(folder, FORMAT)
  fields = {
    "format": FORMAT,
    backbones.of(config).name: config_to_dict(config),
  }
  described.write(folder / WEIGHTS_FILE, folder / CONFIG_FILE, leaves, fields)


def read(folder: str | os.PathLike[str]) -> tuple[Conditional, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: another format, or a damaged file.
  """
  folder = pathlib.Path(folder)
  weights, description = folder / WEIGHTS_FILE, folder / CONFIG_FILE
  fields = described.read(weights, description)
  if fields.get("format") != FORMAT:
    raise ValueError(
      f"{description} says format {fields.get('format')!r}; expected {FORMAT!r}"
    )
  families = [name for name in backbones.names() if name in fields]
  if len(families) != 1:
    raise ValueError(
      f"{description} describes {families or 'no model'}; expected one of "
      f"{backbones.names()}"
    )
  family = backbones.named(families[0])
  with files.naming(description):
    config = config_from_dict(family.config, fields[family.name])
  return config, tensors.read(weights)
