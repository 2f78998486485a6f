"""The layout of every published t5x checkpoint: msgpack, and zarr folders.

Arrays of one element are in the file itself, every other one is in a folder of
its own next to it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coda_jax import params as params_lib
from coda_jax.checkpoints import arrays, files
from coda_jax.checkpoints.leaves import Leaf, leaf_of

FILE = "checkpoint"


def read(folder: Any) -> dict[str, Leaf]:
  """Reads {parameter path: Leaf}.

  Args:
    folder: a `checkpoint_N`, an etils path.

  Raises:
    FileNotFoundError: the folder of an array is missing.
    ValueError: a damaged file, or an array that is damaged.
  """
  from flax import serialization

  content = (folder / FILE).read_bytes()
  try:
    # msgpack holds data only; nothing in it is run.
    target = serialization.msgpack_restore(content)["optimizer"]["target"]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{folder / FILE} is incomplete, or not a t5x checkpoint: {error}"
    ) from error
  leaves = {}
  for path, value in _flat(target):
    if not isinstance(value, dict):
      leaves[path] = leaf_of(np.asarray(value))
      continue
    with files.naming(f"{folder / FILE}: {path}"):
      name = (value.get("path") or value["kvstore"]["path"]).rstrip("/")
      # A chunk that is all zero may have been left out. But no T5 has one; and
      # a download that stopped lacks chunks too.
      spec = {"driver": str(value["driver"]), "fill_missing_data_reads": False}
    arrays.check_inside(name, f"{folder / FILE}: {path}")
    if not (folder / name).exists():
      raise FileNotFoundError(
        f"{folder / name} does not exist; it should hold {path}"
      )
    leaves[path] = arrays.stored(
      spec, arrays.url(folder / name), f"{folder / name}"
    )
  return leaves


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  """(path, array or tensorstore spec) of a tree that has both."""
  if isinstance(tree, dict) and not {"driver", "kvstore"} <= tree.keys():
    for key, value in tree.items():
      yield from _flat(value, f"{path}/{key}" if path else key)
  else:
    yield path, tree


def write(folder: Any, state: Mapping[str, Leaf]) -> None:
  """Writes a train state.

  Args:
    folder: a new `checkpoint_N`, an etils path.
    state: {path such as target/encoder/...: Leaf}.
  """
  from flax import serialization

  folder.mkdir(parents=True, exist_ok=True)
  contents = {}
  for path, leaf in state.items():
    if leaf.size <= 1:
      contents[path] = leaf.read()
      continue
    name = path.replace("/", ".")
    metadata = arrays.store(arrays.url(folder / name), leaf)
    contents[path] = {
      "driver": "zarr",
      "dtype": leaf.dtype.name,
      "kvstore": {"driver": "file", "path": f"{name}/"},
      "metadata": metadata,
    }
  tree = {"version": 3, "optimizer": params_lib.unflatten(contents)}
  (folder / FILE).write_bytes(serialization.msgpack_serialize(tree))
