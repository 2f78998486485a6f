"""Which of the formats a checkpoint folder has, and reading any of them."""

import os
import pathlib
from typing import Any

from coda_jax import params as params_lib
from coda_jax.checkpoints import (
  hf,
  initialise,
  kinds,
  leaves,
  model_folder,
  t5x,
  t5x_orbax,
)
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.t5.config import T5Config
from coda_jax.t5.network import Transformer

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
  kind = kinds.find_one(folder)
  if kind is None:
    raise FileNotFoundError(
      f"{folder} holds no checkpoint: neither config.json (Hugging Face's and "
      f"ours) nor a checkpoint of t5x; {_nearby(folder)}"
    )
  if kind == "adapter":
    raise FileNotFoundError(
      f"{folder} holds an adapter; give the pretrained model that it was "
      "trained on, and put the adapter on it with load_adapter"
    )
  return kind


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
  readers = {"coda_jax": model_folder.read, "hf": hf.read, "t5x": t5x.read}
  kind = detect(path)
  config, found = readers[kind](find_folder(path))
  leaves.check_dtypes(found, str(path))
  expected = initialise.abstract_params(Transformer(config))
  leaves.check(
    {  # What t5x has of adapters and routers, it has no configuration for.
      name: leaf
      for name, leaf in found.items()
      if kind != "t5x" or not initialise.is_added(name)
    },
    params_lib.flatten(expected),
    str(path),
  )
  return config, found


def _nearby(folder: Any) -> str:
  """What the user may have meant."""
  path = pathlib.Path(folder)
  if (path / t5x_orbax.CHECKPOINT_FILE).exists():
    return (
      "it is what training goes on from, which coda_jax.eval, infer, export, "
      "convert and inspect read; its run ends with a model/ or adapter/"
    )
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
