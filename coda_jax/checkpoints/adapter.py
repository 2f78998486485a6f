"""Adapters as small folders: a task's own parameters, without the backbone.

`adapter_model.safetensors` holds the leaves that `params.TASK_PATTERNS` names;
`adapter_config.json` says how they were made, and has a fingerprint of the
backbone that they were trained on. It may name that backbone too, as PEFT's
does; such a folder can be read as a whole model, see `formats.read`.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from coda_jax import backbones, initialise
from coda_jax import params as params_lib
from coda_jax.checkpoints import described, files, kinds, model_folder, tensors
from coda_jax.checkpoints import leaves as leaves_lib
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.nn.config import Conditional

CONFIG_FILE = kinds.ADAPTER_CONFIG_FILE
WEIGHTS_FILE = "adapter_model.safetensors"
_BASE_MODEL = "base_model_name_or_path"


def fingerprint(leaves: Mapping[str, Leaf]) -> str:
  """A SHA-256 over the frozen leaves of a task, read one at a time.

  It hashes their bfloat16 values, so a backbone stored in bfloat16 has the same
  fingerprint as its float32 original. Every adapter file contains one;
  `checksums` explains the other sums.
  """
  return leaves_lib.digest(
    {
      path: leaf.astype(jnp.bfloat16)
      for path, leaf in leaves.items()
      if not params_lib.matches(path, params_lib.TASK_PATTERNS)
    }
  )


def backbone_fingerprint(params: params_lib.Params) -> str:
  """The `fingerprint` of parameters in memory."""
  return fingerprint(leaves_lib.leaves_of(params))


def save_adapter(
  path: str | os.PathLike[str],
  model: nn.Module,
  params: params_lib.Params,
  *,
  backbone: str | None = None,
  base_model: str | os.PathLike[str] | None = None,
) -> None:
  """Writes a task's own parameters: adapters, routers, LoRA, norms and head.

  Args:
    path: a folder, made if it does not exist; an adapter in it is replaced.
    model: the model that was trained; its config has `coda`.
    params: its parameters, backbone included.
    backbone: their `backbone_fingerprint`, if known; None hashes the backbone.
    base_model: the folder or name that the backbone was read from. With it,
      `load_pretrained` reads the adapter's folder.

  Raises:
    FileExistsError: the folder holds a model.
    ValueError: the model has no adapter, or the parameters are not its own.
  """
  if model.config.coda is None:
    raise ValueError(
      f"the model is a plain {backbones.of(model.config).title} without an "
      f"adapter: {type(model.config).__name__}.coda is None; "
      "use checkpoints.model_folder.save_model"
    )
  leaves = leaves_lib.leaves_of(params)
  leaves_lib.check(owned(leaves), _wanted(model), "params")
  write(path, model.config, leaves, backbone=backbone, base_model=base_model)


def owned(leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
  """The leaves of a whole model that its task owns, as an adapter has them."""
  return {
    name: leaf.astype(jnp.float32)
    for name, leaf in leaves.items()
    if params_lib.matches(name, params_lib.TASK_PATTERNS)
  }


def write(
  path: str | os.PathLike[str],
  config: Conditional,
  leaves: Mapping[str, Leaf],
  *,
  backbone: str | None = None,
  base_model: str | os.PathLike[str] | None = None,
) -> None:
  """Writes an adapter folder from {parameter path: Leaf} of a whole model.

  Args:
    path: see `save_adapter`.
    config: of the model, with `coda`.
    leaves: of the model.
    backbone: their `fingerprint`, if known; None computes it.
    base_model: see `save_adapter`.
  """
  folder = pathlib.Path(path)
  kinds.check_replaces(folder, "adapter")
  head = config.head_fields
  described.write(
    folder / WEIGHTS_FILE,
    folder / CONFIG_FILE,
    owned(leaves),
    {
      "format": model_folder.FORMAT,
      "peft_type": "CODA",
      "method": config.coda.method,
      "coda": model_folder.coda_to_dict(config.coda),
      **({"head": head} if head else {}),
      "backbone": backbone or fingerprint(leaves),
      **({_BASE_MODEL: os.fspath(base_model)} if base_model else {}),
    },
  )


def load_adapter(
  path: str | os.PathLike[str], model: nn.Module, params: params_lib.Params
) -> tuple[nn.Module, dict[str, Any]]:
  """Puts an adapter on the backbone that it was trained on.

  Args:
    path: a folder that `save_adapter` wrote.
    model: the backbone's model.
    params: the backbone's parameters; adapter leaves in them are replaced.

  Returns:
    (model, params) with the adapter, its `CodaConfig` and its head, if it has
    one. To run it at another r, replace that of `model.config.coda`.

  Raises:
    FileNotFoundError: a file of the folder is missing.
    ValueError: another backbone, leaves that do not fit the model, or a leaf
      that is not what was saved.
  """
  # First, since the fingerprint of a large backbone takes a while.
  fields = read_config(path)
  backbone = backbone_fingerprint(params)
  model, trained = read_trained(path, fields, model, backbone)
  _, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  return model, params_lib.merge(trained, frozen)


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The values of an adapter folder's `adapter_config.json`.

  Raises:
    FileNotFoundError: the file or the weights are missing.
    ValueError: not JSON, another library's adapter, or a folder that also
      holds a model.
  """
  folder = pathlib.Path(path)
  file = folder / CONFIG_FILE
  if not file.exists():
    raise FileNotFoundError(
      f"{file} does not exist; expected an adapter folder, with "
      f"{CONFIG_FILE} and {WEIGHTS_FILE}"
    )
  kinds.find_one(folder)
  kind = files.read_json(file).get("peft_type")
  if kind != "CODA":  # Before its weights, which have another name.
    raise ValueError(
      f"{file} has peft_type {kind!r}; expected 'CODA', an adapter of "
      "coda_jax.save_adapter"
    )
  fields = described.read(folder / WEIGHTS_FILE, file)
  with files.naming(file):
    model_folder.coda_from_dict(fields["coda"])
    dict(fields.get("head", {}))
    if not isinstance(fields["backbone"], str):
      raise TypeError(f"backbone is {fields['backbone']!r}; expected a hash")
  return fields


