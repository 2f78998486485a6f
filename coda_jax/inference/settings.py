"""What results depend on: a file of them goes on with the same alone."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from coda_jax import params as params_lib
from coda_jax.checkpoints import files, leaves
from coda_jax.t5.network import Transformer

Settings = Mapping[str, Any]


def path_for(results: pathlib.Path) -> pathlib.Path:
  """The settings of `x.jsonl` are in `x.settings.json`."""
  return results.with_suffix(".settings.json")


def check(results: pathlib.Path, now: Settings) -> None:
  """Checks that results were begun with these settings.

  Args:
    results: the file that has them.
    now: the settings of the run that is to go on.

  Raises:
    ValueError: naming the first setting that is another one.
  """
  now = json.loads(json.dumps(now))  # As JSON has them, without tuples.
  before = {}
  if path_for(results).exists():
    before = files.read_json(path_for(results))
  for name in {**before, **now}:
    if before.get(name) != now.get(name):
      raise ValueError(
        f"{results} was begun with {name} = {before.get(name)!r}, now it is "
        f"{now.get(name)!r}; choose another INFER_OUTPUT_DIR, or remove that "
        "file to start over"
      )


def of_model(model: Transformer, params: params_lib.Params) -> str:
  """A SHA-256 over a model's shape and all its parameters.

  The path of a checkpoint does not tell what is in it.
  """
  found = leaves.digest(leaves.leaves_of(params))
  return hashlib.sha256(f"{model.config} {found}".encode()).hexdigest()


def of_vocabulary(vocabulary: Any) -> str:
  """What tells one of seqio's vocabularies from another, not where it is."""
  pieces = hashlib.sha256(getattr(vocabulary, "sp_model", b"")).hexdigest()
  mark = getattr(vocabulary, "mark", "")  # for line breaks
  return f"{type(vocabulary).__name__}{mark} {vocabulary.vocab_size} {pieces}"
