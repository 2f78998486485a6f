"""What kinds of checkpoint a folder holds, told from the files in it."""

import os
import pathlib
from typing import Any

from coda_jax.checkpoints import files, t5x

CONFIG_FILE = "config.json"
ADAPTER_CONFIG_FILE = "adapter_config.json"
HF_INDEX_FILE = "model.safetensors.index.json"


def find(folder: Any) -> list[str]:
  """The kinds in a folder, a path or in a bucket.

  Returns:
    Of "adapter", "coda_jax", "hf" and "t5x", those that are there.

  Raises:
    OSError: a bucket that can't be reached.
    ValueError: a damaged `config.json`, or one of another library's.
  """
  found = ["t5x"] if t5x.find_layout(folder) else []
  path = pathlib.Path(folder)
  if (path / ADAPTER_CONFIG_FILE).exists():
    found.append("adapter")
  config = path / CONFIG_FILE
  if not config.exists():
    return found
  fields = files.read_json(config)
  kinds = [
    kind
    for kind, key in (("coda_jax", "format"), ("hf", "model_type"))
    if key in fields
  ]
  if len(kinds) != 1:
    raise ValueError(
      f"{config} should have either 'format', as coda_jax writes it, or "
      f"'model_type', as Hugging Face's; it has {sorted(fields)}"
    )
  if kinds == ["coda_jax"] and (path / HF_INDEX_FILE).exists():
    kinds.append("hf")
  return kinds + found


def find_one(folder: Any) -> str | None:
  """The kind of a folder's one checkpoint, None if there is none.

  Raises:
    ValueError: there are several.
  """
  found = find(folder)
  if len(found) > 1:
    raise ValueError(
      f"{folder} holds several checkpoints, of the kinds "
      f"{' and '.join(found)}; keep each in a folder of its own"
    )
  return found[0] if found else None


def check_replaces(folder: str | os.PathLike[str], kind: str) -> None:
  """Refuses to write a checkpoint beside one of another kind.

  Raises:
    FileExistsError: naming it.
  """
  if other := [found for found in find(folder) if found != kind]:
    raise FileExistsError(
      f"{folder} holds a checkpoint of the kind {' and '.join(other)}; write "
      f"one of the kind {kind} to another folder"
    )
