"""Files of vectors, `.npy` or `.parquet`, written so that a killed run resumes.

While vectors are computed they are in `OUTPUT.partial`, bare float32, next to
`OUTPUT.partial.json`, the settings that they depend on. The output itself
appears at once when it is whole.
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from coda_jax.checkpoints import files

ENDINGS = (".npy", ".parquet")


def check(output: str | os.PathLike[str]) -> None:
  """Refuses an output that can't be written.

  Raises:
    FileExistsError: there is such a file.
    ValueError: a name with another ending.
  """
  path = pathlib.Path(output)
  if path.suffix not in ENDINGS:
    raise ValueError(f"--output={path}; expected a name that ends in {ENDINGS}")
  if path.exists():
    raise FileExistsError(
      f"--output={path} already exists; remove it, or choose another name"
    )


@contextlib.contextmanager
def partial(
  output: str | os.PathLike[str], dim: int, depends_on: Mapping[str, Any]
) -> Iterator[tuple[BinaryIO, int]]:
  """The file of vectors so far, open at its end.

  Args:
    output: where the vectors will be.
    dim: of a vector.
    depends_on: settings that a resumed run must have too.

  Yields:
    (file, number of vectors that are in it).

  Raises:
    ValueError: the file was begun with other settings.
  """
  path = _partial(output)
  about = path.with_name(path.name + ".json")
  now = json.loads(json.dumps(depends_on))
  if path.exists():
    before = files.read_json(about)
    for name in {**before, **now}:
      if before.get(name) != now.get(name):
        raise ValueError(
          f"{path} was started with {name} = {before.get(name)!r}, but it is "
          f"{now.get(name)!r} now; use the original value, choose another "
          "--output, or remove that file to start over"
        )
  else:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(about, now)
  with open(path, "ab") as file:
    done = file.tell() // (4 * dim)
    # A killed run may have left a part of a vector.
    file.truncate(done * 4 * dim)
    file.seek(0, os.SEEK_END)
    yield file, done


def finish(output: str | os.PathLike[str], dim: int, texts: list[str]) -> None:
  """Turns the partial file into the output, and removes it.

  Args:
    output: `.npy`, float32 [texts, dim]; or `.parquet`, with the columns `text`
      and `vector`, a list of float32.
    dim: of a vector.
    texts: of the vectors, in their order.
  """
  path, rest = pathlib.Path(output), _partial(output)
  vectors = np.zeros((0, dim), np.float32)
  if rest.stat().st_size:
    vectors = np.memmap(rest, np.float32, "r").reshape(-1, dim)
  with files.aside(path) as temporary:
    if path.suffix == ".npy":
      with open(temporary, "wb") as file:
        np.save(file, vectors)
    else:
      import pyarrow
      from pyarrow import parquet

      column = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(vectors.reshape(-1)), dim
      )
      table = pyarrow.table({"text": texts, "vector": column})
      parquet.write_table(table, temporary)
  rest.unlink()
  rest.with_name(rest.name + ".json").unlink()


def _partial(output: str | os.PathLike[str]) -> pathlib.Path:
  path = pathlib.Path(output)
  return path.with_name(path.name + ".partial")
