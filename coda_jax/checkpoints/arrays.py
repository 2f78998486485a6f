"""Arrays in tensorstore's zarr, and folders that may be in a bucket."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from coda_jax.checkpoints import files
from coda_jax.checkpoints.leaves import Leaf

# The largest zarr chunk, which bounds the memory of every reader.
_CHUNK_BYTES = 64 * 2**20


def path_of(folder: Any) -> Any:
  """A folder of this machine or of a bucket, with pathlib's methods."""
  from etils import epath

  return epath.Path(folder)


@contextlib.contextmanager
def reaching(folder: Any) -> Iterator[None]:
  """Names a bucket's folder in the errors of its library.

  Raises:
    OSError: any error inside, if the folder is in a bucket.
  """
  try:
    yield
  except (OSError, ValueError):
    raise  # These name the folder already.
  except Exception as error:  # TensorFlow and Google have their own.
    if "://" not in os.fspath(folder):
      raise
    raise OSError(f"cannot reach {folder}: {error}") from error


def url(path: Any) -> Any:
  """A tensorstore key-value store at a path, of this machine or a bucket."""
  text = os.fspath(path)
  if "://" in text:
    return f"{text}/"
  return {"driver": "file", "path": os.path.abspath(text) + "/"}


def check_inside(name: str, source: Any) -> None:
  """Refuses an array's name that leads out of its folder."""
  if "/" in name or name in ("", ".", ".."):
    raise ValueError(
      f"{source} names an array {name!r}; expected a folder next to the file"
    )


def stored(spec: Mapping[str, Any], kvstore: Any, name: str) -> Leaf:
  """A leaf of a store: opens the store now, reads the array when asked."""
  import tensorstore as ts

  damaged = f"{name} is damaged or incomplete; get the checkpoint again"
  with files.naming(damaged):
    opened = ts.open(
      {**spec, "kvstore": kvstore}, open=True, read=True
    ).result()

  def read_at(index: Any) -> np.ndarray:
    with files.naming(damaged):
      return np.asarray(opened[index].read().result())

  return Leaf(
    tuple(opened.shape),
    jnp.dtype(opened.dtype.numpy_dtype),
    lambda: read_at(...),
    read_at,
  )


def store(kvstore: Any, leaf: Leaf) -> dict[str, Any]:
  """Writes an array as zarr; returns the metadata that t5x keeps."""
  import tensorstore as ts

  metadata = {
    "shape": list(leaf.shape),
    "chunks": _chunks(leaf),
    "compressor": {"id": "gzip", "level": 1},
  }
  dtype = leaf.dtype.name
  opened = ts.open(
    {
      "driver": "zarr",
      "kvstore": kvstore,
      "dtype": dtype,
      "metadata": metadata,
      # Write chunks of zeros too: a missing chunk then means a lost one.
      "store_data_equal_to_fill_value": True,
    },
    create=True,
  ).result()
  opened.write(leaf.read()).result()
  return metadata


def _chunks(leaf: Leaf) -> list[int]:
  """Rows of an array that fit into a chunk."""
  if not leaf.shape:
    return []
  row = max(leaf.nbytes // max(leaf.shape[0], 1), 1)
  rows = min(leaf.shape[0], max(_CHUNK_BYTES // row, 1))
  return [max(rows, 1), *leaf.shape[1:]]
