"""The settings that results depend on; a file is resumed with the same only."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from coda_jax import params as params_lib
from coda_jax.checkpoints import files, leaves

Settings = Mapping[str, Any]


def path_for(results: pathlib.Path) -> pathlib.Path:
  """The settings of `x.jsonl` are in `x.settings.json`."""
  return results.with_suffix(".settings.json")


def check(results: pathlib.Path, now: Settings) -> None:
  """Checks that results were begun with these settings.

  Args:
    results: the file of results.
    now: the settings of the run that resumes it.

  Raises:
    ValueError: a setting differs; the message names the first one.
  """
  now = json.loads(json.dumps(now))  # JSON turns tuples into lists.
  before = {}
  if path_for(results).exists():
    before = files.read_json(path_for(results))
  for name in {**before, **now}:
    if before.get(name) != now.get(name):
      raise ValueError(
        f"{results} was started with {name} = {before.get(name)!r}, but it is "
        f"{now.get(name)!r} now; use the original value, choose another "
        "INFER_OUTPUT_DIR, or remove that file to start over"
      )


def of_model(model: nn.Module, params: params_lib.Params) -> str:
  """A SHA-256 over a model's shape and all its parameters.

  The path of a checkpoint would not identify its content. The digest is that of
  adapters, over all leaves, so results of earlier versions can be resumed.
  """
  digest = leaves.digest(leaves.leaves_of(params))
  return hashlib.sha256(f"{model.config} {digest}".encode()).hexdigest()


def of_vocabulary(vocabulary: Any) -> str:
  """A text that identifies a seqio vocabulary by its content, not its path."""
  pieces = getattr(vocabulary, "digest", None)  # of a tokenizer.json
  if pieces is None:
    pieces = hashlib.sha256(getattr(vocabulary, "sp_model", b"")).hexdigest()
  mark = getattr(vocabulary, "mark", "")  # for line breaks
  return f"{type(vocabulary).__name__}{mark} {vocabulary.vocab_size} {pieces}"
