import numpy as np
import pytest
from pyarrow import parquet

from coda_jax.sentences import vector_files

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
TEXTS = ["a", "b", "", "d"]


def begin(output, rows, **settings):
  with vector_files.partial(output, 3, settings) as (file, done):
    file.write(rows.tobytes())
  return done


@pytest.mark.parametrize("ending", vector_files.ENDINGS)
def test_a_file_is_whole_or_not_there(tmp_path, ending):
  output = tmp_path / "new" / f"vectors{ending}"
  assert begin(output, VECTORS[:1], a=1) == 0
  # A killed run leaves a part of a vector.
  with open(f"{output}.partial", "ab") as file:
    file.write(b"12345")
  assert begin(output, VECTORS[1:], a=1) == 1
  assert not output.exists()
  vector_files.finish(output, 3, TEXTS)
  if ending == ".npy":
    found = np.load(output)
  else:
    table = parquet.read_table(output)
    assert table["text"].to_pylist() == TEXTS
    found = np.array(table["vector"].to_pylist(), np.float32)
  np.testing.assert_array_equal(found, VECTORS)
  assert [p.name for p in output.parent.iterdir()] == [output.name]


def test_no_text_is_an_empty_array(tmp_path):
  begin(tmp_path / "x.npy", VECTORS[:0])
  vector_files.finish(tmp_path / "x.npy", 3, [])
  assert np.load(tmp_path / "x.npy").shape == (0, 3)


def test_other_settings_are_refused(tmp_path):
  begin(tmp_path / "x.npy", VECTORS, **{"--prompt": "query: "})
  with pytest.raises(ValueError, match=r"--prompt = 'query: ', but .*'text: '"):
    begin(tmp_path / "x.npy", VECTORS, **{"--prompt": "text: "})


def test_names_that_can_not_be_written(tmp_path):
  with pytest.raises(ValueError, match=r"vectors.txt; expected .*'.npy'"):
    vector_files.check(tmp_path / "vectors.txt")
  (tmp_path / "x.npy").touch()
  with pytest.raises(FileExistsError, match=r"x.npy already exists; remove it"):
    vector_files.check(tmp_path / "x.npy")
