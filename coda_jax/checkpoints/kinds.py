"""The kinds of checkpoint in a folder, told apart by its files."""

import os
import pathlib
from typing import Any

from coda_jax.checkpoints import files, t5x

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
HF_INDEX_FILE = "model.safetensors.index.json"


def find(folder: Any) -> list[str]:
  """The kinds of checkpoint in a local folder or one in a bucket.

  Returns:
    A list of "adapter", "coda_jax", "hf" and "t5x".

  Raises:
    OSError: a bucket can't be reached.
    ValueError: a damaged `config.json`, or one of another library.
  """
  others = ["t5x"] if t5x.find_layout(folder) else []
  path = pathlib.Path(folder)
  if (path / ADAPTER_CONFIG_FILE).exists():
    others.append("adapter")
  config = path / CONFIG_FILE
  if not config.exists():
    return others
  fields = files.read_json(config)
  kinds = [
    kind
    for kind, key in (("coda_jax", "format"), ("hf", "model_type"))
    if key in fields
  ]
  if len(kinds) != 1:
    raise ValueError(
      f"{config} has the fields {sorted(fields)}; expected either 'format' "
      "(written by coda_jax) or 'model_type' (written by transformers)"
    )
  if kinds == ["coda_jax"] and (path / HF_INDEX_FILE).exists():
    kinds.append("hf")
  return kinds + others


def find_one(folder: Any) -> str | None:
  """The kind of the only checkpoint in a folder, None without one.

  Raises:
    ValueError: the folder has more than one, or an adapter of PEFT.
  """
  kinds = find(folder)
  if "adapter" in kinds:
    _check_ours(pathlib.Path(folder) / ADAPTER_CONFIG_FILE)
  if len(kinds) > 1:
    raise ValueError(
      f"{folder} contains more than one checkpoint ({' and '.join(kinds)}); "
      "keep one per folder"
    )
  return kinds[0] if kinds else None


def check_replaces(folder: str | os.PathLike[str], kind: str) -> None:
  """Refuses to write a checkpoint next to one of another kind.

  Raises:
    FileExistsError: the folder has another kind; the message names it.
  """
  if other := [one for one in find(folder) if one != kind]:
    raise FileExistsError(
      f"{folder} already contains a checkpoint of the kind "
      f"{' and '.join(other)}; write the {kind} checkpoint to another folder"
    )


def _check_ours(file: pathlib.Path) -> None:
  """Refuses an adapter of PEFT."""
  fields = files.read_json(file)
  kind = fields.get("peft_type")
  if isinstance(kind, str) and kind != "CODA":
    backbone = fields.get("base_model_name_or_path")
    of = f" for {backbone!r}" if backbone else ""
    raise ValueError(
      f"{file} has peft_type {kind!r}: an adapter of PEFT{of}; "
      "expected 'CODA', one of coda_jax.save_adapter. Merge it into "
      "its model with PEFT (merge_and_unload() and "
      "save_pretrained()), and load that folder"
    )
