"""Makes two corpora on which an encoder of texts is made faster and judged.

  news     BBC News articles: a title, a body, one of 5 topics
  manuals  pieces of manuals that are cut without regard to sections, as for a
           search index: the end of a section, then the one that the title
           belongs to. Which manual a piece is from is its topic.

Writes `{news,manuals}-{train,validation}-NNNNN.txt`, a document a line, to
learn from, and `{news,manuals}-{train,validation,test}.jsonl`, rows {"title",
"body", "topic"}, to judge by. The hash of a document decides its split: 7
tenths are for training, 1 for validation, 2 for the test.

  python scripts/build_corpus.py --output=data/corpus
  python scripts/build_retrieval.py --corpus=data/corpus --output=data/retrieval

Without --corpus there are no manuals.
"""

import argparse
import collections
import hashlib
import json
import pathlib
import random
from collections.abc import Iterator

from coda_jax.data import bbc

# Sources of build_corpus.py whose documents have sections with titles.
MANUALS = (
  "apache borg debian debian_edu django erlang exim gimp git gnome gnucash "
  "grass handbook krb5 kstars libreoffice linux octave perl postfix postgresql "
  "python r shorewall sqlite"
).split()
SHARD_DOCUMENTS = 500
MOST_DOCUMENTS = 1500  # to learn from
MOST_ROWS = {"train": 600, "validation": 300, "test": 600}
# Words of the section before the one of the title, and of the piece.
BEFORE_WORDS = (30, 110)
PIECE_WORDS = 250
MIN_SECTION_WORDS = 80

Row = dict[str, str]


def split_of(text: str) -> str:
  """The split of a document."""
  digest = hashlib.sha256(f"retrieval {text}".encode()).digest()
  tenth = int.from_bytes(digest[:4], "big") % 10
  return "train" if tenth < 7 else "validation" if tenth < 8 else "test"


def news() -> Iterator[tuple[str, str, Row]]:
  """Yields each article's split, its text to learn from, and its row."""
  for article in bbc.read():
    row = {
      "title": article.title,
      "body": article.body,
      "topic": article.topic,
    }
    yield split_of(article.body), article.body, row


def manuals(corpus: pathlib.Path) -> Iterator[tuple[str, str, Row | None]]:
  """Yields each document's split, its text to learn from, and its row.

  The row is None for a document without a section in the middle.
  """
  for source in MANUALS:
    files = sorted(corpus.glob(f"{source}-*-*.txt"))
    if not files:
      raise FileNotFoundError(
        f"no {source}-*.txt in {corpus}: run `python scripts/build_corpus.py "
        f"--output={corpus}`"
      )
    for path in files:
      for line in path.read_text(encoding="utf-8").splitlines():
        text = line.replace("\t", " ")
        yield split_of(text), text, _piece(line, source)


def _piece(line: str, source: str) -> Row | None:
  fields = line.split("\t")
  titles, sections = fields[0::2], [text.split() for text in fields[1::2]]
  if len(fields) % 2:
    return None  # A document without titles.
  places = [
    place
    for place in range(1, len(sections))
    if len(titles[place].split()) >= 2
    and len(sections[place - 1]) >= BEFORE_WORDS[1]
    and len(sections[place]) >= MIN_SECTION_WORDS
  ]
  if not places:
    return None
  rng = random.Random(line)
  place = rng.choice(places)
  before = sections[place - 1][-rng.randint(*BEFORE_WORDS) :]
  words = (before + sections[place])[:PIECE_WORDS]
  return {"title": titles[place], "body": " ".join(words), "topic": source}


def _unique(rows: list[Row]) -> list[Row]:
  """The rows whose title and body occur once."""
  seen = collections.Counter(
    row[key].lower() for row in rows for key in ("title", "body")
  )
  return [
    row
    for row in rows
    if seen[row["title"].lower()] == seen[row["body"].lower()] == 1
  ]


def write(
  name: str,
  documents: Iterator[tuple[str, str, Row | None]],
  output: pathlib.Path,
) -> None:
  """Writes the files of a corpus, and prints how much they hold.

  Args:
    name: of the corpus, at the start of the files' names.
    documents: see `news` and `manuals`.
    output: the folder.
  """
  texts = collections.defaultdict(dict)
  rows = collections.defaultdict(list)
  for split, text, row in documents:
    if text in texts[split]:
      continue  # Some articles occur under two titles.
    texts[split][text] = row
    if row is not None:
      rows[split].append(row)
  for split in ("train", "validation"):
    lines = sorted(texts[split], key=_digest)[:MOST_DOCUMENTS]
    words = sum(len(line.split()) for line in lines)
    print(f"{name}-{split}: {len(lines)} documents, {words} words")
    for shard, start in enumerate(range(0, len(lines), SHARD_DOCUMENTS)):
      path = output / f"{name}-{split}-{shard:05}.txt"
      some = lines[start : start + SHARD_DOCUMENTS]
      path.write_text("\n".join(some) + "\n", encoding="utf-8")
  for split in ("train", "validation", "test"):
    chosen = sorted(_unique(rows[split]), key=lambda row: _digest(row["body"]))
    chosen = chosen[: MOST_ROWS[split]]
    path = output / f"{name}-{split}.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in chosen]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{path}: {len(chosen)} rows")


def _digest(text: str) -> bytes:
  return hashlib.sha256(text.encode()).digest()


def main() -> None:
  """Makes the corpora, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--corpus", type=pathlib.Path)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  arguments.output.mkdir(parents=True, exist_ok=True)
  write("news", news(), arguments.output)
  if arguments.corpus:
    write("manuals", manuals(arguments.corpus), arguments.output)


if __name__ == "__main__":
  main()
