"""Shows what a checkpoint or an adapter holds, or how two of them differ.

  python -m coda_jax.inspect runs/topic/adapter
  python -m coda_jax.inspect flan-t5-base/ runs/full/model

PATH is a folder of Hugging Face's, of t5x's or of coda_jax's, an adapter's
folder, or the name of a model that comes with the package. Arrays are read one
at a time. The exit code is 1 where two checkpoints differ.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from coda_jax import params as params_lib
from coda_jax.checkpoints import adapter, formats, model_folder, tensors
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.formatting import format_table

PROGRAM = "python -m coda_jax.inspect"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What is in a folder.

  Attributes:
    path: the folder.
    format: one of `formats.FORMATS`, or "adapter".
    method: that made it, in the words of configs/methods/.
    fields: its configuration, {name: value}.
    leaves: {parameter path: Leaf}.
    backbone: the fingerprint that an adapter names; None for a model.
  """

  path: str
  format: str
  method: str
  fields: Mapping[str, Any]
  leaves: Mapping[str, Leaf]
  backbone: str | None = None


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
  """Reads what a folder says of itself.

  Raises:
    FileNotFoundError: there is no checkpoint.
    ValueError: one that can't be read, saying why.
  """
  folder = formats.find_folder(path)
  if (pathlib.Path(folder) / adapter.CONFIG_FILE).exists():
    fields = adapter.read_config(folder)
    leaves = tensors.read(pathlib.Path(folder) / adapter.WEIGHTS_FILE)
    if not leaves:
      raise ValueError(f"{path}: {adapter.WEIGHTS_FILE} holds no leaf")
    coda = model_folder.coda_from_dict(fields["coda"])
    return Checkpoint(
      str(path),
      "adapter",
      coda.method,
      model_folder.coda_to_dict(coda),
      leaves,
      fields["backbone"],
    )
  config, leaves = formats.read(path)
  return Checkpoint(
    str(path),
    formats.detect(path),
    config.coda.method if config.coda else "none: a plain T5",
    model_folder.config_to_dict(config),
    leaves,
  )


def describe(found: Checkpoint) -> str:
  """The report on one checkpoint, of several lines."""
  rows = [("leaf", "shape", "dtype", "parameters", "task's own")]
  owned = 0
  for path, leaf in found.leaves.items():
    own = params_lib.matches(path, params_lib.TASK_PATTERNS)
    owned += leaf.size * own
    shape = " x ".join(map(str, leaf.shape)) or "scalar"
    mark = "yes" if own else ""
    rows.append((path, shape, leaf.dtype.name, f"{leaf.size:,}", mark))
  total = params_lib.count(found.leaves)
  size = sum(leaf.nbytes for leaf in found.leaves.values())
  facts = [
    ("format", found.format),
    ("method", found.method),
    ("parameters", f"{total:,} in {len(found.leaves)} leaves"),
    ("a task's own", f"{owned:,} ({owned / total:.2%})"),
    ("size", f"{size / 1e6:,.1f} MB"),
    ("backbone", found.backbone or adapter.fingerprint(found.leaves)),
    *((name, value) for name, value in found.fields.items()),
  ]
  width = max(len(name) for name, _ in facts)
  lines = [f"{name.ljust(width)}  {value}" for name, value in facts]
  return "\n".join([found.path, *lines, "", format_table(rows)])


def differences(a: Checkpoint, b: Checkpoint) -> Iterator[str]:
  """A line for everything in which two checkpoints differ."""
  if a.backbone != b.backbone:
    yield f"backbone: {a.backbone} and {b.backbone}"
  for name in {**a.fields, **b.fields}:
    values = [c.fields.get(name, "absent") for c in (a, b)]
    if values[0] != values[1]:
      yield f"config {name}: {values[0]} and {values[1]}"
  for path in {**a.leaves, **b.leaves}:
    if path not in a.leaves or path not in b.leaves:
      yield f"{path}: only in {(a if path in a.leaves else b).path}"
      continue
    one, two = a.leaves[path], b.leaves[path]
    if one.shape != two.shape:
      yield f"{path}: {one.shape} and {two.shape}"
      continue
    x, y = (np.asarray(leaf.read(), np.float32) for leaf in (one, two))
    unlike = (x != y) & ~(np.isnan(x) & np.isnan(y))
    if unlike.any():
      with np.errstate(invalid="ignore"):  # Infinity less infinity.
        largest = np.nanmax(np.abs(x - y), initial=0)
      yield (
        f"{path}: {np.mean(unlike):.1%} of the values, by {largest:.3g} at most"
      )
    elif one.dtype != two.dtype:
      yield f"{path}: the same values as {one.dtype.name} and {two.dtype.name}"


def main(argv: Sequence[str] | None = None) -> int:
  """Prints the report; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("path", metavar="PATH")
  parser.add_argument("other", metavar="OTHER", nargs="?")
  args = parser.parse_args(argv)
  try:
    found = open_checkpoint(args.path)
    if args.other is None:
      print(describe(found))
      return 0
    other = open_checkpoint(args.other)
    lines = list(differences(found, other))
  except (OSError, ValueError) as error:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return 2
  print("\n".join(lines) or f"no difference in {len(found.leaves)} leaves")
  return 1 if lines else 0


if __name__ == "__main__":
  sys.exit(main())