def base_model_of(
  path: str | os.PathLike[str], fields: Mapping[str, Any]
) -> str:
  """The folder or name of the model that an adapter was trained on.

  Args:
    path: a folder that `save_adapter` wrote, for messages.
    fields: its `read_config`.

  Raises:
    FileNotFoundError: the adapter does not name it.
  """
  base = fields.get(_BASE_MODEL)
  if not isinstance(base, str):
    raise FileNotFoundError(
      f"{path} holds an adapter that does not name its model; pass the "
      "pretrained model that it was trained on, and add the adapter with "
      "load_adapter"
    )
  return base


def read_trained(
  path: str | os.PathLike[str],
  fields: Mapping[str, Any],
  model: nn.Module,
  backbone: str,
) -> tuple[nn.Module, dict[str, Any]]:
  """The model and the parameters that an adapter folder adds to a backbone.

  Args:
    path: a folder that `save_adapter` wrote.
    fields: its `read_config`.
    model: the backbone's model.
    backbone: the `fingerprint` of its parameters.

  Returns:
    (model, trained): the model has the adapter's `CodaConfig` and head; trained
    is the tree of its task's own parameters.

  Raises:
    FileNotFoundError: the weights are missing.
    ValueError: another backbone, leaves that do not fit the model, or a leaf
      that is not what was saved.
  """
  leaves = read_leaves(path, fields, backbone)
  model = backbones.build(configured(path, fields, model.config))
  leaves_lib.check_dtypes(leaves, str(path))
  leaves_lib.check(leaves, _wanted(model), str(path))
  return model, params_lib.unflatten(
    {name: jnp.asarray(leaf.read()) for name, leaf in leaves.items()}
  )


def configured(
  path: str | os.PathLike[str], fields: Mapping[str, Any], config: Conditional
) -> Conditional:
  """A backbone's configuration with an adapter's `CodaConfig` and head.

  Args:
    path: a folder that `save_adapter` wrote, for messages.
    fields: its `read_config`.
    config: of the backbone.

  Raises:
    ValueError: such a backbone can't have them.
  """
  with files.naming(pathlib.Path(path) / CONFIG_FILE):
    return dataclasses.replace(
      config,
      coda=model_folder.coda_from_dict(fields["coda"]),
      **fields.get("head", config.without_head()),
    )


def read_leaves(
  path: str | os.PathLike[str], fields: Mapping[str, Any], backbone: str
) -> dict[str, Leaf]:
  """An adapter folder's leaves, not checked against a model.

  Args:
    path: a folder that `save_adapter` wrote.
    fields: its `read_config`.
    backbone: the `fingerprint` of the backbone's parameters.

  Raises:
    FileNotFoundError: the weights are missing.
    ValueError: another backbone.
  """
  if fields["backbone"] != backbone:
    raise ValueError(
      f"{path} was trained on another backbone: fingerprint "
      f"{fields['backbone'][:12]}..., this one's is {backbone[:12]}...; load "
      "the pretrained model that it was trained on"
    )
  return tensors.read(pathlib.Path(path) / WEIGHTS_FILE)


def _wanted(model: nn.Module) -> dict[str, Any]:
  """The abstract leaves that a task of the model owns."""
  wanted, _ = params_lib.split(
    initialise.abstract_params(model), params_lib.TASK_PATTERNS
  )
  return params_lib.flatten(wanted)
