"""Our own checkpoint folder: `config.json` beside `model.safetensors`.

Keys are parameter paths joined by "/". Both files are written aside and
renamed, so that an interrupted write leaves the old ones whole.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from coda_jax import params as params_lib
from coda_jax.checkpoints import tensors
from coda_jax.checkpoints.leaves import Leaf, leaves_of
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.config import T5Config

FORMAT = "coda_jax"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def config_to_dict(config: T5Config) -> dict[str, Any]:
  """A `T5Config` as JSON-ready values."""
  fields = dataclasses.asdict(config)
  return {**fields, "dtype": jnp.dtype(config.dtype).name}


def config_from_dict(fields: Mapping[str, Any]) -> T5Config:
  """The inverse of `config_to_dict`."""
  coda = fields["coda"] and coda_from_dict(fields["coda"])
  return T5Config(**{**fields, "coda": coda})


def coda_from_dict(fields: Mapping[str, Any]) -> CodaConfig:
  """A `CodaConfig` from the values `dataclasses.asdict` made of it."""
  lora = fields["lora"] and LoraConfig(**fields["lora"])
  return CodaConfig(**{**fields, "lora": lora})


def save_model(
  folder: str | os.PathLike[str],
  config: T5Config,
  params: params_lib.Params,
  *,
  dtype: Any = jnp.float32,
) -> None:
  """Writes a model folder.

  Args:
    folder: made if it is not there; a model already in it is replaced.
    config: the model's shape.
    params: its parameters.
    dtype: float32 or bfloat16, of the file.
  """
  leaves = leaves_of(params)
  write(folder, config, {p: x.astype(dtype) for p, x in leaves.items()})


def write(
  folder: str | os.PathLike[str], config: T5Config, leaves: Mapping[str, Leaf]
) -> None:
  """Writes a model folder from {parameter path: Leaf}."""
  folder = pathlib.Path(folder)
  tensors.write(folder / WEIGHTS_FILE, leaves, metadata={"format": FORMAT})
  fields = {"format": FORMAT, "t5": config_to_dict(config)}
  write_json(folder / CONFIG_FILE, fields)


def read(folder: str | os.PathLike[str]) -> tuple[T5Config, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: another format, or a damaged file.
  """
  folder = pathlib.Path(folder)
  fields = read_json(folder / CONFIG_FILE)
  if fields.get("format") != FORMAT:
    raise ValueError(
      f"{folder / CONFIG_FILE} says format {fields.get('format')!r}; expected "
      f"{FORMAT!r}"
    )
  return config_from_dict(fields["t5"]), tensors.read(folder / WEIGHTS_FILE)


def write_json(path: pathlib.Path, fields: Mapping[str, Any]) -> None:
  """Writes a JSON file, aside and renamed."""
  with tensors.aside(path) as temporary:
    temporary.write_text(json.dumps(fields, indent=2) + "\n")


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a JSON file that holds an object.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is not JSON, or no object.
  """
  if not path.exists():
    raise FileNotFoundError(f"{path} is not there")
  try:
    fields = json.loads(path.read_text())
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} is no JSON file: {error}") from error
  if not isinstance(fields, dict):
    raise ValueError(f"{path} holds a {type(fields).__name__}, no JSON object")
  return fields
