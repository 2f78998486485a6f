import collections
import json

import pytest

from coda_jax.data import bbc


@pytest.fixture(scope="module")
def script(load_script):
  return load_script("build_retrieval")


def document(number, sections=2):
  """Sections of 120 words that say where they stand."""
  parts = []
  for section in range(sections):
    words = [f"d{number}s{section}w{i}" for i in range(120)]
    parts += [f"About {number} {section}", " ".join(words)]
  return "\t".join(parts)


@pytest.fixture
def corpus(script, tmp_path, monkeypatch):
  monkeypatch.setattr(script, "MANUALS", ["git", "r"])
  for source in script.MANUALS:
    lines = [document(f"{source}{i}") for i in range(60)]
    lines.append(document(f"{source}x", sections=1))
    path = tmp_path / f"{source}-train-00000-of-00001.txt"
    path.write_text("\n".join(lines) + "\n")
  articles = [
    bbc.Article("sport", f"Title {i}", f"body {i} of an article")
    for i in range(60)
  ]
  articles.append(bbc.Article("tech", "Again", "body 3 of an article"))
  monkeypatch.setattr(bbc, "read", lambda: articles)
  return tmp_path


def test_writes_both_corpora(script, corpus, tmp_path, monkeypatch, capsys):
  output = tmp_path / "retrieval"
  monkeypatch.setattr(
    "sys.argv", ["x", f"--corpus={corpus}", f"--output={output}"]
  )
  script.main()
  texts, rows = {}, {}
  for name in ("news", "manuals"):
    for split in ("train", "validation", "test"):
      key = name, split
      path = output / f"{name}-{split}.jsonl"
      rows[key] = [json.loads(line) for line in path.read_text().splitlines()]
      if split != "test":
        (path,) = output.glob(f"{name}-{split}-*.txt")
        texts[key] = path.read_text().splitlines()
  # About 7, 1 and 2 tenths, and no text of the test is learned from.
  assert 60 < len(texts["manuals", "train"]) < 110
  for row in rows["news", "test"]:
    assert row["body"] not in texts["news", "train"]
  for row in rows["manuals", "test"]:
    own = row["body"].split()[-1]
    assert not any(own in text for text in texts["manuals", "train"])
  assert collections.Counter(r["topic"] for r in rows["manuals", "test"])["r"]
  # A body that has two titles is in one split, once.
  everything = [t for key, ts in texts.items() if key[0] == "news" for t in ts]
  assert len(set(everything)) == len(everything)


def test_a_piece_starts_in_the_section_before(script):
  row = script._piece(document(7), "git")
  words = row["body"].split()
  assert row["title"] == "About 7 1" and row["topic"] == "git"
  before = [word for word in words if "s0" in word]
  assert 30 <= len(before) <= 110
  assert before[-1] == "d7s0w119" and words[len(before)] == "d7s1w0"
  assert script._piece(document(7), "git") == row
  # There is no section before, or there are no titles.
  assert script._piece(document(7, sections=1), "git") is None
  assert script._piece("only text", "git") is None


def test_rows_that_are_alike_are_left_out(script):
  rows = [
    {"title": "One", "body": "a"},
    {"title": "one", "body": "b"},
    {"title": "Two", "body": "c"},
  ]
  assert script._unique(rows) == rows[2:]


def test_names_the_command_that_makes_the_corpus(script, tmp_path):
  with pytest.raises(FileNotFoundError, match="build_corpus.py --output"):
    list(script.manuals(tmp_path))
