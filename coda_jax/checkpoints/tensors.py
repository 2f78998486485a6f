"""safetensors files, read and written a leaf at a time.

The library behind the format writes from memory only. Its layout is 8 bytes
with the length of a JSON header, the header, then every array, C order, little
endian (https://huggingface.co/docs/safetensors, "Format").

A file of ours has a checksum of each array in the free-form part of its header.
"""

import contextlib
import json
import os
import pathlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from coda_jax.checkpoints import checksums, files
from coda_jax.checkpoints.leaves import Leaf, checked

_DTYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_CHECKSUMS = "checksums"  # {name: 8 hexadecimal digits}, as JSON.
_REMEDY = "get the file again, or make it again from what it was made from"


def read(path: str | os.PathLike[str]) -> dict[str, Leaf]:
  """The arrays of a file, by name; nothing but the header is read yet.

  Where the file has checksums, `Leaf.read` raises ValueError for an array that
  is not what was saved. `Leaf.read_at` checks nothing; see `Leaf.check`.

  Raises:
    FileNotFoundError: it does not exist.
    ValueError: it is not a complete safetensors file, or has arrays of a dtype
      that no checkpoint has.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist")
  leaves = {}
  with _opened(path) as file:
    saved = _saved_checksums(path, file.metadata() or {})
    for name in file.keys():
      view = file.get_slice(name)
      if view.get_dtype() not in _DTYPES:
        raise ValueError(
          f"{path}: {name} has dtype {view.get_dtype()}; expected one of "
          f"{sorted(_DTYPES)}"
        )
      leaves[name] = Leaf(
        tuple(view.get_shape()),
        _DTYPES[view.get_dtype()],
        lambda name=name: _read_one(path, name),
        lambda index, name=name: _read_part(path, name, index),
      )
      if name in saved:
        leaves[name] = checked(
          leaves[name], saved[name], f"{path}: {name}", _REMEDY
        )
  return leaves


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
  """The free-form part of a file's header.

  Raises:
    FileNotFoundError: it does not exist.
    ValueError: it is not a whole safetensors file.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} does not exist")
  with _opened(path) as file:
    return file.metadata() or {}


def write(
  path: str | os.PathLike[str],
  leaves: Mapping[str, Leaf],
  *,
  metadata: Mapping[str, str],
  with_checksums: bool = False,
) -> None:
  """Writes a file aside, leaf by leaf, and renames it.

  Args:
    path: the file; replaced once the new one is whole.
    leaves: {name: array}.
    metadata: free-form, for the header.
    with_checksums: for files that no other library rewrites. One that changes
      arrays and copies the metadata would leave checksums that are wrong.
  """
  path = pathlib.Path(path)
  # The format wants arrays aligned; widest first, as the library has it.
  order = sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, name))
  sums = dict.fromkeys(order, 0) if with_checksums else None
  with files.aside(path) as temporary, open(temporary, "wb") as file:
    file.write(_header(leaves, order, metadata, sums))
    for name in order:
      # Viewed as bytes: NumPy can't hand out the buffer of a bfloat16 array.
      array = np.ascontiguousarray(leaves[name].read())
      file.write(array.reshape(-1).view(np.uint8).data)
      if sums is not None:
        sums[name] = checksums.of_array(array)
    if sums is not None:
      # The sums are known now; the header has the same length with them.
      file.seek(0)
      file.write(_header(leaves, order, metadata, sums))


def _header(
  leaves: Mapping[str, Leaf],
  order: Sequence[str],
  metadata: Mapping[str, str],
  sums: Mapping[str, int] | None,
) -> bytes:
  """All that comes before the arrays; its length does not depend on `sums`."""
  metadata = dict(metadata)
  if sums is not None:
    digits = {name: f"{value:08x}" for name, value in sums.items()}
    metadata[_CHECKSUMS] = json.dumps(digits)
  header: dict[str, Any] = {"__metadata__": metadata}
  end = 0
  for name in order:
    leaf = leaves[name]
    begin, end = end, end + leaf.nbytes
    header[name] = {
      "dtype": _NAMES[leaf.dtype],
      "shape": list(leaf.shape),
      "data_offsets": [begin, end],
    }
  encoded = json.dumps(header, separators=(",", ":")).encode()
  encoded += b" " * (-len(encoded) % 8)
  return struct.pack("<Q", len(encoded)) + encoded


def shards(
  leaves: Mapping[str, Leaf], shard_bytes: int
) -> Sequence[dict[str, Leaf]]:
  """Cuts a checkpoint into files of at most `shard_bytes`, in order.

  A leaf that is larger has a file of its own.
  """
  parts: list[dict[str, Leaf]] = [{}]
  filled = 0
  for name, leaf in leaves.items():
    if parts[-1] and filled + leaf.nbytes > shard_bytes:
      parts.append({})
      filled = 0
    parts[-1][name] = leaf
    filled += leaf.nbytes
  return parts


def _saved_checksums(
  path: pathlib.Path, metadata: Mapping[str, str]
) -> dict[str, int]:
  """{name: checksum}; empty for a file without, as of earlier versions."""
  with files.naming(f"{path}: {_CHECKSUMS} in its header"):
    digits = json.loads(metadata.get(_CHECKSUMS, "{}"))
    return {name: int(value, 16) for name, value in digits.items()}


def _read_one(path: pathlib.Path, name: str) -> np.ndarray:
  with _opened(path) as file:
    return file.get_tensor(name)


def _read_part(path: pathlib.Path, name: str, index: Any) -> np.ndarray:
  with _opened(path) as file:
    return file.get_slice(name)[index]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  try:
    with safe_open(path, framework="numpy") as file:
      yield file
  except SafetensorError as error:
    raise ValueError(
      f"{path} is incomplete or not a safetensors file ({error}); get it again"
    ) from error
