import json

import numpy as np
import pytest

import coda_jax
from coda_jax import compare_embeddings, testing
from coda_jax.nn.config import CodaConfig

WORDS = "the a cat dog sat ran on mat".split()
ROWS = [
  {
    "title": f"{WORDS[2 + i % 6]} {WORDS[i % 5]}",
    "body": " ".join(WORDS[(i * j) % 8] for j in range(1, 12 + i)),
    "topic": "odd" if i % 2 else "even",
  }
  for i in range(8)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("compare")
  (path / "bert").mkdir()
  testing.save_sentence_encoder(path / "bert", WORDS)
  coda = CodaConfig(reduction=3, bottleneck_dim=2)
  model, params = coda_jax.load_pretrained(path / "bert", coda=coda)
  coda_jax.save_adapter(path / "adapter", model, params)
  text = "".join(json.dumps(row) + "\n" for row in ROWS)
  (path / "rows.jsonl").write_text(text)
  return path


def _run(folder, *more, code=0):
  arguments = [
    f"--model={folder / 'bert'}",
    f"--input={folder / 'rows.jsonl'}",
    "--max_length=16",
    "--repeats=1",
    *more,
  ]
  assert compare_embeddings.main(arguments) == code


def test_compares_every_encoder_in_one_table(folder, tmp_path, capsys):
  pytest.importorskip("sklearn")
  path = tmp_path / "found.json"
  _run(
    folder,
    f"--adapter=mine={folder / 'adapter'}",
    "--reductions=1,4",
    f"--train={folder / 'rows.jsonl'}",
    "--first_tokens=5",
    "--first_layers=1",
    f"--json={path}",
  )
  rows = {row["encoder"]: row for row in json.loads(path.read_text())["rows"]}
  assert list(rows) == [
    "dense",
    "mine, r = 1",
    "mine, r = 4",
    "first 5 tokens",
    "first 1 layers",
  ]
  assert list(rows)[2] in capsys.readouterr().out
  assert rows["dense"]["speedup"] == 1
  assert rows["dense"]["cosine"] == pytest.approx(1)
  # New adapters change nothing, so at r = 1 the encoder is the dense one.
  same = ("first_place", "mrr", "topic", "cosine")
  for name in same:
    assert rows["mine, r = 1"][name] == pytest.approx(rows["dense"][name])
  for name in list(rows)[2:]:
    assert rows[name]["cosine"] < 0.9999

  # By hand: the dense encoder on texts that are cut.
  model, params = coda_jax.load_pretrained(folder / "bert")

  def embed(column, length):
    texts = [row[column] for row in ROWS]
    return coda_jax.embed(
      model, params, texts, folder / "bert", max_length=length, normalise=True
    )

  cosines = embed("title", 16) @ embed("body", 5).T
  first = np.mean(cosines.argmax(axis=1) == np.arange(8))
  assert rows["first 5 tokens"]["first_place"] == pytest.approx(first)


# qwix's imports warn, and so do its constants in float32 arithmetic.
@pytest.mark.filterwarnings("ignore")
def test_int8_weights_have_rows_of_their_own(folder, tmp_path):
  pytest.importorskip("qwix", reason="pip install 'coda_jax[int8]'")
  path = tmp_path / "found.json"
  _run(
    folder,
    f"--adapter={folder / 'adapter'}",
    "--int8",
    "--batch_size=3",
    f"--json={path}",
  )
  rows = {row["encoder"]: row for row in json.loads(path.read_text())["rows"]}
  routed = "CoDA, r = 3"
  for name in ("dense", routed):
    rounded = rows.pop(f"{name}, int8 weights")["cosine"]
    assert 0 < abs(rounded - rows[name]["cosine"]) < 0.01
  assert list(rows) == ["dense", routed]


def test_a_table_without_topics_has_no_probe(folder, tmp_path):
  path = tmp_path / "rows.csv"
  path.write_text("title,body\nthe cat,a cat sat\na dog,the dog ran on\n")
  texts = compare_embeddings.read_texts(str(path))
  assert texts.titles == ["the cat", "a dog"] and texts.topics == []


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ("title,text\na,b\n", "body is None; expected a text"),
    ("title,body\n", "has no rows"),
    ('{"title": "a", "body": "b"}\n{"title": "a"}\n', "line 2: body is None"),
    (
      '{"title": "a", "body": "b", "topic": 1}\n{"title": "a", "body": "b"}\n',
      "some rows have a topic, others have none",
    ),
  ],
)
def test_names_the_bad_row(folder, tmp_path, capsys, rows, message):
  path = tmp_path / ("rows.jsonl" if rows.startswith("{") else "rows.csv")
  path.write_text(rows)
  _run(folder, f"--input={path}", code=2)
  assert message in capsys.readouterr().err


def test_a_probe_needs_topics_in_both_tables(folder, tmp_path, capsys):
  path = tmp_path / "rows.csv"
  path.write_text("title,body\na,b\n")
  _run(folder, f"--train={path}", code=2)
  assert "--train needs the column topic" in capsys.readouterr().err
