"""Builds the pretraining corpus of the embedded models from Debian packages.

Three packages of freely licensed English text are turned into plain text:

  wordnet-base        glosses and examples        WordNet 3.0 licence
  python3.11-doc      the Python documentation    PSF licence, version 2
  postgresql-doc-15   the PostgreSQL manual       PostgreSQL licence

Left out: Debian's own files, licence texts and credits, the pages with text of
other origin, indexes, tables, change logs, and most program code.

Writes `<source>-<split>-NNNNN-of-NNNNN.txt` (UTF-8, one document a line, white
space collapsed) and `corpus.json` (counts). A document is in the validation
split when the hash of its text says so, about 1 in 100. Documents are ordered
by their hash, so that the same packages always give the same files.

  python scripts/build_corpus.py --output=data/corpus
"""

import argparse
import hashlib
import itertools
import json
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from typing import NamedTuple

PACKAGES = {
  "wordnet": "wordnet-base",
  "python": "python3.11-doc",
  "postgresql": "postgresql-doc-15",
}
SHARD_CHARACTERS = 400_000
VALIDATION_PERCENT = 1
MIN_WORDS = 60
GLOSSES_PER_DOCUMENT = 20
# Program text may take this share of a page, so that prose dominates.
CODE_SHARE = 0.1
# Typewriter forms, as in WordNet: each saves a small vocabulary three bytes.
PLAIN = str.maketrans(
  {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\u00a0": " "}
)

# Pages that hold no prose, licence texts, people's names, or text that was
# written elsewhere (the regular expression page comes from Tcl's manual).
SKIPPED_PAGES = {
  "python": re.compile(
    r"genindex|py-modindex|search|contents|download|license|copyright|index"
    r"|changelog|about"
  ),
  "postgresql": re.compile(
    r"bookindex|legalnotice|biblio|release|appendix|sql-keywords|features"
    r"|errcodes|functions-matching|acronyms|index|external-"
  ),
}


def wordnet_documents(root: pathlib.Path) -> Iterator[str]:
  """Yields documents of related glosses, in lexicographer file order."""
  for part in ("noun", "verb", "adj", "adv"):
    synsets = sorted(wordnet_synsets(root, part), key=lambda s: s.file)
    for _, group in itertools.groupby(synsets, key=lambda s: s.file):
      entries = [_entry(synset) for synset in group]
      for start in range(0, len(entries), GLOSSES_PER_DOCUMENT):
        yield " ".join(entries[start : start + GLOSSES_PER_DOCUMENT])


class Synset(NamedTuple):
  """A line of WordNet's data files.

  Attributes:
    offset: names it among those of its part of speech.
    file: its lexicographer file, by number.
    lemmas: its words.
    gloss: what they mean.
    pointers: (symbol, (part of speech, offset)) of those that it points to.
  """

  offset: str
  file: int
  lemmas: tuple[str, ...]
  gloss: str
  pointers: tuple[tuple[str, tuple[str, str]], ...]


def wordnet_synsets(root: pathlib.Path, part: str) -> Iterator[Synset]:
  """Reads data.noun, data.verb, data.adj or data.adv (wndb(5WN))."""
  path = root / "usr/share/wordnet" / f"data.{part}"
  for line in path.read_text("utf-8").splitlines():
    if line.startswith("  "):  # the licence
      continue
    columns, gloss = line.split(" | ", 1)
    fields = columns.split()
    count = int(fields[3], 16)
    words = fields[4 : 4 + 2 * count : 2]
    rest = fields[5 + 2 * count :]
    yield Synset(
      offset=fields[0],
      file=int(fields[1]),
      # Adjectives carry syntactic markers, as in "galore(ip)".
      lemmas=tuple(
        re.sub(r"\([a-z]+\)$", "", w).replace("_", " ") for w in words
      ),
      gloss=gloss.strip(),
      pointers=tuple(
        # A satellite ("s") is an adjective.
        (rest[i], (rest[i + 2].replace("s", "a"), rest[i + 1]))
        for i in range(0, 4 * int(fields[4 + 2 * count]), 4)
      ),
    )


def _entry(synset: Synset) -> str:
  gloss = synset.gloss.rstrip(";")
  ending = "" if re.search(r'[.!?]"?$', gloss) else "."
  return f"{', '.join(synset.lemmas[:3])}: {gloss}{ending}"


class PageText(HTMLParser):
  """Collects the text of one documentation page as paragraphs.

  `article` matches the start tag whose content is kept; inside it, navigation,
  scripts, tables and link marks are dropped and `pre` is kept apart as code.
  """

  BLOCKS = frozenset(
    "p div section h1 h2 h3 h4 h5 h6 li dt dd dl ul ol blockquote br hr".split()
  )
  DROPPED_TAGS = frozenset("script style nav table svg form sup math".split())
  DROPPED_CLASSES = frozenset(
    "headerlink navheader navfooter toc footnotes sphinxsidebar related"
    " footnote versionmodified variablelist-toc id_link".split()
  )
  VOID = frozenset("br hr img input meta link col wbr".split())

  def __init__(self, article):
    super().__init__(convert_charrefs=True)
    self._article = article
    self._stack: list[tuple[str, str]] = []
    self._buffer: list[str] = []
    self.blocks: list[tuple[str, str]] = []

  def _state(self) -> str:
    return self._stack[-1][1] if self._stack else "outside"

  def handle_starttag(self, tag, attrs):
    attributes = dict(attrs)
    classes = set((attributes.get("class") or "").split())
    state = self._state()
    new_state = state
    if state == "outside":
      if self._article(tag, attributes):
        new_state = "prose"
    elif tag in self.DROPPED_TAGS or classes & self.DROPPED_CLASSES:
      new_state = "dropped"
    elif tag == "pre" and state == "prose":
      new_state = "code"
    if tag in self.BLOCKS or new_state != state:
      self._flush()
    if tag not in self.VOID:
      self._stack.append((tag, new_state))

  def handle_startendtag(self, tag, attrs):
    if tag in self.BLOCKS:
      self._flush()

  def handle_endtag(self, tag):
    if not any(open_tag == tag for open_tag, _ in self._stack):
      return
    if tag in self.BLOCKS or tag in ("pre", "table"):
      self._flush()
    # Elements that HTML lets stay open (p, li) close with their parent.
    while self._stack.pop()[0] != tag:
      pass

  def handle_data(self, data):
    if self._state() in ("prose", "code"):
      self._buffer.append(data)

  def _flush(self):
    text = " ".join("".join(self._buffer).split())
    if text:
      self.blocks.append((self._state(), text))
    self._buffer.clear()


def page_text(html: str, article) -> str:
  """Returns a page's prose, with at most CODE_SHARE of program code."""
  parser = PageText(article)
  parser.feed(html)
  prose = sum(len(text) for kind, text in parser.blocks if kind == "prose")
  budget = int(prose * CODE_SHARE)
  kept = []
  for kind, text in parser.blocks:
    if kind == "code":
      if len(text) > budget:
        continue
      budget -= len(text)
    kept.append(text)
  return " ".join(kept).translate(PLAIN)


def _html_documents(root: pathlib.Path, source: str, article) -> Iterator[str]:
  for path in sorted(root.rglob("*.html")):
    # The python package holds its pages a second time behind a link.
    if path.is_symlink() or SKIPPED_PAGES[source].match(path.stem):
      continue
    yield page_text(path.read_text("utf-8"), article)


def documents(source: str, root: pathlib.Path) -> Iterable[str]:
  """Returns the documents of an unpacked package, in a fixed order."""
  if source == "wordnet":
    return wordnet_documents(root)
  if source == "python":
    return _html_documents(
      root / "usr/share/doc/python3.11/html",
      source,
      lambda tag, attributes: attributes.get("role") == "main",
    )
  return _html_documents(
    root / "usr/share/doc/postgresql-doc-15/html",
    source,
    lambda tag, attributes: tag == "body",
  )


def unpack(package: str, deb_dir: pathlib.Path, work: pathlib.Path):
  """Unpacks `package` from `deb_dir`, or downloads it there first."""
  found = sorted(deb_dir.glob(f"{package}_*.deb"))
  if not found:
    subprocess.run(["apt-get", "download", package], cwd=deb_dir, check=True)
    found = sorted(deb_dir.glob(f"{package}_*.deb"))
  if len(found) != 1:
    raise ValueError(
      f"{deb_dir} holds {len(found)} files named {package}_*.deb, expected one:"
      " remove the others."
    )
  root = work / package
  subprocess.run(["dpkg-deb", "-x", found[0], root], check=True)
  return root, found[0].name


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
  arguments = parser.parse_args()
  output = arguments.output
  if output.exists() and any(output.iterdir()):
    raise SystemExit(f"--output={output} is not empty: remove it first.")
  output.mkdir(parents=True, exist_ok=True)

  manifest = {}
  seen: set[str] = set()
  with tempfile.TemporaryDirectory() as work:
    deb_dir = arguments.deb_dir or pathlib.Path(work)
    for source, package in PACKAGES.items():
      root, deb = unpack(package, deb_dir, pathlib.Path(work))
      splits: dict[str, dict[str, str]] = {"train": {}, "validation": {}}
      for text in documents(source, root):
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
        if len(text.split()) < MIN_WORDS or digest in seen:
          continue
        seen.add(digest)
        splits[split_of(digest)][digest] = text
      for split, by_digest in splits.items():
        texts = [by_digest[digest] for digest in sorted(by_digest)]
        write_split(texts, output, f"{source}-{split}")
        manifest[f"{source}-{split}"] = counts = {
          "package": deb,
          "documents": len(texts),
          "words": sum(len(text.split()) for text in texts),
          "characters": sum(map(len, texts)),
        }
        print(f"{source}-{split}:", json.dumps(counts))
  (output / "corpus.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
  main()
