import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import coda_jax
from coda_jax import embed_file, testing
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig
from coda_jax.sentences import embedding, vector_files

WORDS = "the a cat dog sat ran on mat query :".split()
TEXTS = [f"the {WORDS[2 + i % 6]} " * (1 + i % 4) for i in range(9)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("model") / "bert"
  path.mkdir()
  testing.save_sentence_encoder(path, WORDS)
  return path


@pytest.fixture(scope="module")
def expected(model):
  loaded = coda_jax.load_pretrained(model)
  return coda_jax.embed(*loaded, TEXTS, model)


@pytest.fixture
def small_windows(monkeypatch):
  monkeypatch.setattr(embed_file, "_WINDOW", 2)


def save(path):
  """TEXTS in the format that the ending asks for; tables name the column."""
  match path.suffix:
    case ".txt":
      path.write_text("\n".join(TEXTS))
    case ".csv":
      path.write_text("id,body\n" + "".join(f"1,{x}\n" for x in TEXTS))
    case ".jsonl":
      path.write_text("".join(json.dumps({"body": x}) + "\n" for x in TEXTS))
    case ".parquet":
      parquet.write_table(pyarrow.table({"body": TEXTS}), path)
  return path


def run(model, path, output, *options):
  arguments = [f"--model={model}", f"--input={path}", f"--output={output}"]
  return embed_file.main([*arguments, "--column=body", *options])


@pytest.mark.parametrize("output", ["x.npy", "x.parquet"])
@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl", ".parquet"])
@pytest.mark.usefixtures("small_windows")
def test_formats(tmp_path, model, expected, ending, output, capsys):
  path = save(tmp_path / f"texts{ending}")
  assert run(model, path, tmp_path / output) == 0
  out, err = capsys.readouterr()
  assert out == f"wrote 9 vectors to {tmp_path / output}\n"
  assert "9 examples" in err and "tokens/s" in err
  if output == "x.npy":
    found = np.load(tmp_path / output)
  else:
    table = parquet.read_table(tmp_path / output)
    assert table["text"].to_pylist() == TEXTS
    found = np.array(table["vector"].to_pylist(), np.float32)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  names = {path.name, output}
  assert {p.name for p in tmp_path.iterdir()} == names


def test_no_text(tmp_path, model):
  (tmp_path / "x.txt").touch()
  assert run(model, tmp_path / "x.txt", tmp_path / "x.npy") == 0
  assert np.load(tmp_path / "x.npy").shape == (0, 15)


# Waits for ever in the third window, as a slow machine might.
KILLED = """
import sys, time
from coda_jax import embed_file
from coda_jax.sentences import embedding
embed_file._WINDOW = 2
embed, windows = embedding.embed, []
def slow(*args, **kwargs):
  windows.append(1)
  if len(windows) == 3:
    print("waiting", flush=True)
    time.sleep(600)
  return embed(*args, **kwargs)
embedding.embed = slow
sys.exit(embed_file.main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("small_windows")
def test_a_killed_run_resumes_with_the_same_bytes(tmp_path, model, capsys):
  path = save(tmp_path / "x.txt")
  output = tmp_path / "x.npy"
  arguments = [f"--model={model}", f"--input={path}", f"--output={output}"]
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED, *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  assert process.stdout.readline() == "waiting\n"
  # While it runs, no other process may write the same file.
  assert embed_file.main(arguments) == 2
  assert "another process writes" in capsys.readouterr().err
  os.kill(process.pid, signal.SIGKILL)
  process.communicate()
  partial = tmp_path / "x.npy.partial"
  assert partial.stat().st_size == 4 * 15 * 4
  with open(partial, "ab") as file:  # A part of the third window.
    file.write(b"1" * (15 * 4 + 7))
  # Other settings are refused, and change nothing.
  assert embed_file.main([*arguments, "--max_length=5"]) == 2
  assert "started with --max_length = None, but it is 5" in (
    capsys.readouterr().err
  )
  assert embed_file.main(arguments) == 0
  err = capsys.readouterr().err
  assert "x.npy has 4 vectors; continuing" in err and "5 examples" in err
  whole = tmp_path / "whole.npy"
  assert run(model, path, whole) == 0
  assert output.read_bytes() == whole.read_bytes()


@pytest.mark.usefixtures("small_windows")
def test_a_bad_row_is_named_and_can_be_mended(
  tmp_path, model, expected, capsys
):
  path, output = tmp_path / "x.csv", tmp_path / "x.npy"
  lines = ["id,body", *(f"1,{text}" for text in TEXTS)]
  path.write_text("\n".join([*lines[:6], "1,2,3", *lines[6:]]))
  assert run(model, path, output) == 2
  assert f"{path}, line 7: 3 fields, the header has 2" in (
    capsys.readouterr().err
  )
  path.write_text("\n".join(lines))
  assert run(model, path, output) == 0
  assert "x.npy has 4 vectors" in capsys.readouterr().err
  np.testing.assert_allclose(np.load(output), expected, atol=1e-5)


@pytest.mark.usefixtures("small_windows")
def test_other_texts_are_not_continued(tmp_path, model, capsys):
  path, output = tmp_path / "x.txt", tmp_path / "x.npy"
  path.write_bytes("\n".join([*TEXTS[:5], ""]).encode() + b"\xff")
  assert run(model, path, output) == 2
  assert f"{path}, line 6: not UTF-8" in capsys.readouterr().err
  path.write_text("\n".join(["cat", *TEXTS[1:]]))
  assert run(model, path, output) == 2
  assert "vectors of other texts" in capsys.readouterr().err


def test_a_full_disk_may_be_mended(
  tmp_path, model, expected, capsys, monkeypatch
):
  path, output = save(tmp_path / "x.txt"), tmp_path / "x.npy"

  def fail(*args):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(vector_files.np, "save", fail)
  assert run(model, path, output) == 1
  assert f"cannot write {output}: No space" in capsys.readouterr().err
  monkeypatch.undo()
  assert run(model, path, output) == 0
  np.testing.assert_allclose(np.load(output), expected, atol=1e-5)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"output": "taken.npy"}, "taken.npy already exists"),
    ({"output": "x.txt"}, "expected a name that ends in"),
    ({"input": "none.txt"}, "none.txt is not a file"),
    ({"input": "."}, "--input=. is not a file"),
    ({"input": "taken.npy"}, "a table ends in one of"),
    ({"model": "none"}, "none is not a folder"),
    ({"column": "words"}, r"x.csv, line 2: --column=words is None; .*'body'"),
    ({"dtype": "float16"}, "float16"),
    ({"max_length": "21"}, "positions for 20 tokens"),
    ({"batch_size": "0"}, "batch_size=0; expected a whole number"),
    ({"reduction": "3"}, "r = 3 was asked of a model that does not route"),
    ({"mesh": "data=3"}, "MESH={'data': 3}: .* there are 8"),
    ({"mesh": "rows=2"}, "has the axis 'rows'"),
    ({"mesh": "model=2"}, "does not divide 15"),
    ({"mesh": "data=8", "batch_size": "12"}, "batch_size=12 does not divide"),
    ({"prompt_name": "query"}, "no prompt 'query'"),
  ],
)
def test_bad_input(tmp_path, model, capsys, monkeypatch, arguments, message):
  monkeypatch.chdir(tmp_path)
  save(tmp_path / "x.csv")
  (tmp_path / "taken.npy").touch()
  given = {"model": model, "input": "x.csv", "output": "x.npy"}
  given |= {"column": "body", **arguments}
  assert embed_file.main([f"--{k}={v}" for k, v in given.items()]) == 2
  err = capsys.readouterr().err
  assert re.search(message, err), err
  assert not (tmp_path / "x.npy").exists()


def test_options(tmp_path, model):
  path = save(tmp_path / "x.txt")
  options = {"max_length": 5, "prompt": "query : ", "normalise": True}
  flags = ["--max_length=5", "--prompt=query : ", "--normalise"]
  assert run(model, path, tmp_path / "x.npy", *flags) == 0
  loaded = coda_jax.load_pretrained(model)
  wanted = coda_jax.embed(*loaded, TEXTS, model, **options)
  found = np.load(tmp_path / "x.npy")
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  assert run(model, path, tmp_path / "b.npy", "--dtype=bfloat16", *flags) == 0
  half = np.load(tmp_path / "b.npy")
  assert 0 < np.abs(half - wanted).max() < 0.05


@pytest.fixture
def routed(tmp_path, model):
  """An adapter's folder, with the model and the parameters that it makes."""
  coda = CodaConfig(reduction=2.0, bottleneck_dim=4)
  routed, _ = coda_jax.load_pretrained(model, coda=coda)
  added = params_lib.flatten(testing.random_params(routed))
  backbone = params_lib.flatten(coda_jax.load_pretrained(model)[1])
  params = params_lib.unflatten(added | backbone)
  coda_jax.save_adapter(tmp_path / "adapter", routed, params)
  return tmp_path / "adapter", routed, params


def test_an_adapter(tmp_path, model, routed):
  adapter, *loaded = routed
  path, output = save(tmp_path / "x.txt"), tmp_path / "x.npy"
  assert run(model, path, output, f"--adapter={adapter}") == 0
  wanted = coda_jax.embed(*loaded, TEXTS, model)
  np.testing.assert_allclose(np.load(output), wanted, atol=1e-5)


@pytest.mark.usefixtures("small_windows")
def test_another_reduction(tmp_path, model, routed, capsys):
  adapter, loaded, params = routed
  path, output = tmp_path / "x.txt", tmp_path / "x.npy"
  path.write_bytes("\n".join([*TEXTS[:5], ""]).encode() + b"\xff")
  at = [f"--adapter={adapter}", "--reduction=1.5"]
  assert run(model, path, output, *at) == 2
  # What was begun at one r is not continued at another.
  save(path)
  assert run(model, path, output, at[0]) == 2
  assert "started with --reduction = 1.5, but it is None now" in (
    capsys.readouterr().err
  )
  assert run(model, path, output, *at) == 0
  coda = dataclasses.replace(loaded.config.coda, reduction=1.5)
  config = dataclasses.replace(loaded.config, coda=coda)
  wanted = coda_jax.embed(coda_jax.Bert(config), params, TEXTS, model)
  found = np.load(output)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  assert np.abs(found - coda_jax.embed(loaded, params, TEXTS, model)).max() > (
    1e-3
  )
  assert run(model, path, tmp_path / "y.npy", at[0], "--reduction=0") == 2
  assert "CodaConfig.reduction is 0.0; expected 1" in capsys.readouterr().err


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("mesh", ["data=-1", "data=2,fsdp=2,model=2"])
def test_a_mesh_changes_no_vector(tmp_path, mesh):
  model = tmp_path / "model"
  model.mkdir()
  words = [*WORDS, "fish"]
  testing.save_sentence_encoder(model, words, emb_dim=16, num_heads=4)
  coda = CodaConfig(reduction=2.0, bottleneck_dim=4)
  routed, params = coda_jax.load_pretrained(model, coda=coda)
  coda_jax.save_adapter(tmp_path / "adapter", routed, params)
  path, output = save(tmp_path / "x.txt"), tmp_path / "x.npy"
  options = [f"--adapter={tmp_path / 'adapter'}", f"--mesh={mesh}"]
  assert run(model, path, output, *options) == 0
  wanted = coda_jax.embed(routed, params, TEXTS, model)
  np.testing.assert_allclose(np.load(output), wanted, atol=1e-5)


@pytest.mark.parametrize("mesh", ["data", "data=two", "data=2,data=2"])
def test_a_mesh_that_cannot_be_read(mesh, capsys):
  with pytest.raises(SystemExit):
    run("x", "x.txt", "x.npy", f"--mesh={mesh}")
  assert f"{mesh!r}; expected each axis once" in capsys.readouterr().err


def test_a_transformer_in_a_folder_of_its_own(tmp_path, model, expected):
  """As early versions of sentence-transformers saved it."""
  folder = tmp_path / "model"
  (folder / "0_Transformer").mkdir(parents=True)
  for file in model.iterdir():
    if file.is_file() and file.name != "modules.json":
      place = folder / "0_Transformer" / file.name
      place.write_bytes(file.read_bytes())
  (folder / "1_Pooling").mkdir()
  pooling = (model / "1_Pooling/config.json").read_text()
  (folder / "1_Pooling/config.json").write_text(pooling)
  entries = json.loads((model / "modules.json").read_text())
  entries[0]["path"] = "0_Transformer"
  (folder / "modules.json").write_text(json.dumps(entries))
  assert run(folder, save(tmp_path / "x.txt"), tmp_path / "x.npy") == 0
  found = np.load(tmp_path / "x.npy")
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("ending", vector_files.ENDINGS)
def test_memory_does_not_grow_with_the_file(
  tmp_path, model, ending, monkeypatch
):
  """Of what Python allocates: a window, not all texts."""
  monkeypatch.setattr(embed_file, "_WINDOW", 16)

  def quick(model, params, texts, sentences, **_):
    return np.zeros((len(texts), 15), np.float32)

  monkeypatch.setattr(embedding, "embed", quick)
  peaks = []
  for count in (200, 200, 2000):
    path, output = tmp_path / "x.txt", tmp_path / f"{count}{ending}"
    path.write_text("".join("word " * 200 + "\n" for _ in range(count)))
    tracemalloc.start()
    assert run(model, path, output) == 0
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    output.unlink()
  assert path.stat().st_size == 2 * 10**6 + 2000
  assert peaks[2] < peaks[1] + 3 * 10**5


def test_needs_no_other_framework(tmp_path, model):
  path = save(tmp_path / "x.txt")
  code = f"""
import sys
from coda_jax import embed_file
code = embed_file.main(
  ["--model={model}", "--input={path}", "--output={tmp_path}/x.npy"]
)
print(*{{name.split(".")[0] for name in sys.modules}})
sys.exit(code)
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  assert done.returncode == 0, done.stderr
  others = {"seqio", "tensorflow", "torch", "transformers", "clu", "orbax"}
  assert not others.intersection(done.stdout.split())
