"""Files of vectors, `.npy` or `.parquet`, written so that a killed run resumes.

While vectors are computed they are in `OUTPUT.partial`, bare float32, next to
`OUTPUT.partial.json`: the settings that they depend on, and a digest of each
window of texts. The output itself appears at once when it is whole.
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


class Partial:
  """The vectors so far, on disk; made by `partial`.

  Attributes:
    done: how many vectors there are, a multiple of the window until the last
      texts are added.
  """

  def __init__(
    self, output: pathlib.Path, file: BinaryIO, dim: int, window: int
  ):
    self._output, self._file = output, file
    self._dim, self._window = dim, window
    self._about = _about(output)
    self._fields = files.read_json(self._about)
    row = 4 * dim
    # A killed run may have left a part of a window. The batches of the whole
    # window are the same again, and so is each bit of its vectors.
    windows = file.seek(0, os.SEEK_END) // (row * window)
    with files.naming(self._about):
      windows = min(windows, len(self._fields["windows"]))
    self.done = windows * window
    file.truncate(self.done * row)
    file.seek(0, os.SEEK_END)
    del self._fields["windows"][windows:]

  def skip(self, texts: Iterator[str]) -> None:
    """Takes the texts whose vectors are there, and checks them.

    Raises:
      ValueError: they are not those of the earlier run.
    """
    for number in range(len(self._fields["windows"])):
      self._check(number, list(itertools.islice(texts, self._window)))

  def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
    """Writes a window, of which only the last may be shorter.

    Args:
      texts: of the vectors.
      vectors: float32 [texts, dim].

    Raises:
      OSError: it can't be written, as on a full disk.
    """
    self._fields["windows"].append(_digest(texts))
    with _naming(self._about):
      files.write_json(self._about, self._fields)
    with _naming(self._file.name):
      self._file.write(np.ascontiguousarray(vectors, "<f4").tobytes())
      self._file.flush()
    self.done += len(texts)

  def finish(self, texts: Iterable[str]) -> None:
    """Turns the vectors into the output, and removes the files for them.

    The output is `.npy`, float32 [texts, dim]; or `.parquet`, with the columns
    `text` and `vector`, a list of float32.

    Args:
      texts: all of them, in order; read for `.parquet` only.

    Raises:
      FileExistsError: another process has made the output meanwhile.
      OSError: it can't be written, as on a full disk.
      ValueError: the texts have changed meanwhile.
    """
    check(self._output)
    vectors = np.zeros((0, self._dim), np.float32)
    if self.done:
      vectors = np.memmap(self._file.name, "<f4", "r").reshape(-1, self._dim)
    with _naming(self._output), files.aside(self._output) as temporary:
      if self._output.suffix == ".npy":
        with open(temporary, "wb") as file:
          np.save(file, vectors)
      else:
        self._write_table(temporary, iter(texts), vectors)
    pathlib.Path(self._file.name).unlink()
    self._about.unlink()

  def _write_table(
    self, path: pathlib.Path, texts: Iterator[str], vectors: np.ndarray
  ) -> None:
    """A group of rows for each window, so that memory holds one of them."""
    import pyarrow
    from pyarrow import parquet

    vector = pyarrow.list_(pyarrow.float32(), self._dim)
    schema = pyarrow.schema({"text": pyarrow.string(), "vector": vector})
    with parquet.ParquetWriter(path, schema) as writer:
      for number in range(len(self._fields["windows"])):
        window = list(itertools.islice(texts, self._window))
        self._check(number, window)
        start = number * self._window
        values = np.array(vectors[start : start + len(window)]).reshape(-1)
        column = pyarrow.FixedSizeListArray.from_arrays(
          pyarrow.array(values), self._dim
        )
        writer.write_table(
          pyarrow.table({"text": window, "vector": column}, schema)
        )

  def _check(self, number: int, texts: Sequence[str]) -> None:
    if _digest(texts) != self._fields["windows"][number]:
      first = number * self._window + 1
      raise ValueError(
        f"{self._file.name} has vectors of other texts than the input has now "
        f"(texts {first:,} to {first + self._window - 1:,}); use the original "
        "input, choose another --output, or remove that file to start over"
      )


@contextlib.contextmanager
def partial(
  output: str | os.PathLike[str],
  dim: int,
  depends_on: Mapping[str, Any],
  window: int,
) -> Iterator[Partial]:
  """The vectors of an output so far, kept from other processes.

  Args:
    output: where the vectors will be.
    dim: of a vector.
    depends_on: settings that a resumed run must have too.
    window: how many vectors are written together.

  Raises:
    OSError: a file can't be written.
    ValueError: the file was begun with other settings, or another process
      writes it.
  """
  output = pathlib.Path(output)
  path = output.with_name(output.name + ".partial")
  now = json.loads(json.dumps({**depends_on, "dim": dim, "window": window}))
  with _naming(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "ab")
  try:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f"another process writes {path}; wait until it has ended, or choose "
        "another --output"
      ) from None
    about = _about(output)
    if file.tell() and about.exists():
      _check_settings(path, files.read_json(about).get("settings", {}), now)
    else:
      file.truncate(0)
      with _naming(about):
        files.write_json(about, {"settings": now, "windows": []})
    yield Partial(output, file, dim, window)
  finally:
    # What counts was flushed; closing tries a write that failed once more.
    with contextlib.suppress(OSError):
      file.close()


def _check_settings(
  path: pathlib.Path, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
  for name in {**before, **now}:
    if before.get(name) != now.get(name):
      raise ValueError(
        f"{path} was started with {name} = {before.get(name)!r}, but it is "
        f"{now.get(name)!r} now; use the original value, choose another "
        "--output, or remove that file to start over"
      )


def _about(output: pathlib.Path) -> pathlib.Path:
  return output.with_name(output.name + ".partial.json")


def _digest(texts: Sequence[str]) -> str:
  return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


@contextlib.contextmanager
def _naming(path: Any) -> Iterator[None]:
  """Names the file in an error of writing, as on a full disk."""
  try:
    yield
  except OSError as error:
    raise OSError(
      f"cannot write {path}: {error.strerror or error}. Fix that, and run the "
      "same command to resume"
    ) from error
