import json

import pytest

WORDS = (
  "the tide of salt water turned near a stone pier where boats lay".split()
)


@pytest.fixture
def folders(tmp_path):
  """A corpus of documents with titles, and its topics."""
  (tmp_path / "corpus").mkdir()
  (tmp_path / "pairs").mkdir()
  for split in ("train", "validation"):
    documents = []
    for i in range(12):
      words = [WORDS[(i * j + j // 5) % len(WORDS)] for j in range(200)]
      documents.append(f"Harbour {i}\t{' '.join(words)}.")
    file = tmp_path / f"corpus/x-{split}-00000.txt"
    file.write_text("\n".join(documents) + "\n")
    topic = {"text": "a small boat. a fast boat", "target": "vessel"}
    file = tmp_path / f"pairs/topics-{split}.jsonl"
    file.write_text(json.dumps(topic) + "\n")
  return tmp_path


def test_tables_are_written(load_script, folders, monkeypatch):
  build_reading = load_script("build_reading")
  options = [
    f"--{name}={folders / name}" for name in ("corpus", "pairs", "output")
  ]
  options += ["--rows=60", "--tokens_share=1"]
  monkeypatch.setattr("sys.argv", ["build_reading.py", *options])
  build_reading.main()
  for split in ("train", "validation"):
    lines = (folders / f"output/reading-{split}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 60
    assert {row["task"] for row in rows} == build_reading.TASKS.keys()
    for row in rows:
      assert row["text"].startswith(
        {
          "title": "headline:",
          "topic": "topic: a small boat",
          "find": "find:",
          "before": "before:",
          "about": "about: Harbour",
          "intruder": "odd:",
        }[row["task"]]
      )
      if row["task"] in ("find", "before", "about", "intruder"):
        assert row["target"] in row["text"]
      elif row["task"] == "topic":
        assert row["target"] == "vessel"
      else:
        assert row["target"].startswith("Harbour ")
