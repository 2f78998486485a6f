"""The checkpoints of a training run: `MODEL_DIR/checkpoints/N`.

Such an orbax folder has the trained leaves and the optimizer's state, their
checksums, and the settings that the run started with. The frozen leaves are
those of the run's INITIAL_CHECKPOINT_PATH.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from coda_jax import backbones, initialise
from coda_jax import params as params_lib
from coda_jax.checkpoints import (
  checksums,
  files,
  formats,
  leaves,
  model_folder,
  t5x_orbax,
)
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.nn.config import Conditional

# The name of a setting that a run starts with, as messages show it.
FROZEN = "a checksum of the frozen parameters"


def is_run(path: str | os.PathLike[str]) -> bool:
  """Whether a folder is a checkpoint of a training run."""
  return (pathlib.Path(path) / "default" / t5x_orbax.METADATA_FILE).exists()


def describe(config: Conditional) -> dict[str, Any]:
  """The fields of a run's model, under names of their own."""
  fields = model_folder.config_to_dict(config)
  kind = type(config).__name__
  return {f"{kind}.{name}": value for name, value in fields.items()}


def fixed(saved: Mapping[str, Any]) -> dict[str, Any]:
  """The part of a saved description that a resumed run must not change.

  Older versions also saved how the model's CoDA layers compute, and lacked the
  fields of later ones, which then have their defaults.
  """

  def as_now(coda: Mapping[str, Any]) -> dict[str, Any]:
    fields = model_folder.coda_to_dict(model_folder.coda_from_dict(coda))
    return json.loads(json.dumps(fields))  # Lists for tuples, as it was saved.

  return {
    name: as_now(value) if name.endswith(".coda") and value else value
    for name, value in saved.items()
  }


def read_config(path: str | os.PathLike[str]) -> Conditional:
  """The shape of the model that is trained.

  Raises:
    FileNotFoundError: the description is missing.
    ValueError: it is damaged, or not that of a coda_jax run.
  """
  return _config(_read_about(path), path)


def is_whole(path: str | os.PathLike[str]) -> bool:
  """Whether every leaf is trained: then the folder has the whole model.

  Raises:
    FileNotFoundError, ValueError: damaged arrays; see also `read_config`.
  """
  config = read_config(path)
  return not _expected(config).keys() - _trained(path).keys()


def read(
  path: str | os.PathLike[str], backbone_path: str | os.PathLike[str] | None
) -> tuple[Conditional, dict[str, Leaf]]:
  """Reads the shape of a run's model, and its leaves by parameter path.

  Args:
    path: a folder `checkpoints/N`.
    backbone_path: the run's INITIAL_CHECKPOINT_PATH, of any format; not looked
      at where all leaves were trained.

  Raises:
    FileNotFoundError: a part of it is missing.
    ValueError: files that are damaged, or another backbone.
  """
  about = _read_about(path)
  config, trained = read_trained(path)
  expected = _expected(config)
  frozen = {}
  if missing := expected.keys() - trained.keys():
    _, backbone = formats.read(backbone_path)
    dtype = about["run"].get("frozen_dtype", "float32")
    frozen = {
      name: backbone[name].astype(dtype) for name in missing & backbone.keys()
    }
  leaves.check({**frozen, **trained}, expected, str(path))
  if frozen:
    sums = {
      name: checksums.of_array(leaf.read()) for name, leaf in frozen.items()
    }
    if checksums.of_sums(sums) != about["run"].get(FROZEN):
      raise ValueError(
        f"{path} was trained on another model than {backbone_path}: the frozen "
        "leaves differ; use the INITIAL_CHECKPOINT_PATH of the run"
      )
  return config, {**frozen, **trained}


def read_trained(
  path: str | os.PathLike[str],
) -> tuple[Conditional, dict[str, Leaf]]:
  """Reads the shape of a run's model, and the leaves that are trained.

  Args:
    path: a folder `checkpoints/N`.

  Raises:
    FileNotFoundError: a part of it is missing.
    ValueError: files that are damaged.
  """
  about = _read_about(path)
  trained = {}
  for name, leaf in _trained(path).items():
    with files.naming(f"{path}: its checksums"):
      saved = about["checksums"][f"trained/{name}"]
    trained[name] = leaves.checked(
      leaf, saved, f"{path}: {name}", "take another checkpoint"
    )
  return _config(about, path), trained


def read_frozen_checksum(path: str | os.PathLike[str]) -> int:
  """The checksum of the leaves that the run leaves frozen.

  Raises:
    FileNotFoundError, ValueError: see `read_config`.
  """
  run = _read_about(path)["run"]
  with files.naming(path):
    return int(run[FROZEN])


def _read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
  file = pathlib.Path(path) / t5x_orbax.CHECKPOINT_FILE
  about = files.read_json(file).get("custom_metadata") or {}
  if not {"run", "checksums"} <= about.keys():
    raise ValueError(
      f"{file} does not describe the trained leaves: it is not a checkpoint of "
      "coda_jax.train, or was written by an older version. Resume its run to "
      "get its model/ or adapter/"
    )
  return about


def _config(
  about: Mapping[str, Any], path: str | os.PathLike[str]
) -> Conditional:
  for family in backbones.families():
    prefix = f"{family.config.__name__}."
    fields = {
      name.removeprefix(prefix): value
      for name, value in about["run"].items()
      if name.startswith(prefix)
    }
    if fields:
      with files.naming(path):
        return model_folder.config_from_dict(family.config, fields)
  raise ValueError(f"{path} does not describe a model of {backbones.names()}")


def _expected(config: Conditional) -> dict[str, Any]:
  return params_lib.flatten(initialise.abstract_params(backbones.build(config)))


def _trained(path: str | os.PathLike[str]) -> dict[str, Leaf]:
  return t5x_orbax.read_part(pathlib.Path(path) / "default", "trained")
