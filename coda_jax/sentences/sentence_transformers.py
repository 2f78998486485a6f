"""Folders of sentence-transformers: their settings and small modules.

Needs neither torch nor sentence-transformers. `read` gives all that follows
the transformer; the transformer itself is a Hugging Face model folder.
"""

import json
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from coda_jax import backbones
from coda_jax.checkpoints import files
from coda_jax.data import text_settings
from coda_jax.sentences import module_files, pooling
from coda_jax.sentences.sentence_encoder import (
  Normalize,
  Pooling,
  SentenceEncoder,
)

MODULES_FILE = "modules.json"
MODEL_FILE = "config_sentence_transformers.json"
_PACKAGE = "sentence_transformers"

# Flags of older pooling configurations, in the order of `pooling.MODES`.
_FLAGS = {
  "pooling_mode_cls_token": "cls",
  "pooling_mode_max_tokens": "max",
  "pooling_mode_mean_tokens": "mean",
  "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
  "pooling_mode_weightedmean_tokens": "weightedmean",
  "pooling_mode_lasttoken": "lasttoken",
}


def read(
  folder: str | os.PathLike[str],
) -> tuple[SentenceEncoder, dict[str, dict[str, np.ndarray]]]:
  """Reads a sentence-transformers folder, but for its transformer.

  A folder without `modules.json` is taken for a plain transformer, whose
  sentence embedding is the mean of its tokens; a warning says so.

  Args:
    folder: with `modules.json`, and a `config.json` of the transformer.

  Returns:
    (encoder, {name of a module: {name of a parameter: float32 array}}).

  Raises:
    FileNotFoundError: the folder, or a file that `modules.json` asks for, is
      missing.
    ValueError: a file is damaged, or the model has a module, or a setting of
      one, that is not supported.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(f"{folder} is not a folder")
  entries = _read_entries(folder)
  if entries is None:
    warnings.warn(
      f"{folder} has no {MODULES_FILE}; its sentence embeddings are the mean "
      "of all tokens. To choose another pooling, save the model with "
      "sentence-transformers",
      stacklevel=2,
    )
    pool = Pooling(_plain_width(folder / "config.json"))
    transformer, modules, params = "", (), {}
  else:
    transformer = _read_transformer(folder, entries)
    pool, modules, params = _read_modules(folder, entries)
    _check_width(folder / transformer, pool)
  text_settings.check(folder / transformer)
  settings = text_settings.read(folder / transformer)
  encoder = SentenceEncoder(
    pooling=pool,
    modules=modules,
    transformer=transformer,
    max_length=settings.max_length,
    lower_case=settings.lower_case,
    **_read_model_settings(folder),
  )
  return encoder, params


def files_of(folder: str | os.PathLike[str]) -> list[str]:
  """The files that `read` needs besides the transformer's.

  Modules that `read` does not support count too.

  Args:
    folder: any model's folder, which may have none of them.

  Returns:
    Paths of files that are there, inside the folder.

  Raises:
    ValueError: `modules.json` is damaged, or names a file outside the folder.
  """
  folder = pathlib.Path(folder)
  source = folder / MODULES_FILE
  paths = []
  if source.exists():
    with files.naming(source):
      entries = json.loads(source.read_text())
      paths = [_inside(entry["path"]) for entry in entries]
  names = [MODULES_FILE, MODEL_FILE, *text_settings.FILES]
  # The first module is the transformer; those of "" have no files of their own.
  names += [
    f"{path}/{name}"
    for path in paths[1:]
    if path
    for name in ("config.json", module_files.WEIGHTS_FILE)
  ]
  return [name for name in names if (folder / name).is_file()]


def _read_entries(folder: pathlib.Path) -> list[tuple[str, str, str]] | None:
  """The (class, path, name) of the modules by idx; None without the file."""
  source = folder / MODULES_FILE
  if not source.exists():
    return None
  try:
    entries = json.loads(source.read_text())
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{source} is not valid JSON: {error}") from error
  with files.naming(source):
    if not isinstance(entries, list) or not entries:
      raise ValueError("expected a list of modules")
    if len({entry["idx"] for entry in entries}) != len(entries):
      raise ValueError("two modules have the same idx")
    ordered = sorted(entries, key=lambda entry: entry["idx"])
    return [
      (_class_name(entry["type"]), _inside(entry["path"]), str(entry["idx"]))
      for entry in ordered
    ]


def _class_name(path: str) -> str:
  """The last part of a class path: the parts before it changed over time."""
  package, _, rest = path.partition(".")
  if package != _PACKAGE or not rest:
    raise ValueError(
      f"the module {path} is code of the model's own, which is not run; only "
      f"modules of {_PACKAGE} are supported"
    )
  return rest.rpartition(".")[-1]


def _inside(path: str) -> str:
  parts = pathlib.PurePosixPath(path)
  if parts.is_absolute() or ".." in parts.parts or "\\" in path or ":" in path:
    raise ValueError(f"path {path!r} leaves the model's folder")
  return "" if str(parts) == "." else str(parts)


def _read_transformer(
  folder: pathlib.Path, entries: list[tuple[str, str, str]]
) -> str:
  kind, path, _ = entries[0]
  if kind != "Transformer":
    raise ValueError(
      f"{folder / MODULES_FILE}: the first module is {kind}; only Transformer "
      "is supported"
    )
  return path


def _read_modules(
  folder: pathlib.Path, entries: list[tuple[str, str, str]]
) -> tuple[Pooling, tuple[Any, ...], dict[str, dict[str, np.ndarray]]]:
  """The modules after the transformer, and their parameters."""
  source = folder / MODULES_FILE
  if len(entries) < 2 or entries[1][0] != "Pooling":
    found = entries[1][0] if len(entries) > 1 else "nothing"
    raise ValueError(
      f"{source}: the transformer is followed by {found}; only Pooling is "
      "supported there"
    )
  pool = _read_pooling(folder / entries[1][1])
  width, modules, params = pool.out_dim, [], {}
  for kind, path, name in entries[2:]:
    place = folder / path
    if kind == "Dropout":  # It does nothing once the model is trained.
      continue
    elif kind == "Normalize":
      # Git keeps no empty folder, so that this one is often lost.
      config = place / "config.json"
      module_files.check_names(
        config, files.read_json(config) if config.exists() else {}
      )
      modules.append(Normalize(width))
    elif kind == "Dense":
      module, params[name] = module_files.read_dense(place, name, width)
      modules.append(module)
    elif kind == "LayerNorm":
      module, params[name] = module_files.read_layer_norm(place, name, width)
      modules.append(module)
    else:
      raise ValueError(
        f"{source}: the module {kind} is not supported after Pooling; only "
        "Dense, Normalize, LayerNorm and Dropout are"
      )
    width = modules[-1].out_dim
  return pool, tuple(modules), params


def _read_pooling(place: pathlib.Path) -> Pooling:
  source = place / "config.json"
  fields = files.read_json(source)
  with files.naming(source):
    old = "word_embedding_dimension"
    name = "embedding_dimension" if "embedding_dimension" in fields else old
    include_prompt = fields.get("include_prompt", True)
    if not isinstance(include_prompt, bool):
      raise ValueError(
        f"include_prompt is {include_prompt!r}; expected true or false"
      )
    return Pooling(
      text_settings.positive(fields, name), _modes(fields), include_prompt
    )


def _modes(fields: Mapping[str, Any]) -> tuple[str, ...]:
  modes = fields.get("pooling_mode")
  if modes is None:
    flags = {k: v for k, v in fields.items() if k.startswith("pooling_mode_")}
    if unknown := [k for k in flags if k not in _FLAGS and flags[k]]:
      raise ValueError(
        f"{', '.join(unknown)} is not supported; expected {', '.join(_FLAGS)}"
      )
    return tuple(m for flag, m in _FLAGS.items() if flags.get(flag)) or (
      "mean",
    )
  modes = (modes,) if isinstance(modes, str) else tuple(modes)
  if not modes or not set(modes) <= set(pooling.MODES):
    raise ValueError(
      f"pooling_mode is {fields['pooling_mode']!r}; expected one or more of "
      f"{pooling.MODES}"
    )
  return modes


def _plain_width(source: pathlib.Path) -> int:
  """The width that a model's `config.json` has, Hugging Face's or ours."""
  fields = files.read_json(source)
  with files.naming(source):
    for family in backbones.names():
      if "format" in fields and family in fields:
        return text_settings.positive(fields[family], "emb_dim")
    name = "d_model" if "d_model" in fields else "hidden_size"
    return text_settings.positive(fields, name)


def _check_width(folder: pathlib.Path, pool: Pooling) -> None:
  path = folder / "config.json"
  width = files.read_json(path).get("hidden_size") if path.exists() else None
  if width not in (None, pool.dim):
    raise ValueError(
      f"{path}: hidden_size is {width}, but the model's pooling expects "
      f"{pool.dim}; get the model again"
    )


def _read_model_settings(folder: pathlib.Path) -> dict[str, Any]:
  """The fields of `SentenceEncoder` that the model's own file holds."""
  source = folder / MODEL_FILE
  if not source.exists():
    return {}
  fields = files.read_json(source)
  kind = fields.get("model_type", "SentenceTransformer")
  if kind != "SentenceTransformer":
    raise ValueError(
      f"{source}: the model is a {kind}; only a SentenceTransformer is "
      "supported"
    )
  with files.naming(source):
    prompts = {
      name: "" if text is None else text
      for name, text in (fields.get("prompts") or {}).items()
    }
    if wrong := [n for n, text in prompts.items() if not isinstance(text, str)]:
      raise ValueError(f"the prompts {wrong} are not texts")
    default = fields.get("default_prompt_name")
    if default is not None and default not in prompts:
      raise ValueError(
        f"default_prompt_name is {default!r}; expected one of {list(prompts)}"
      )
    truncate_dim = fields.get("truncate_dim")
    if truncate_dim is not None:
      truncate_dim = text_settings.positive(fields, "truncate_dim")
    return {
      "prompts": prompts,
      "default_prompt_name": default,
      "truncate_dim": truncate_dim,
      "similarity": fields.get("similarity_fn_name"),
    }
