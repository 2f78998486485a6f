"""t5x checkpoints, both layouts, both ways; t5x itself is not needed.

  orbax    checkpoint_N/{state/, _CHECKPOINT_METADATA, commit_success.txt}: what
           t5x writes today. The arrays are in one OCDBT store in state/.
  msgpack  checkpoint_N/{checkpoint, target.encoder....kernel/, ...}: every
           published checkpoint. A zarr folder an array, small arrays inline.

Arrays are read and written with tensorstore, one at a time. Folders may be in a
bucket (gs://...). Parameter paths are ours already; those of scanned layers
(`scalable_t5`) are split into layers.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from coda_jax import backbones
from coda_jax.checkpoints import arrays, files, t5x_msgpack, t5x_orbax
from coda_jax.checkpoints.leaves import Leaf, leaf_of
from coda_jax.nn.config import Conditional

LAYOUTS = ("orbax", "msgpack")
_RELPOS_BIAS = "relpos_bias/rel_embedding"


def find_layout(folder: Any) -> str | None:
  """Which of `LAYOUTS` a folder has; None for neither.

  Raises:
    OSError: the folder is in a bucket that can't be reached.
    ValueError: it has both, or an incomplete checkpoint.
  """
  with arrays.reaching(folder):
    folder = arrays.path_of(folder)
    has_orbax = (folder / "state" / t5x_orbax.METADATA_FILE).exists()
    has_msgpack = (folder / t5x_msgpack.FILE).is_file()
    # A bucket renames nothing: there this file, written last, says it is whole.
    if has_orbax and "://" in os.fspath(folder):
      committed = (folder / t5x_orbax.COMMIT_FILE).exists()
      if not committed:
        raise ValueError(
          f"{folder} is incomplete: {t5x_orbax.COMMIT_FILE} does not exist; "
          "use the checkpoint before it"
        )
  if has_orbax and has_msgpack:
    raise ValueError(
      f"{folder} contains more than one checkpoint, one in each of t5x's "
      f"layouts: state/{t5x_orbax.METADATA_FILE} and {t5x_msgpack.FILE!r}; "
      "keep one per folder"
    )
  return "orbax" if has_orbax else "msgpack" if has_msgpack else None


def read(folder: str | os.PathLike[str]) -> tuple[Conditional, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  t5x keeps the shape in gin files; here the arrays determine it.

  Args:
    folder: a `checkpoint_N`.

  Returns:
    (config, {parameter path: Leaf}), without the optimizer's state.

  Raises:
    FileNotFoundError: the folder has no t5x checkpoint.
    ValueError: arrays that are not those of a T5.
  """
  folder = arrays.path_of(folder)
  layout = find_layout(folder)
  if layout is None:
    raise FileNotFoundError(
      f"{folder} is not a t5x checkpoint: found neither "
      f"state/{t5x_orbax.METADATA_FILE} nor a file {t5x_msgpack.FILE!r}. Pass "
      "the checkpoint_N folder itself"
    )
  stored = (
    t5x_orbax.read(folder) if layout == "orbax" else t5x_msgpack.read(folder)
  )
  leaves = _unscanned(stored, str(folder))
  return _config(leaves, str(folder)), leaves


def write(
  folder: str | os.PathLike[str],
  leaves: Mapping[str, Leaf],
  *,
  layout: str = "orbax",
  step: int = 0,
) -> None:
  """Writes parameters as t5x does, without an optimizer's state.

  t5x restores them with `assignment_map=((r'state.*', None),)`.

  Args:
    folder: a new `checkpoint_N`, or an empty one.
    leaves: {parameter path: Leaf}.
    layout: one of `LAYOUTS`.
    step: of the train state.

  Raises:
    FileExistsError: the folder holds something.
    ValueError: an unknown layout.
  """
  folder = arrays.path_of(folder)
  with arrays.reaching(folder):
    files.check_new(folder)
  state = {"target/" + path: leaf for path, leaf in leaves.items()}
  state["state/step"] = leaf_of(np.int32(step))
  if layout == "orbax":
    t5x_orbax.write(folder, state)
  elif layout == "msgpack":
    t5x_msgpack.write(folder, state)
  else:
    raise ValueError(f"layout={layout!r}; expected one of {LAYOUTS}")


def _config(leaves: Mapping[str, Leaf], source: str) -> Conditional:
  """The shape of the first family that the leaves fit."""
  errors = []
  for family in backbones.families():
    if family.config_of_leaves is not None:
      try:
        return family.config_of_leaves(leaves, source)
      except ValueError as error:
        errors.append(error)
  raise errors[0]


def _unscanned(found: Mapping[str, Leaf], source: str) -> dict[str, Leaf]:
  """Splits stacks of scanned layers, which lie on axis 1, into layers.

  Each scanned layer has a position bias. Those of a T5 are all the same, and
  become the one of the stack; those of a UMT5 differ.
  """
  leaves = {}
  is_per_layer = any(
    _differs(leaf)
    for path, leaf in found.items()
    if re.fullmatch(rf"(encoder|decoder)/\1/{_RELPOS_BIAS}", path)
    and len(leaf.shape) > 1
  )
  for path, leaf in found.items():
    match = re.fullmatch(r"(encoder|decoder)/\1/(.*)", path)
    if match is None:
      leaves[path] = leaf
      continue
    stack, rest = match.groups()
    if len(leaf.shape) < 2:
      raise ValueError(
        f"{source}: {path} has shape {leaf.shape}; expected layers on axis 1"
      )
    slices = [
      leaf.at((slice(None), i), leaf.shape[:1] + leaf.shape[2:])
      for i in range(leaf.shape[1])
    ]
    if rest == _RELPOS_BIAS and not is_per_layer:
      leaves[f"{stack}/{rest}"] = slices[0]
      continue
    for i, piece in enumerate(slices):
      leaves[f"{stack}/layers_{i}/{rest}"] = _joined(piece, rest)
  return leaves


def _differs(leaf: Leaf) -> bool:
  """Whether scanned layers, on axis 1, have different values."""
  values = leaf.read()
  return bool((values != values[:, :1]).any())


def _joined(leaf: Leaf, path: str) -> Leaf:
  """Attention kernels with their heads and head sizes in one axis."""
  if len(leaf.shape) != 3:
    return leaf
  a, b, c = leaf.shape
  shape = (a * b, c) if path.endswith("out/kernel") else (a, b * c)
  return Leaf(shape, leaf.dtype, lambda: leaf.read().reshape(shape))
