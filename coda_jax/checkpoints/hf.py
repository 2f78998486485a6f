"""Hugging Face folders: `config.json` and safetensors, both ways.

Needs neither torch nor transformers. The families of `backbones` know what is
in the files.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

from coda_jax import backbones
from coda_jax.checkpoints import files, kinds, tensors
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.nn.config import Conditional

CONFIG_FILE = kinds.CONFIG_FILE
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = kinds.HF_INDEX_FILE
SHARD_BYTES = 5 * 10**9
# Parts of the names of a model that PEFT wraps.
_PEFT = ("base_model.model.", ".base_layer.", ".lora_A.", ".lora_B.")


def read(
  folder: str | os.PathLike[str],
) -> tuple[Conditional, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  Args:
    folder: with `config.json` and `model.safetensors`, or its shards.

  Returns:
    (config, {parameter path: Leaf}). Leaves of a head that the model does not
    have are what such a head can start from.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a model of no known family, or a damaged file.
  """
  folder = pathlib.Path(folder)
  fields = files.read_json(folder / CONFIG_FILE)
  family = _family(fields, folder / CONFIG_FILE)
  # transformers' class, where the file names it.
  named = fields.get("architectures") or [family.hf.TRANSFORMERS_CLASS]
  found = _read_tensors(folder, str(named[0]))
  if wrapped := [n for n in found if any(part in n for part in _PEFT)]:
    raise ValueError(
      f"{folder} is a model that PEFT wraps ({wrapped[0]}, ...); load it with "
      "PEFT, call merge_and_unload() and save_pretrained(), and use that folder"
    )
  return family.hf.read(fields, found, folder)


def _family(fields: Mapping[str, Any], source: Any) -> backbones.Backbone:
  """The family that a `config.json` names."""
  model_type, known = fields.get("model_type"), []
  for family in backbones.families():
    if family.hf is not None:
      if model_type in family.hf.MODEL_TYPES:
        return family
      known += family.hf.MODEL_TYPES
  raise ValueError(
    f"{source}: model_type is {model_type!r}; expected one of {tuple(known)}"
  )


def write(
  folder: str | os.PathLike[str],
  config: Conditional,
  leaves: Mapping[str, Leaf],
  *,
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes what transformers' `from_pretrained` reads.

  Args:
    folder: a new one, or empty.
    config: the model's shape.
    leaves: {parameter path: Leaf}, without adapters and routers.
    shard_bytes: size that a file of weights may have.

  Raises:
    FileExistsError: the folder holds something.
    ValueError: leaves or settings that Hugging Face's model does not have.
  """
  folder = pathlib.Path(folder)
  files.check_new(folder)
  fields, renamed = convert(config, leaves)
  parts = tensors.shards(renamed, shard_bytes)
  metadata = {"format": "pt"}  # What transformers asks for.
  if len(parts) == 1:
    tensors.write(folder / WEIGHTS_FILE, renamed, metadata=metadata)
  else:
    places = {}
    for number, part in enumerate(parts, 1):
      file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
      tensors.write(folder / file, part, metadata=metadata)
      places |= dict.fromkeys(part, file)
    total = sum(leaf.nbytes for leaf in renamed.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    files.write_json(folder / INDEX_FILE, index)
  files.write_json(folder / CONFIG_FILE, fields)


def convert(
  config: Conditional, leaves: Mapping[str, Leaf]
) -> tuple[dict[str, Any], dict[str, Leaf]]:
  """The fields of `config.json`, and {name: Leaf} of the files.

  Raises:
    ValueError: leaves or settings that Hugging Face's model does not have.
  """
  family = backbones.of(config)
  if family.hf is None:
    raise ValueError(f"{family.title} has no Hugging Face format here")
  return family.hf.write(config, leaves, _dtype_name(leaves))


def _read_tensors(folder: pathlib.Path, kind: str) -> dict[str, Leaf]:
  single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
  if single.exists() and index.exists():
    raise ValueError(
      f"{folder} has both {WEIGHTS_FILE} and {INDEX_FILE}; remove the one that "
      "does not belong to this model"
    )
  if single.exists():
    return tensors.read(single)
  if not index.exists():
    raise FileNotFoundError(_missing_weights(folder, kind))
  places = files.read_json(index).get("weight_map")
  if not isinstance(places, dict) or not places:
    raise ValueError(f"{index} has no weight_map of tensors to files")
  if not all(isinstance(file, str) for file in places.values()):
    raise ValueError(f"{index}: weight_map should map tensors to files' names")
  shards = {}
  for file in sorted(set(places.values())):
    # Nothing outside the folder, whatever the index says.
    if pathlib.PurePath(file).name != file or file in ("", ".", ".."):
      raise ValueError(
        f"{index} names the file {file!r}; expected names without a folder"
      )
    if not (folder / file).is_file():
      raise FileNotFoundError(
        f"{folder / file} does not exist, though {index.name} names it; get "
        "the missing shard"
      )
    shards[file] = tensors.read(folder / file)
  absent = [n for n, file in places.items() if n not in shards[file]]
  extra = [n for file in shards for n in shards[file] if places.get(n) != file]
  if absent or extra:
    raise ValueError(
      f"{index} and its files disagree; not in the files: {absent}; not in the "
      f"index: {extra}; get the checkpoint again"
    )
  return {name: shards[file][name] for name, file in places.items()}


def _missing_weights(folder: pathlib.Path, kind: str) -> str:
  message = f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}"
  pickles = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
  if not pickles:
    return message
  return (
    f"{message}, only {', '.join(pickles)}, which is a pickle and never opened "
    "here. Where you trust the file, turn it into safetensors with\n"
    f'  python -c "from transformers import {kind} as T; '
    f"T.from_pretrained('{folder}')"
    f".save_pretrained('{folder}-safetensors')\""
  )


def _dtype_name(leaves: Mapping[str, Leaf]) -> str:
  names = {leaf.dtype.name for leaf in leaves.values()}
  return names.pop() if len(names) == 1 else "float32"
