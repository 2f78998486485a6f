import errno
import fcntl
import io
import json

import numpy as np
import pytest
from pyarrow import parquet

from coda_jax.sentences import vector_files

VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3)
TEXTS = ["a", "b", "", "d", "e"]


def write(output, texts=TEXTS, stop=None, **settings):
  """Adds windows of 2 texts, the first `stop` texts at most; how many came."""
  with vector_files.partial(output, 3, settings, 2) as vectors:
    done = vectors.done
    vectors.skip(iter(texts))
    for start in range(done, len(texts[:stop]), 2):
      end = min(start + 2, len(texts))
      vectors.add(texts[start:end], VECTORS[start:end])
    if stop is None:
      vectors.finish(texts)
  return done


def read(output):
  if output.suffix == ".npy":
    return np.load(output)
  table = parquet.read_table(output)
  assert table["text"].to_pylist() == TEXTS
  return np.array(table["vector"].to_pylist(), np.float32)


@pytest.mark.parametrize("ending", vector_files.ENDINGS)
def test_a_file_is_whole_or_not_there(tmp_path, ending):
  output = tmp_path / "new" / f"vectors{ending}"
  assert write(output, stop=4, a=1) == 0
  # A killed run leaves a part of a window.
  with open(f"{output}.partial", "ab") as file:
    file.write(VECTORS[:1].tobytes() + b"12345")
  assert not output.exists()
  assert write(output, a=1) == 4
  np.testing.assert_array_equal(read(output), VECTORS)
  assert [p.name for p in output.parent.iterdir()] == [output.name]


def test_the_last_window_is_made_again(tmp_path):
  """It may be shorter, so that its length does not tell whether it is whole."""
  output = tmp_path / "x.npy"
  write(output, stop=5)
  assert (tmp_path / "x.npy.partial").stat().st_size == VECTORS.nbytes
  assert write(output) == 4
  np.testing.assert_array_equal(read(output), VECTORS)


def test_settings_without_vectors_and_the_reverse(tmp_path):
  """A run may be killed between the two writes of a window."""
  output = tmp_path / "x.npy"
  write(output, stop=4)
  about = tmp_path / "x.npy.partial.json"
  fields = json.loads(about.read_text())
  assert len(fields["windows"]) == 2
  with open(f"{output}.partial", "rb+") as file:
    file.truncate(2 * 12)
  assert write(output, stop=4) == 2
  fields["windows"].pop()
  about.write_text(json.dumps(fields))
  assert write(output, stop=4) == 2
  about.unlink()
  assert write(output) == 0
  np.testing.assert_array_equal(read(output), VECTORS)


@pytest.mark.parametrize("ending", vector_files.ENDINGS)
def test_no_text_is_an_empty_array(tmp_path, ending):
  output = tmp_path / f"x{ending}"
  write(output, [])
  if ending == ".npy":
    assert np.load(output).shape == (0, 3)
  else:
    assert parquet.read_table(output).num_rows == 0


def test_other_settings_are_refused(tmp_path):
  write(tmp_path / "x.npy", stop=2, **{"--prompt": "query: "})
  with pytest.raises(ValueError, match=r"--prompt = 'query: ', but .*'text: '"):
    write(tmp_path / "x.npy", **{"--prompt": "text: "})


@pytest.mark.parametrize("texts", [["a", "other", *TEXTS[2:]], ["a"]])
def test_other_texts_are_refused(tmp_path, texts):
  write(tmp_path / "x.npy", stop=4)
  message = r"vectors of other texts .*\(texts 1 to 2\); use the original"
  with pytest.raises(ValueError, match=message):
    write(tmp_path / "x.npy", texts)


def test_texts_that_change_meanwhile_are_refused(tmp_path):
  with vector_files.partial(tmp_path / "x.parquet", 3, {}, 2) as vectors:
    vectors.add(TEXTS[:2], VECTORS[:2])
    with pytest.raises(ValueError, match="vectors of other texts"):
      vectors.finish(["a", "c"])
  assert not (tmp_path / "x.parquet").exists()


def test_two_processes_are_kept_apart(tmp_path):
  with open(tmp_path / "x.npy.partial", "ab") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another process writes .*x.npy.part"):
      write(tmp_path / "x.npy")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
  class Full(io.FileIO):
    def write(self, data):
      raise OSError(errno.ENOSPC, "No space left on device")

  opened = open

  def fail(path, mode="r", *args, **kwargs):
    if mode == "ab":
      return io.BufferedWriter(Full(path, mode))
    return opened(path, mode, *args, **kwargs)

  monkeypatch.setattr(vector_files, "open", fail, raising=False)
  message = "cannot write .*x.npy.partial: No space .*same command to resume"
  with pytest.raises(OSError, match=message):
    write(tmp_path / "x.npy")
  monkeypatch.undo()
  assert write(tmp_path / "x.npy") == 0
  np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), VECTORS)


def test_damaged_settings_are_named(tmp_path):
  write(tmp_path / "x.npy", stop=2)
  (tmp_path / "x.npy.partial.json").write_text("[]")
  with pytest.raises(ValueError, match="x.npy.partial.json holds a list"):
    write(tmp_path / "x.npy")


def test_names_that_can_not_be_written(tmp_path):
  with pytest.raises(ValueError, match=r"vectors.txt; expected .*'.npy'"):
    vector_files.check(tmp_path / "vectors.txt")
  (tmp_path / "x.npy").touch()
  with pytest.raises(FileExistsError, match=r"x.npy already exists; remove it"):
    vector_files.check(tmp_path / "x.npy")
