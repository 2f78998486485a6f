import collections
import itertools
import json
import pathlib
import random
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def build_pairs(load_script):
  return load_script("build_pairs")


# A ball game is a sport; a striker is filed under football, a poacher is a
# kind of striker; a cat is filed under nothing.
NOUNS = """\
  1 the licence
00000001 04 n 01 sport 0 000 | a game with rules
00000002 04 n 01 football 0 001 @ 00000001 n 0000 | played with a ball
00000003 18 n 02 striker 0 forward(a) 0 002 @ 00000006 n 0 \
;c 00000002 n 0 | one who scores;
00000004 18 n 01 poacher_here 0 001 @ 00000003 n 0000 | a striker near goal
00000005 05 n 01 cat 0 001 @ 00000006 n 0000 | an animal
00000006 03 n 01 being 0 001 ;c 00000001 n 0101 | what lives
"""


@pytest.fixture
def synsets(build_pairs, tmp_path):
  folder = tmp_path / "usr/share/wordnet"
  folder.mkdir(parents=True)
  (folder / "data.noun").write_text(NOUNS)
  for part in ("verb", "adv"):
    (folder / f"data.{part}").write_text("  1 the licence\n")
  (folder / "data.adj").write_text(
    "00000003 00 s 01 sporty(p) 0 001 ;c 00000001 n 0000 | fond of it\n"
  )
  return build_pairs.read_synsets(tmp_path)


def test_synsets_are_read(synsets):
  assert synsets["n", "00000003"] == (
    "00000003",
    18,
    ("striker", "forward"),
    "one who scores;",
    (("@", ("n", "00000006")), (";c", ("n", "00000002"))),
  )
  assert synsets["a", "00000003"].lemmas == ("sporty",)


def test_topics_reach_down_and_up(build_pairs, synsets, monkeypatch):
  monkeypatch.setattr(build_pairs, "TOPIC_MEMBERS", (1, 9))
  monkeypatch.setattr(build_pairs, "KIND_MEMBERS", (1, 9))
  topics, kinds = build_pairs.groups(synsets)
  names = {
    synsets[topic].lemmas[0]: sorted(synsets[m].lemmas[0] for m in members)
    for topic, members in topics.items()
  }
  # Everything below "being" is filed with it.
  assert names == {
    "football": ["poacher here", "striker"],
    "sport": ["being", "cat", "poacher here", "sporty", "striker"],
  }
  assert kinds["n", "00000006"] == [("n", f"0000000{i}") for i in (3, 4, 5)]


def test_the_hash_seed_changes_nothing(tmp_path):
  entries = [f"000001{i:02} 04 n 01 t{i} 0 000 | a topic" for i in range(20)]
  pointers = " ".join(f";c 000001{i:02} n 0000" for i in range(20))
  entries.append(f"00000200 04 n 01 all 0 020 {pointers} | filed under all")
  folder = tmp_path / "usr/share/wordnet"
  folder.mkdir(parents=True)
  for part, lines in (
    ("noun", entries),
    ("verb", []),
    ("adj", []),
    ("adv", []),
  ):
    (folder / f"data.{part}").write_text("\n".join(lines))
  code = (
    "import build_pairs, pathlib; build_pairs.TOPIC_MEMBERS = (1, 9);"
    f"synsets = build_pairs.read_synsets(pathlib.Path({str(tmp_path)!r}));"
    "print(list(build_pairs.groups(synsets)[0]))"
  )
  printed = {
    subprocess.check_output(
      [sys.executable, "-W", "error", "-c", code],
      env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(SCRIPTS)},
    )
    for seed in "12"
  }
  assert len(printed) == 1 and b"00000119" in printed.pop()


def test_topic_pairs_are_of_their_group(build_pairs, synsets, monkeypatch):
  monkeypatch.setattr(build_pairs, "TOPIC_MEMBERS", (5, 9))
  monkeypatch.setattr(build_pairs, "KIND_MEMBERS", (3, 3))
  monkeypatch.setattr(random.Random, "randint", lambda self, low, high: 3)
  pairs = itertools.islice(
    build_pairs.topic_pairs(synsets, random.Random(0)), 40
  )
  seen = collections.defaultdict(set)
  for text, target in pairs:
    seen[target] |= {g for g in ("one who scores.", "an animal.") if g in text}
  assert seen == {
    "sport": {"one who scores.", "an animal."},
    "being": {"one who scores.", "an animal."},
  }


def test_headlines_are_the_telling_words(build_pairs):
  document = 'The cat, "Tom", sat on a red mat today. It was not an old one.'
  common = frozenset(["the", "on", "a", "it", "was", "an", "not", "one"])
  ((passage, headline), *_) = build_pairs.headline_pairs(document, common)
  assert passage == document
  assert headline == "cat Tom sat red mat today old"


def test_headlines_go_through_the_document(build_pairs):
  document = " ".join(f"{'word ' * 19}n{i}." for i in range(8))
  found = list(build_pairs.headline_pairs(document, frozenset()))
  # Sentences of 20 words; half a passage is 37, so every second one starts one.
  assert [p.split()[19] for p, _ in found] == ["n0.", "n2.", "n4.", "n6."]
  assert all(len(p.split()) <= build_pairs.PASSAGE_WORDS for p, _ in found)


def test_common_words_are_counted_in_lower_case(build_pairs, monkeypatch):
  monkeypatch.setattr(build_pairs, "COMMON_WORDS", 1)
  assert build_pairs.common_words(["A cat.", "(a) dog"]) == {"a"}


def test_splits_are_apart(build_pairs, tmp_path, monkeypatch):
  monkeypatch.setattr(build_pairs.build_corpus, "VALIDATION_PERCENT", 30)
  pairs = [(f"text {i % 50}", "x") for i in range(60)]
  counts = build_pairs.write(iter(pairs), tmp_path, "t")
  rows = {
    split: [
      json.loads(line)["text"]
      for line in (tmp_path / f"t-{split}.jsonl").read_text().splitlines()
    ]
    for split in ("train", "validation")
  }
  assert {f"t-{s}": len(r) for s, r in rows.items()} == counts
  assert sorted(rows["train"] + rows["validation"]) == sorted(
    {text for text, _ in pairs}
  )
  assert len(rows["validation"]) in range(5, 26)
