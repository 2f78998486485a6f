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

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import flax as safetensors_flax

from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.config import T5Config

FORMAT = "coda_jax"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

# The models that come with the package.
SHIPPED = ("tiny_dense", "tiny_coda")


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
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  fields = {"format": FORMAT, "t5": config_to_dict(config)}
  write_leaves(folder / WEIGHTS_FILE, params_lib.flatten(params), dtype)
  write_json(folder / CONFIG_FILE, fields)


def write_json(path: pathlib.Path, fields: Mapping[str, Any]) -> None:
  """Writes a JSON file."""
  replace_file(path, (json.dumps(fields, indent=2) + "\n").encode())


def replace_file(path: pathlib.Path, content: bytes) -> None:
  """Writes a file aside and renames it, so that it is never half-written."""
  aside = path.with_name(f".{path.name}.tmp")
  aside.write_bytes(content)
  aside.replace(path)


def find_folder(path: str | os.PathLike[str]) -> pathlib.Path:
  """A model folder by its path, or by name if it is one of `SHIPPED`."""
  folder = pathlib.Path(path)
  if str(path) in SHIPPED and not folder.exists():
    return pathlib.Path(__file__).parents[1] / "assets" / str(path)
  return folder


def load_config(path: str | os.PathLike[str]) -> T5Config:
  """Reads the `config.json` of a model folder.

  Raises:
    FileNotFoundError: the folder has none.
    ValueError: it is of another format.
  """
  path = find_folder(path) / CONFIG_FILE
  if not path.exists():
    raise FileNotFoundError(
      f"{path} is not there; expected a model folder written by coda_jax, with "
      f"{CONFIG_FILE} and {WEIGHTS_FILE}, or one of {SHIPPED}"
    )
  fields = json.loads(path.read_text())
  if fields.get("format") != FORMAT:
    raise ValueError(
      f"{path} says format {fields.get('format')!r}; expected {FORMAT!r}, as "
      "coda_jax writes it; Hugging Face and t5x checkpoints can't be read yet"
    )
  return config_from_dict(fields["t5"])


def load_model(
  folder: str | os.PathLike[str], *, param_dtype: Any = jnp.float32
) -> tuple[T5Config, dict[str, Any]]:
  """Reads a model folder.

  Args:
    folder: written by `save_model`, or one of `SHIPPED`.
    param_dtype: dtype of the returned parameters.

  Returns:
    (config, params), params a nested dict of arrays.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: another format.
  """
  config = load_config(folder)
  leaves = read_leaves(find_folder(folder) / WEIGHTS_FILE)
  leaves = {key: jnp.asarray(x, param_dtype) for key, x in leaves.items()}
  return config, params_lib.unflatten(leaves)


def read_leaves(path: pathlib.Path) -> dict[str, jax.Array]:
  """Reads {parameter path: array} from a safetensors file.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is not a whole safetensors file.
  """
  if not path.exists():
    raise FileNotFoundError(f"{path} is not there")
  try:
    return safetensors_flax.load_file(path)
  except SafetensorError as error:
    raise ValueError(
      f"{path} is cut off or is no safetensors file ({error}); get it again"
    ) from error


def write_leaves(
  path: pathlib.Path, leaves: Mapping[str, Any], dtype: Any = jnp.float32
) -> None:
  """Writes {parameter path: array} as a safetensors file."""
  cast = {name: jnp.asarray(leaf, dtype) for name, leaf in leaves.items()}
  replace_file(path, safetensors_flax.save(cast, metadata={"format": FORMAT}))


def initialise_from(
  params: params_lib.Params, pretrained: params_lib.Params, source: str
) -> dict[str, Any]:
  """Puts pretrained leaves into a freshly initialised tree.

  Leaves that only the model has, adapters and routers, keep their fresh
  values; adapters and routers that only the file has are left behind.

  Args:
    params: the model's tree.
    pretrained: the file's tree.
    source: the file's name, for messages.

  Returns:
    A tree of the structure and dtypes of `params`.

  Raises:
    ValueError: a backbone leaf is missing on either side or has another shape;
      the message lists all such leaves.
  """
  fresh = params_lib.flatten(params)
  loaded = {
    path: leaf
    for path, leaf in params_lib.flatten(pretrained).items()
    if path in fresh or not _is_added(path)
  }
  known = {
    path: leaf
    for path, leaf in fresh.items()
    if path in loaded or not _is_added(path)
  }
  check_leaves(loaded, known, source)
  return params_lib.unflatten(
    {
      path: jnp.asarray(loaded[path], leaf.dtype) if path in loaded else leaf
      for path, leaf in fresh.items()
    }
  )


def check_leaves(
  found: Mapping[str, Any], expected: Mapping[str, Any], source: str
) -> None:
  """Refuses leaves that are missing, left over, or of another shape.

  Args:
    found: {path: array}, of the file.
    expected: {path: array or jax.ShapeDtypeStruct}, of the model.
    source: the file's name.

  Raises:
    ValueError: naming every such leaf.
  """
  problems = [
    f"{path}: {np.shape(found[path])} in the file, {leaf.shape} in the model"
    for path, leaf in expected.items()
    if path in found and np.shape(found[path]) != leaf.shape
  ]
  problems += [f"{p}: not in the file" for p in expected if p not in found]
  problems += [f"{p}: not in the model" for p in found if p not in expected]
  if problems:
    raise ValueError(
      f"{source} does not fit the model; use the size and the method that it "
      "was made with:\n  " + "\n  ".join(problems)
    )


def _is_added(path: str) -> bool:
  """Whether a leaf is one that CoDA adds to a pretrained backbone."""
  return any(f"/{name}/" in path for name in ("adapter", "router", "lora"))


def init_params(model: Any, key: jax.Array) -> dict[str, Any]:
  """Fresh parameters of a `Transformer`, a nested dict of float32 arrays."""
  # No shape depends on the length, as long as every layer has a token.
  tokens = jnp.ones((1, 8), jnp.int32)

  def init(key: jax.Array) -> dict[str, Any]:
    return model.init(key, tokens, tokens, tokens, enable_dropout=False)[
      "params"
    ]

  return jax.jit(init)(key)


def abstract_params(model: Any) -> dict[str, Any]:
  """The shapes and dtypes of `init_params`, without computing anything."""
  return jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
