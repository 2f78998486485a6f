"""Builds the pretraining corpus of the embedded models from Debian packages.

Freely licensed English text of the packages in corpus_sources.py, from
dictionaries and scripture to essays, games and manuals, is turned into plain
text. docs/corpus.md says what it is, and how much of it there is.

Left out: Debian's own files, licence texts and credits, indexes, tables, change
logs, most program code, what is not English, and paragraphs that occurred
before.

Writes `<source>-<split>-NNNNN-of-NNNNN.txt` (UTF-8, one document a line, white
space collapsed) and `corpus.json` (counts). Where a document has titles, a tab
follows each title and each section: `title TAB text TAB title TAB text`. A
document is in the validation split when the hash of its text says so, about 1
in 100. Documents are ordered by their hash, so that the same packages always
give the same files.

  python scripts/build_corpus.py --output=data/corpus
"""

import argparse
import hashlib
import json
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterator

from corpus_readers import Document, Section
from corpus_sources import SOURCES

SHARD_CHARACTERS = 400_000
VALIDATION_PERCENT = 1
MIN_WORDS = 60
# Longer documents are cut, so that one of them does not fill a split.
MAX_WORDS = 2000
# Shorter paragraphs, such as names of menus, may occur again.
REPEATED_WORDS = 8
MAX_TITLE_WORDS = 16
# Share of a paragraph's words that are made of letters alone; other paragraphs
# are tables, formulas or signatures.
PLAIN_WORDS = 0.6
# Share of a document's words that are among COMMON; elsewhere they are rare.
COMMON_WORDS = 0.15
COMMON = frozenset(
  "the of and to a in is that for it or be as with by an not are you".split()
)
# Typewriter forms, as in WordNet: each saves a small vocabulary three bytes.
PLAIN = str.maketrans(
  {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\u00a0": " "}
)


def documents(source: str, root: pathlib.Path) -> Iterator[Document]:
  """Yields the documents of an unpacked package, in a fixed order."""
  return SOURCES[source].read(root)


def clean(document: Document, seen: set[bytes]) -> Iterator[str]:
  """Yields the document as lines of the corpus, most often one.

  Args:
    document: as it was read.
    seen: digests of the paragraphs so far, which are dropped; new ones are
      added.
  """
  kept: list[Section] = []
  for title, paragraphs in document:
    fresh = [p for p in map(_plain, paragraphs) if _is_prose(p)]
    fresh = [p for p in fresh if _is_new(p, seen)]
    title = _title(title)
    text = " ".join(fresh)
    if not text:
      continue
    if kept and len(kept[-1].paragraphs[0].split()) < MIN_WORDS:
      # Too little for a section: the title is a sentence of the one before.
      last = kept.pop()
      more = f"{title}. {text}" if title else text
      kept.append(Section(last.title, [f"{last.paragraphs[0]} {more}"]))
    else:
      kept.append(Section(title, [text]))
  for part in _cut(kept):
    words = " ".join(f"{title} {texts[0]}" for title, texts in part).split()
    common = sum(word.lower() in COMMON for word in words)
    if len(words) >= MIN_WORDS and common >= COMMON_WORDS * len(words):
      if any(title for title, _ in part):
        yield "\t".join(f"{title}\t{texts[0]}" for title, texts in part)
      else:
        yield " ".join(texts[0] for _, texts in part)


def _plain(text: str) -> str:
  return " ".join(text.translate(PLAIN).split())


def _title(text: str) -> str:
  """The title without its number, or "" if it is not a title."""
  text = re.sub(
    r"^(\W*(chapter |appendix )?[A-Z]?[\d.]+)+\W+", "", _plain(text)
  )
  text = text.rstrip("¶ #:")
  return text if len(text.split()) <= MAX_TITLE_WORDS else ""


def _is_prose(paragraph: str) -> bool:
  words = paragraph.split()
  plain = sum(word.strip(".,;:!?()[]'\"-").isalpha() for word in words)
  return plain >= max(1, PLAIN_WORDS * len(words)) and "\ufffd" not in paragraph


def _is_new(paragraph: str, seen: set[bytes]) -> bool:
  if len(paragraph.split()) < REPEATED_WORDS:
    return True
  digest = hashlib.sha256(paragraph.lower().encode("utf-8")).digest()[:12]
  is_new = digest not in seen
  seen.add(digest)
  return is_new


def _cut(sections: list[Section]) -> Iterator[list[Section]]:
  """Yields groups of consecutive sections of about MAX_WORDS at most."""
  part: list[Section] = []
  size = 0
  for title, (text,) in sections:
    words = text.split()
    for start in range(0, len(words), MAX_WORDS):
      piece = words[start : start + MAX_WORDS]
      if part and size + len(piece) > MAX_WORDS:
        yield part
        part, size = [], 0
      part.append(Section("" if start else title, [" ".join(piece)]))
      size += len(piece)
  if part:
    yield part


def unpack(package: str, deb_dir: pathlib.Path, work: pathlib.Path):
  """Unpacks `package` from `deb_dir`, or downloads it there first."""
  debs = sorted(deb_dir.glob(f"{package}_*.deb"))
  if not debs:
    subprocess.run(["apt-get", "download", package], cwd=deb_dir, check=True)
    debs = sorted(deb_dir.glob(f"{package}_*.deb"))
  if len(debs) != 1:
    raise ValueError(
      f"{deb_dir} holds {len(debs)} files named {package}_*.deb, expected one:"
      " remove the others"
    )
  root = work / package
  subprocess.run(["dpkg-deb", "-x", debs[0], root], check=True)
  return root, debs[0].name


def split_of(digest: str) -> str:
  """Returns the split of a text with this hash, in hexadecimal."""
  held_out = int(digest[:8], 16) % 100 < VALIDATION_PERCENT
  return "validation" if held_out else "train"


def read_train(corpus: pathlib.Path) -> Iterator[str]:
  """Yields the training documents of a corpus that was built."""
  shards = sorted(corpus.glob("*-train-*.txt"))
  if not shards:
    raise SystemExit(
      f"No *-train-*.txt in {corpus}: run scripts/build_corpus.py."
    )
  for shard in shards:
    yield from shard.read_text("utf-8").splitlines()


def write_split(texts: list[str], output: pathlib.Path, stem: str) -> None:
  """Writes one document a line into shards of about SHARD_CHARACTERS."""
  total = sum(map(len, texts))
  shards = max(1, round(total / SHARD_CHARACTERS))
  for shard in range(shards):
    name = f"{stem}-{shard:05d}-of-{shards:05d}.txt"
    lines = texts[shard::shards]
    (output / name).write_text("\n".join(lines) + "\n", "utf-8")


def table(manifest: dict[str, dict]) -> str:
  """The sources as a table of Markdown, words of both splits."""
  rows = ["| packages | text | words | licence |", "| --- | --- | --- | --- |"]
  total = 0
  for name, source in SOURCES.items():
    if f"{name}-train" in manifest:
      words = sum(
        manifest[f"{name}-{s}"]["words"] for s in ("train", "validation")
      )
      total += words
      packages = ", ".join(manifest[f"{name}-train"]["packages"])
      cells = (packages, source.text, f"{words / 1e6:.2f} M", source.licence)
      rows.append(f"| {' | '.join(cells)} |")
  return "\n".join([*rows, f"| all | | {total / 1e6:.2f} M | |"]) + "\n"


def main() -> None:
  """Builds the corpus, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument(
    "--deb_dir",
    type=pathlib.Path,
    help="folder of .deb files that are already there; what is missing is "
    "downloaded into it (default: a temporary folder)",
  )
  parser.add_argument(
    "--sources",
    default=",".join(SOURCES),
    help="names of corpus_sources.py, separated by commas (default: all)",
  )
  arguments = parser.parse_args()
  output = arguments.output
  if output.exists() and any(output.iterdir()):
    raise SystemExit(f"--output={output} is not empty: remove it first.")
  output.mkdir(parents=True, exist_ok=True)

  manifest = {}
  seen: set[bytes] = set()
  for name in arguments.sources.split(","):
    by_digest: dict[str, str] = {}
    debs = []
    for package in SOURCES[name].packages:
      with tempfile.TemporaryDirectory() as work:
        deb_dir = arguments.deb_dir or pathlib.Path(work)
        root, deb = unpack(package, deb_dir, pathlib.Path(work))
        debs.append(f"{package} {re.sub('.*%3a|.*_(?=.*_)|_.*', '', deb)}")
        for document in documents(name, root):
          for text in clean(document, seen):
            by_digest[hashlib.sha256(text.encode("utf-8")).hexdigest()] = text
    splits: dict[str, list[str]] = {"train": [], "validation": []}
    taken = 0
    for digest in sorted(by_digest):
      words = len(by_digest[digest].split())
      if taken + words <= SOURCES[name].max_words:
        taken += words
        splits[split_of(digest)].append(by_digest[digest])
    for split, texts in splits.items():
      write_split(texts, output, f"{name}-{split}")
      manifest[f"{name}-{split}"] = counts = {
        "packages": debs,
        "documents": len(texts),
        "words": sum(len(text.split()) for text in texts),
        "characters": sum(map(len, texts)),
      }
      print(f"{name}-{split}:", json.dumps(counts), flush=True)
  (output / "corpus.json").write_text(json.dumps(manifest, indent=2) + "\n")
  (output / "corpus.md").write_text(table(manifest))


if __name__ == "__main__":
  main()
