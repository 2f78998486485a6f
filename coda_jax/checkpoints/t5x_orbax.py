"""The layout that t5x writes today: orbax's, arrays in one OCDBT store."""

import json
import time
from collections.abc import Mapping
from typing import Any

from coda_jax.checkpoints import arrays, files
from coda_jax.checkpoints.leaves import Leaf

METADATA_FILE = "_METADATA"
CHECKPOINT_FILE = "_CHECKPOINT_METADATA"
COMMIT_FILE = "commit_success.txt"
_HANDLER = (
  "orbax.checkpoint._src.handlers.pytree_checkpoint_handler."
  "PyTreeCheckpointHandler"
)


def read(folder: Any) -> dict[str, Leaf]:
  """Reads {parameter path: Leaf}.

  Args:
    folder: a `checkpoint_N`, an etils path.

  Raises:
    ValueError: damaged metadata, or an array that is missing or damaged.
  """
  return read_part(folder / "state", "target")


def read_part(state: Any, part: str) -> dict[str, Leaf]:
  """Reads {path below `part`: Leaf} of a tree that orbax wrote.

  Args:
    state: the folder of the tree, an etils path or pathlib's.
    part: the first key of the paths.

  Raises:
    ValueError: damaged metadata, or an array that is missing or damaged.
  """
  metadata = files.read_json(state / METADATA_FILE)
  spec: dict[str, Any] = {
    "driver": "zarr3" if metadata.get("use_zarr3") else "zarr",
    # Where every chunk was written, one that is missing got lost.
    "fill_missing_data_reads": not metadata.get(
      "store_array_data_equal_to_fill_value"
    ),
  }
  with files.naming(state / METADATA_FILE):
    trees = [
      [str(key["key"]) for key in entry["key_metadata"]]
      for entry in metadata["tree_metadata"].values()
    ]
  leaves = {}
  for keys in trees:
    if keys[:1] != [part] or len(keys) == 1:
      continue
    name, path = ".".join(keys), "/".join(keys[1:])
    kvstore: Any = {
      "driver": "ocdbt",
      "base": arrays.url(state),
      "path": f"{name}/",
    }
    if not metadata.get("use_ocdbt", True):
      arrays.check_inside(name, state / METADATA_FILE)
      kvstore = arrays.url(state / name)
    leaves[path] = arrays.stored(spec, kvstore, f"{state}: {path}")
  return leaves


def write(folder: Any, state: Mapping[str, Leaf]) -> None:
  """Writes a train state.

  Args:
    folder: a new `checkpoint_N`, an etils path.
    state: {path such as target/encoder/...: Leaf}.
  """
  tree = {}
  for path, leaf in state.items():
    keys = path.split("/")
    kvstore = {
      "driver": "ocdbt",
      "base": arrays.url(folder / "state"),
      "path": ".".join(keys) + "/",
    }
    arrays.store(kvstore, leaf)
    tree[str(tuple(keys))] = {
      "key_metadata": [{"key": key, "key_type": 2} for key in keys],
      "value_metadata": {
        "value_type": "np.ndarray",  # jax's would want a sharding too
        "skip_deserialize": False,
        "write_shape": list(leaf.shape),
      },
    }
  _write_json(
    folder / "state" / METADATA_FILE,
    {
      "tree_metadata": tree,
      "use_ocdbt": True,
      "use_zarr3": False,
      "store_array_data_equal_to_fill_value": True,
      "custom_metadata": None,
    },
  )
  now = time.time_ns()
  _write_json(
    folder / CHECKPOINT_FILE,
    {
      "item_handlers": {"state": _HANDLER},
      "metrics": {},
      "performance_metrics": {},
      "init_timestamp_nsecs": now,
      "commit_timestamp_nsecs": now,
      "custom_metadata": {},
    },
  )
  for place in (folder / "state", folder):
    (place / COMMIT_FILE).write_text("Checkpoint commit was successful")


def _write_json(path: Any, fields: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(fields) + "\n")
