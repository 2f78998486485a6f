from xml.etree import ElementTree

import pytest

import coda_jax
from coda_jax import show_routing, testing
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
  (path / "texts.txt").write_text("cat sat sat\nsat cat\ncat\nsat\n")
  (path / "none.txt").write_text("")
  return path


def _run(folder, *more):
  return show_routing.main(
    [
      f"--model={folder / 'bert'}",
      f"--input={folder / 'texts.txt'}",
      f"--output={folder / 'routing.svg'}",
      "--max_length=16",
      *more,
    ]
  )


def test_draws_the_first_texts(folder, capsys):
  assert _run(folder, f"--adapter={folder / 'adapter'}", "--texts=2") == 0
  root = ElementTree.parse(folder / "routing.svg").getroot()
  said = "".join(root.itertext()).split()
  assert "".join(said) == "catsatsatsatcat"
  assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("more", "message"),
  [
    ((), "the model does not route"),
    (("--output=x.png",), "--output=x.png must end in .svg"),
    (("--input=nothing.txt",), "nothing.txt"),
  ],
)
def test_bad_input(folder, capsys, more, message):
  assert _run(folder, *more) == 2
  assert message in capsys.readouterr().err


def test_a_file_without_texts(folder, capsys):
  assert _run(folder, f"--input={folder / 'none.txt'}") == 2
  assert "has no texts" in capsys.readouterr().err
