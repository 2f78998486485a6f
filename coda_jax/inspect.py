"""Shows what a checkpoint or an adapter holds, or how two of them differ.

  python -m coda_jax.inspect runs/topic/adapter
  python -m coda_jax.inspect flan-t5-base/ runs/full/model

PATH is a folder of Hugging Face's, of t5x's or of coda_jax's, an adapter's
folder, a run's checkpoints/N, of which it shows the trained leaves, or the name
of a model that comes with the package. Arrays are read one at a time, and
compared with their checksums where the folder has them. The exit code is 1
where two checkpoints differ.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from coda_jax import backbones
from coda_jax import params as params_lib
from coda_jax.checkpoints import (
  adapter,
  folders,
  formats,
  model_folder,
  run,
  tensors,
)
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.formatting import format_table

PROGRAM = "python -m coda_jax.inspect"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The content of a folder.

  Attributes:
    path: the folder.
    format: one of `formats.FORMATS`, or "adapter" or "run".
    method: that made it, in the words of configs/methods/.
    fields: its configuration, {name: value}.
    leaves: {parameter path: Leaf}.
    backbone: what an adapter or a run says of the leaves that it leaves out;
      None for a whole model.
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
    FileNotFoundError: the folder has no checkpoint.
    ValueError: one that can't be read, saying why.
  """
  folder = formats.find_folder(path)
  if folders.is_adapter(folder):
    fields = adapter.read_config(folder)
    leaves = tensors.read(pathlib.Path(folder) / adapter.WEIGHTS_FILE)
    if not leaves:
      raise ValueError(f"{path}: {adapter.WEIGHTS_FILE} holds no leaf")
    coda = model_folder.coda_from_dict(fields["coda"])
    return Checkpoint(
      str(path),
      "adapter",
      coda.method,
      {**model_folder.coda_to_dict(coda), **fields.get("head", {})},
      leaves,
      fields["backbone"],
    )
  backbone = None
  if run.is_run(folder):
    kind = "run"
    config, leaves = run.read_trained(folder)
    if not run.is_whole(folder):
      backbone = f"checksum {run.read_frozen_checksum(folder):08x}"
  else:
    kind = formats.detect(path)
    config, leaves = formats.read(path)
  return Checkpoint(
    str(path),
    kind,
    config.coda.method
    if config.coda
    else f"none: a plain {backbones.of(config).title}",
    model_folder.config_to_dict(config),
    leaves,
    backbone,
  )


def describe(checkpoint: Checkpoint) -> str:
  """The report on one checkpoint, of several lines; reads every leaf.

  Raises:
    ValueError: a leaf that is not what was saved.
  """
  rows = [("leaf", "shape", "dtype", "parameters", "task's own")]
  owned = 0
  leaves = checkpoint.leaves
  for path, leaf in leaves.items():
    own = params_lib.matches(path, params_lib.TASK_PATTERNS)
    owned += leaf.size * own
    # Reading checks a leaf; the fingerprint below reads all that are not own.
    if leaf.check and (own or checkpoint.backbone):
      leaf.read()
    shape = " x ".join(map(str, leaf.shape)) or "scalar"
    mark = "yes" if own else ""
    rows.append((path, shape, leaf.dtype.name, f"{leaf.size:,}", mark))
  total = params_lib.count(leaves)
  size = sum(leaf.nbytes for leaf in leaves.values())
  checked = sum(leaf.check is not None for leaf in leaves.values())
  facts = [
    ("format", checkpoint.format),
    ("method", checkpoint.method),
    ("parameters", f"{total:,} in {len(leaves)} leaves"),
    ("a task's own", f"{owned:,} ({owned / total:.2%})"),
    ("size", f"{size / 1e6:,.1f} MB"),
    ("backbone", checkpoint.backbone or adapter.fingerprint(leaves)),
    ("checksums", f"match ({checked} leaves)" if checked else "none"),
    *((name, value) for name, value in checkpoint.fields.items()),
  ]
  width = max(len(name) for name, _ in facts)
  lines = [f"{name.ljust(width)}  {value}" for name, value in facts]
  return "\n".join([checkpoint.path, *lines, "", format_table(rows)])


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
    checkpoint = open_checkpoint(args.path)
    if args.other is None:
      print(describe(checkpoint))
      return 0
    other = open_checkpoint(args.other)
    lines = list(differences(checkpoint, other))
  except (OSError, ValueError) as error:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return 2
  number = len(checkpoint.leaves)
  print("\n".join(lines) or f"no difference in {number} leaves")
  return 1 if lines else 0


if __name__ == "__main__":
  sys.exit(main())
