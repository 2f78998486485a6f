"""safetensors files, read and written a leaf at a time.

The library behind the format writes from memory only. Its layout is 8 bytes
with the length of a JSON header, the header, then every array, C order, little
endian (https://huggingface.co/docs/safetensors, "Format").
"""

import contextlib
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from coda_jax.checkpoints.leaves import Leaf

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


def read(path: str | os.PathLike[str]) -> dict[str, Leaf]:
  """The arrays of a file, by name; nothing but the header is read yet.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it is not a whole safetensors file, or holds arrays of a dtype
      that no checkpoint has.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f"{path} is not there")
  leaves = {}
  with _opened(path) as file:
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
      )
  return leaves


def write(
  path: str | os.PathLike[str],
  leaves: Mapping[str, Leaf],
  *,
  metadata: Mapping[str, str],
) -> None:
  """Writes a file aside, leaf by leaf, and renames it.

  Args:
    path: the file; replaced once the new one is whole.
    leaves: {name: array}.
    metadata: free-form, for the header.
  """
  path = pathlib.Path(path)
  header: dict[str, Any] = {"__metadata__": dict(metadata)}
  # The format wants arrays aligned; widest first, as the library has it.
  order = sorted(leaves, key=lambda name: (-leaves[name].dtype.itemsize, name))
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
  with aside(path) as temporary, open(temporary, "wb") as file:
    file.write(struct.pack("<Q", len(encoded)))
    file.write(encoded)
    for name in order:
      # As bytes, since NumPy can't hand out the buffer of a bfloat16 array.
      array = np.ascontiguousarray(leaves[name].read())
      file.write(array.reshape(-1).view(np.uint8).data)


def check_new(path: Any) -> None:
  """Refuses a place for a new folder where something is.

  Args:
    path: a pathlib or etils path.

  Raises:
    FileExistsError: it is a file, or a folder that is not empty.
  """
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise FileExistsError(
      f"{path} is there and not empty; name a new folder, or remove it"
    )


@contextlib.contextmanager
def aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A temporary neighbour that takes the place of `path` at the end.

  For files and folders. Whatever goes wrong inside, what `path` held stays.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(f".{path.name}.tmp")
  _remove(temporary)
  try:
    yield temporary
  except BaseException:
    _remove(temporary)
    raise
  if path.is_dir():  # A folder can't be renamed onto one that has files.
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    path.rename(old)
    temporary.rename(path)
    _remove(old)
  else:
    temporary.replace(path)


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


def _read_one(path: pathlib.Path, name: str) -> np.ndarray:
  with _opened(path) as file:
    return file.get_tensor(name)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  try:
    with safe_open(path, framework="numpy") as file:
      yield file
  except SafetensorError as error:
    raise ValueError(
      f"{path} is cut off or is no safetensors file ({error}); get it again"
    ) from error


def _remove(path: pathlib.Path) -> None:
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)
