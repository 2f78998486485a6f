"""Which of the formats a checkpoint folder has, and reading any of them."""

import os
import pathlib
from typing import Any

import jax.numpy as jnp

from coda_jax.checkpoints import adapter, files, hf, state, t5x
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.t5.config import T5Config

FORMATS = ("coda_jax", "hf", "t5x")

# The models that come with the package.
SHIPPED = ("tiny_dense", "tiny_coda")


def find_folder(path: str | os.PathLike[str]) -> Any:
  """A checkpoint folder by its path, or by name if it is one of `SHIPPED`."""
  text = os.fspath(path)
  if text in SHIPPED and not pathlib.Path(text).exists():
    return pathlib.Path(__file__).parents[1] / "assets" / text
  return text


def detect(path: str | os.PathLike[str]) -> str:
  """The format of a checkpoint folder, told from what is in it.

  Args:
    path: a folder; one in a bucket is t5x's.

  Returns:
    One of `FORMATS`.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: the folder holds several, or something else.
  """
  folder = find_folder(path)
  has_t5x = t5x.find_layout(folder) is not None
  config = pathlib.Path(folder) / state.CONFIG_FILE
  if not config.exists():
    if has_t5x:
      return "t5x"
    raise FileNotFoundError(
      f"{folder} holds no checkpoint: neither config.json (Hugging Face's and "
      f"ours) nor a checkpoint of t5x; {_nearby(folder)}"
    )
  others = ["one of t5x"] if has_t5x else []
  if (pathlib.Path(folder) / adapter.CONFIG_FILE).exists():
    others.append(adapter.CONFIG_FILE)
  if others:
    raise ValueError(
      f"{folder} holds several checkpoints: {state.CONFIG_FILE} and "
      f"{' and '.join(others)}; keep each in a folder of its own"
    )
  fields = files.read_json(config)
  found = [
    name
    for name, key in (("coda_jax", "format"), ("hf", "model_type"))
    if key in fields
  ]
  if len(found) != 1:
    raise ValueError(
      f"{config} should have either 'format', as coda_jax writes it, or "
      f"'model_type', as Hugging Face's; it has {sorted(fields)}"
    )
  return found[0]


def read(
  path: str | os.PathLike[str],
) -> tuple[T5Config, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  Args:
    path: a folder of any of `FORMATS`, or one of `SHIPPED`.

  Returns:
    (config, {parameter path: Leaf}); no array is read before it is asked for.

  Raises:
    FileNotFoundError: there is no checkpoint, or a part of it is missing.
    ValueError: a checkpoint that can't be read, saying why.
  """
  readers = {"coda_jax": state.read, "hf": hf.read, "t5x": t5x.read}
  config, leaves = readers[detect(path)](find_folder(path))
  for name, leaf in leaves.items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      raise ValueError(
        f"{path}: {name} has dtype {leaf.dtype.name}; expected floating point, "
        "as parameters are"
      )
  return config, leaves


def _nearby(folder: Any) -> str:
  """What the user may have meant."""
  path = pathlib.Path(folder)
  if "://" not in str(folder) and path.is_dir():
    inner = sorted(
      p.name
      for p in path.iterdir()
      if p.name == "model" or p.name.startswith("checkpoint_")
    )
    if inner:
      return f"did you mean {path / inner[-1]}?"
    return f"it has {sorted(p.name for p in path.iterdir())[:8]}"
  return f"the models of the package are {SHIPPED}"
