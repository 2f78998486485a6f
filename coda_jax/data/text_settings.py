"""What a sentence-transformers folder says of texts, such as their length."""

import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

from coda_jax.checkpoints import files

# The first that exists is read; all but the first are of early versions.
FILES = (
  "sentence_bert_config.json",
  "sentence_roberta_config.json",
  "sentence_distilbert_config.json",
  "sentence_camembert_config.json",
  "sentence_albert_config.json",
  "sentence_xlm-roberta_config.json",
  "sentence_xlnet_config.json",
)
# Models whose positions start after the padding's id.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert")
# `tokenizer_config.json` may hold a number such as 1e30 for no limit.
_NO_LIMIT = 10**6
# Settings of the tokenizer whose loss changes nothing.
_HARMLESS_TOKENIZER_SETTINGS = ("model_max_length", "padding_side", "use_fast")


class TextSettings(NamedTuple):
  """How a folder wants its texts.

  Attributes:
    max_length: tokens of the longest text, special tokens included; None if
      nothing says so.
    lower_case: whether texts are put in lower case before the tokenizer.
  """

  max_length: int | None
  lower_case: bool


def read(folder: str | os.PathLike[str]) -> TextSettings:
  """Reads how long texts may be, and whether they are put in lower case.

  The length is the one that sentence-transformers saved, or else the
  tokenizer's own; but no more than the transformer has positions.

  Args:
    folder: of the transformer and the tokenizer. Each file may be missing.

  Raises:
    ValueError: a file is damaged.
  """
  folder = pathlib.Path(folder)
  path, fields = _read_fields(folder)
  with files.naming(path):
    tokenizer = fields.get("tokenizer_args") or fields.get("processor_kwargs")
    tokenizer = tokenizer or {}
    if unused := set(tokenizer).difference(_HARMLESS_TOKENIZER_SETTINGS):
      warnings.warn(
        f"{path}: these settings of the tokenizer are not used: "
        f"{sorted(unused)}; tokenizer.json alone decides",
        stacklevel=2,
      )
    lower_case = fields.get("do_lower_case") or False
    if not isinstance(lower_case, bool):
      raise ValueError(
        f"do_lower_case is {lower_case!r}; expected true or false"
      )
    saved = _limit(tokenizer, "model_max_length")
    saved = saved or _limit(fields, "max_seq_length")
  if saved is None:
    path = folder / "tokenizer_config.json"
    with files.naming(path):
      fields = files.read_json(path) if path.exists() else {}
      saved = _limit(fields, "model_max_length")
  limits = [n for n in (saved, _num_positions(folder)) if n is not None]
  return TextSettings(min(limits, default=None), lower_case)


def check(folder: str | os.PathLike[str]) -> None:
  """Refuses settings under which the hidden states of a text would be others.

  Args:
    folder: of the transformer.

  Raises:
    ValueError: the transformer is not used as a plain encoder of texts, or the
      file is damaged.
  """
  path, fields = _read_fields(pathlib.Path(folder))
  with files.naming(path):
    expected = {
      "transformer_task": "feature-extraction",
      "module_output_name": "token_embeddings",
      "query_length": None,
      "document_length": None,
      "query_expansion": None,
    }
    for key, value in expected.items():
      if fields.get(key) not in (None, value):
        raise ValueError(
          f"{key} is {fields[key]!r}; only {value!r} is supported"
        )
    modalities = fields.get("modality_config")
    if modalities is not None:
      text = modalities.get("text")
      plain = {"method": "forward", "method_output_name": "last_hidden_state"}
      if text is None or {key: text.get(key) for key in plain} != plain:
        raise ValueError(
          f"modality_config of text is {text!r}; only {plain!r} is supported"
        )
    processing = fields.get("processing_kwargs") or {}
    if used := {k: v for k, v in processing.items() if k in ("text", "common")}:
      raise ValueError(f"processing_kwargs {used!r} are not supported")


def _read_fields(folder: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
  """The settings' file and what it holds; {} without one."""
  for name in FILES:
    if (folder / name).exists():
      return folder / name, files.read_json(folder / name)
  return folder / FILES[0], {}


def _num_positions(folder: pathlib.Path) -> int | None:
  """How many tokens the transformer has positions for; None if not known."""
  path = folder / "config.json"
  if not path.exists():
    return None
  fields = files.read_json(path)
  with files.naming(path):
    positions = _limit(fields, "max_position_embeddings")
    if positions is None or fields.get("model_type") not in _OFFSET_POSITIONS:
      return positions
    return positions - fields.get("pad_token_id", 1) - 1


def _limit(fields: Mapping[str, Any], name: str) -> int | None:
  """A number of tokens; None if absent, or so large that it means no limit."""
  value = fields.get(name)
  if value is None or (isinstance(value, int | float) and value > _NO_LIMIT):
    return None
  return positive(fields, name)


def positive(fields: Mapping[str, Any], name: str) -> int:
  """A value that has to be a positive whole number.

  Raises:
    KeyError: it is absent.
    ValueError: it is something else.
  """
  value = fields[name]
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError(f"{name} is {value!r}; expected a positive whole number")
  return value
