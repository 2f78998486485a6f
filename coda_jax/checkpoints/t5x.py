"""t5x checkpoints, both layouts, both ways; t5x itself is not needed.

  orbax    checkpoint_N/{state/, _CHECKPOINT_METADATA, commit_success.txt}: what
           t5x writes today. The arrays are in one OCDBT store in state/.
  msgpack  checkpoint_N/{checkpoint, target.encoder....kernel/, ...}: every
           published checkpoint. A zarr folder an array, small arrays inline.

Arrays are read and written with tensorstore, one at a time. Folders may be in a
bucket (gs://...). Parameter paths are ours already; those of scanned layers
(`scalable_t5`) are taken apart.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from coda_jax import params as params_lib
from coda_jax.checkpoints.leaves import Leaf, leaf_of
from coda_jax.t5.config import T5Config

LAYOUTS = ("orbax", "msgpack")
_MSGPACK_FILE = "checkpoint"
_METADATA = "_METADATA"
_HANDLER = (
  "orbax.checkpoint._src.handlers.pytree_checkpoint_handler."
  "PyTreeCheckpointHandler"
)
# zarr chunks of at most this, so that no reader needs more memory at once.
_CHUNK_BYTES = 64 * 2**20


def find_layout(folder: Any) -> str | None:
  """Which of `LAYOUTS` a folder has; None for neither."""
  folder = path_of(folder)
  if (folder / "state" / _METADATA).exists():
    return "orbax"
  if (folder / _MSGPACK_FILE).is_file():
    return "msgpack"
  return None


def read(folder: str | os.PathLike[str]) -> tuple[T5Config, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  t5x keeps the shape in gin files; here it is told from the arrays. What they
  can't tell is taken from T5: the dropout rate, GELU as the gated activation
  and ReLU as the other.

  Args:
    folder: a `checkpoint_N`.

  Returns:
    (config, {parameter path: Leaf}); the optimizer's state is left behind.

  Raises:
    FileNotFoundError: no checkpoint of t5x is there.
    ValueError: arrays that are not those of a T5.
  """
  folder = path_of(folder)
  layout = find_layout(folder)
  if layout is None:
    raise FileNotFoundError(
      f"{folder} is no checkpoint of t5x: neither state/{_METADATA} nor a file "
      f"{_MSGPACK_FILE!r} is there; give the folder checkpoint_N itself"
    )
  found = _read_orbax(folder) if layout == "orbax" else _read_msgpack(folder)
  leaves = _unscanned(found, str(folder))
  return config_of(leaves, str(folder)), leaves


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
    folder: a new `checkpoint_N`.
    leaves: {parameter path: Leaf}.
    layout: one of `LAYOUTS`.
    step: of the train state.

  Raises:
    ValueError: an unknown layout.
  """
  folder = path_of(folder)
  state = {"target/" + path: leaf for path, leaf in leaves.items()}
  state["state/step"] = leaf_of(np.int32(step))
  if layout == "orbax":
    _write_orbax(folder, state)
  elif layout == "msgpack":
    _write_msgpack(folder, state)
  else:
    raise ValueError(f"layout={layout!r}; expected one of {LAYOUTS}")


def config_of(leaves: Mapping[str, Any], source: str) -> T5Config:
  """The shape of a T5, told from its leaves.

  Args:
    leaves: {parameter path: anything with a shape}.
    source: the file's name, for messages.

  Raises:
    ValueError: a leaf is missing that tells the shape.
  """

  def shape(path: str) -> tuple[int, ...]:
    if path not in leaves:
      raise ValueError(
        f"{source} has no {path}, so it is no T5 of t5x's minimal or scalable "
        f"network; the first leaf is {next(iter(leaves), None)!r}"
      )
    return tuple(leaves[path].shape)

  depths = {
    stack: len({p.split("/")[1] for p in leaves if _layer(p, stack)})
    for stack in ("encoder", "decoder")
  }
  mlp = "encoder/layers_0/mlp/"
  gated = f"{mlp}wi_0/kernel" in leaves
  num_heads = shape("encoder/relpos_bias/rel_embedding")[0]
  vocab_size, emb_dim = shape("token_embedder/embedding")
  joined = shape("encoder/layers_0/attention/query/kernel")[1]
  return T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=num_heads,
    head_dim=joined // num_heads,
    mlp_dim=shape(f"{mlp}wo/kernel")[0],
    num_encoder_layers=depths["encoder"],
    num_decoder_layers=depths["decoder"],
    mlp_activations=("gelu", "linear") if gated else ("relu",),
    logits_via_embedding="decoder/logits_dense/kernel" not in leaves,
  )


def _layer(path: str, stack: str) -> bool:
  return re.match(rf"{stack}/layers_\d+/", path) is not None


def _unscanned(found: Mapping[str, Leaf], source: str) -> dict[str, Leaf]:
  """Takes stacks of scanned layers apart: layers lie on axis 1 there."""
  leaves = {}
  for path, leaf in found.items():
    match = re.fullmatch(r"(encoder|decoder)/\1/(.*)", path)
    if match is None:
      leaves[path] = leaf
      continue
    stack, rest = match.groups()
    slices = [_layer_of(leaf, i) for i in range(leaf.shape[1])]
    if rest != "relpos_bias/rel_embedding":
      for i, piece in enumerate(slices):
        leaves[f"{stack}/layers_{i}/{rest}"] = _joined(piece, rest)
      continue
    # Scanned layers have a table each; those of a T5 are all the same.
    tables = [piece.read() for piece in slices]
    if any((table != tables[0]).any() for table in tables):
      raise ValueError(
        f"{source}: {path} differs between layers, as UMT5's does; Transformer "
        "has one position bias a stack, T5's"
      )
    leaves[f"{stack}/{rest}"] = slices[0]
  return leaves


def _layer_of(leaf: Leaf, i: int) -> Leaf:
  return Leaf(
    leaf.shape[:1] + leaf.shape[2:], leaf.dtype, lambda: leaf.read()[:, i]
  )


def _joined(leaf: Leaf, path: str) -> Leaf:
  """Attention kernels with their heads and head sizes in one axis."""
  if len(leaf.shape) != 3:
    return leaf
  a, b, c = leaf.shape
  shape = (a * b, c) if path.endswith("out/kernel") else (a, b * c)
  return Leaf(shape, leaf.dtype, lambda: leaf.read().reshape(shape))


# The layout of orbax.


def _read_orbax(folder: Any) -> dict[str, Leaf]:
  state = folder / "state"
  metadata = json.loads((state / _METADATA).read_text())
  driver = "zarr3" if metadata.get("use_zarr3") else "zarr"
  leaves = {}
  for entry in metadata["tree_metadata"].values():
    keys = [str(key["key"]) for key in entry["key_metadata"]]
    if keys[0] == "target" and len(keys) > 1:
      name = ".".join(keys)
      kvstore: Any = (
        {"driver": "ocdbt", "base": _url(state), "path": f"{name}/"}
        if metadata.get("use_ocdbt", True)
        else _url(state / name)
      )
      leaves["/".join(keys[1:])] = _stored({"driver": driver}, kvstore)
  return leaves


def _write_orbax(folder: Any, state: Mapping[str, Leaf]) -> None:
  tree = {}
  for path, leaf in state.items():
    keys = path.split("/")
    kvstore = {
      "driver": "ocdbt",
      "base": _url(folder / "state"),
      "path": ".".join(keys) + "/",
    }
    _store(kvstore, leaf)
    tree[str(tuple(keys))] = {
      "key_metadata": [{"key": key, "key_type": 2} for key in keys],
      "value_metadata": {
        "value_type": "np.ndarray",  # jax's would want a sharding too
        "skip_deserialize": False,
        "write_shape": list(leaf.shape),
      },
    }
  _write_json(
    folder / "state" / _METADATA,
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
    folder / "_CHECKPOINT_METADATA",
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
    (place / "commit_success.txt").write_text(
      "Checkpoint commit was successful"
    )


# The layout of msgpack and zarr.


def _read_msgpack(folder: Any) -> dict[str, Leaf]:
  from flax import serialization

  content = (folder / _MSGPACK_FILE).read_bytes()
  try:
    # msgpack holds data only; nothing in it is run.
    target = serialization.msgpack_restore(content)["optimizer"]["target"]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{folder / _MSGPACK_FILE} is cut off, or no checkpoint of t5x: {error}"
    ) from error
  leaves = {}
  for path, value in _flat(target):
    if not isinstance(value, dict):
      leaves[path] = leaf_of(np.asarray(value))
      continue
    name = value.get("path") or value["kvstore"]["path"]
    name = name.rstrip("/")
    if "/" in name or name in ("", ".", ".."):
      raise ValueError(
        f"{folder / _MSGPACK_FILE}: {path} is stored in {name!r}; expected a "
        "folder beside the file"
      )
    if not (folder / name).exists():
      raise FileNotFoundError(f"{folder / name} is not there; it holds {path}")
    leaves[path] = _stored({"driver": value["driver"]}, _url(folder / name))
  return leaves


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
  """(path, array or tensorstore spec) of a tree that has both."""
  if isinstance(tree, dict) and not {"driver", "kvstore"} <= tree.keys():
    for key, value in tree.items():
      yield from _flat(value, f"{path}/{key}" if path else key)
  else:
    yield path, tree


def _write_msgpack(folder: Any, state: Mapping[str, Leaf]) -> None:
  from flax import serialization

  folder.mkdir(parents=True, exist_ok=True)
  contents = {}
  for path, leaf in state.items():
    if leaf.size <= 1:
      contents[path] = leaf.read()
      continue
    name = path.replace("/", ".")
    metadata = _store(_url(folder / name), leaf)
    contents[path] = {
      "driver": "zarr",
      "dtype": leaf.dtype.name,
      "kvstore": {"driver": "file", "path": f"{name}/"},
      "metadata": metadata,
    }
  tree = {"version": 3, "optimizer": params_lib.unflatten(contents)}
  (folder / _MSGPACK_FILE).write_bytes(serialization.msgpack_serialize(tree))


# Both.


def _stored(spec: Mapping[str, Any], kvstore: Any) -> Leaf:
  """A leaf of a store that is opened now, and read when it is asked for."""
  import tensorstore as ts

  store = ts.open({**spec, "kvstore": kvstore}, open=True, read=True).result()
  return Leaf(
    tuple(store.shape),
    jnp.dtype(store.dtype.numpy_dtype),
    lambda: np.asarray(store.read().result()),
  )


def _store(kvstore: Any, leaf: Leaf) -> dict[str, Any]:
  """Writes an array as zarr; returns what t5x keeps of its metadata."""
  import tensorstore as ts

  metadata = {
    "shape": list(leaf.shape),
    "chunks": _chunks(leaf),
    "compressor": {"id": "gzip", "level": 1},
  }
  dtype = leaf.dtype.name
  store = ts.open(
    {
      "driver": "zarr",
      "kvstore": kvstore,
      "dtype": dtype,
      "metadata": metadata,
    },
    create=True,
  ).result()
  store.write(leaf.read()).result()
  return metadata


def _chunks(leaf: Leaf) -> list[int]:
  """Rows of an array that fit into a chunk."""
  if not leaf.shape:
    return []
  row = max(leaf.nbytes // max(leaf.shape[0], 1), 1)
  rows = min(leaf.shape[0], max(_CHUNK_BYTES // row, 1))
  return [max(rows, 1), *leaf.shape[1:]]


def path_of(folder: Any) -> Any:
  """A folder of this machine or of a bucket, with pathlib's methods."""
  from etils import epath

  return epath.Path(folder)


def _url(path: Any) -> Any:
  """A tensorstore key-value store at a path, of this machine or a bucket."""
  text = os.fspath(path)
  if "://" in text:
    return f"{text}/"
  return {"driver": "file", "path": os.path.abspath(text) + "/"}


def _write_json(path: Any, fields: Mapping[str, Any]) -> None:
  path.write_text(json.dumps(fields) + "\n")
