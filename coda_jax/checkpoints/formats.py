"""The format of a checkpoint folder, and reading every format."""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from coda_jax import backbones, initialise
from coda_jax import params as params_lib
from coda_jax.checkpoints import (
  adapter,
  hf,
  installed,
  kinds,
  leaves,
  model_folder,
  t5x,
  t5x_orbax,
)
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.nn.config import Conditional

FORMATS = ("coda_jax", "hf", "t5x")

# The models that come with the package.
SHIPPED = ("tiny", "tiny_coda")


def find_folder(path: str | os.PathLike[str]) -> Any:
  """A checkpoint folder by its path, or by the name of a model.

  Args:
    path: a folder; or one of `SHIPPED` or of `installed.MODELS`.

  Raises:
    ModuleNotFoundError: the package of the model is not installed.
  """
  text = os.fspath(path)
  if pathlib.Path(text).exists():
    return text
  if text in SHIPPED:
    return pathlib.Path(__file__).parents[1] / "assets" / text
  return installed.find(text) if text in installed.MODELS else text


def detect(path: str | os.PathLike[str]) -> str:
  """The format of a checkpoint folder, told by its content.

  Args:
    path: a folder; in a bucket only t5x's.

  Returns:
    One of `FORMATS`, or "adapter".

  Raises:
    FileNotFoundError: the folder has no checkpoint.
    ValueError: the folder has several, or an unknown `config.json`.
  """
  folder = find_folder(path)
  kind = kinds.find_one(folder)
  if kind is None:
    raise FileNotFoundError(
      f"no checkpoint found in {folder}: neither config.json (Hugging Face and "
      f"coda_jax) nor a t5x checkpoint; {_nearby(folder)}"
    )
  return kind


def read(
  path: str | os.PathLike[str],
) -> tuple[Conditional, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  A t5x checkpoint does not describe the adapters and routers that it may have;
  their leaves are there, too.

  Args:
    path: a folder of any of `FORMATS`, or one of `SHIPPED`; or an adapter's, if
      it names its model.

  Returns:
    (config, {parameter path: Leaf}); arrays are read later, by the leaves.

  Raises:
    FileNotFoundError: the checkpoint or a part of it is missing.
    ValueError: a checkpoint that can't be read, with the reason; or an adapter
      of another model than the one that it names.
  """
  config, own, _ = _read(path)
  return config, own


def read_config(path: str | os.PathLike[str]) -> Conditional:
  """The shape of `read`; the model of an adapter is not compared with it.

  Raises:
    FileNotFoundError, ValueError: see `read`.
  """
  if detect(path) != "adapter":
    return read(path)[0]
  folder = find_folder(path)
  fields = adapter.read_config(folder)
  base = read_config(_base_of(folder, fields))
  return adapter.configured(folder, fields, base)


def read_adapted(
  path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None
) -> tuple[Conditional, dict[str, Leaf]]:
  """Reads an adapter on its backbone, whose fingerprint takes a while.

  Args:
    path: of the adapter's folder.
    base: the pretrained model, see `read`; None is what the adapter names.

  Returns:
    (config, {parameter path: Leaf}) of the whole model.

  Raises:
    FileNotFoundError, ValueError: see `read`; or an adapter of another model.
  """
  fields = adapter.read_config(path)
  config, own = read(base or _base_of(path, fields))
  trained = adapter.read_leaves(path, fields, adapter.fingerprint(own))
  frozen = {
    name: leaf
    for name, leaf in own.items()
    if not params_lib.matches(name, params_lib.TASK_PATTERNS)
  }
  return adapter.configured(path, fields, config), {**frozen, **trained}


def _base_of(path: Any, fields: Mapping[str, Any]) -> str:
  """The model that an adapter names, which must be there."""
  base = adapter.base_model_of(path, fields)
  try:
    detect(base)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{path} is an adapter of {base!r}, which is not there ({error}); start "
      "where that path leads to the model, or pass the model and add the "
      "adapter with load_adapter"
    ) from error
  return base


def read_to_start(path: str | os.PathLike[str]) -> dict[str, Leaf]:
  """The leaves of `read`, and those that only a new head can start from.

  These are the pooler of a Hugging Face BERT: `encoder/head/dense`.

  Args:
    path: see `read`.

  Returns:
    {parameter path: Leaf}, for `assemble.from_leaves`.

  Raises:
    FileNotFoundError, ValueError: see `read`.
  """
  _, own, spare = _read(path)
  return {**own, **spare}


def _read(
  path: str | os.PathLike[str],
) -> tuple[Conditional, dict[str, Leaf], dict[str, Leaf]]:
  """(config, leaves of the model, leaves of a head that it does not have)."""
  readers = {"coda_jax": model_folder.read, "hf": hf.read, "t5x": t5x.read}
  kind, folder = detect(path), find_folder(path)
  if kind == "adapter":
    return *read_adapted(folder), {}
  config, own = readers[kind](folder)
  leaves.check_dtypes(own, str(path))
  expected = params_lib.flatten(
    initialise.abstract_params(backbones.build(config))
  )
  spare = {
    name: own.pop(name)
    for name in own.keys() - expected.keys()
    if kind == "hf" and params_lib.is_added(name)
  }
  leaves.check(
    {  # t5x has no configuration for adapters and routers: skip them.
      name: leaf
      for name, leaf in own.items()
      if kind != "t5x" or not params_lib.is_added(name)
    },
    expected,
    str(path),
  )
  return config, own, spare


def _nearby(folder: Any) -> str:
  """A hint at what the user may have meant."""
  path = pathlib.Path(folder)
  if (path / t5x_orbax.CHECKPOINT_FILE).exists():
    return (
      "it is a checkpoint of a training run, which coda_jax.eval, infer, "
      "export, convert and inspect read; at its end the run writes model/ or "
      "adapter/"
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
