"""Reads the text of unpacked Debian packages as documents, format by format.

A document is a list of sections, a section its title ("" without) and its
paragraphs. build_corpus.py cleans them, drops what is repeated, and writes
them; corpus_sources.py says which package is read how.
"""

import gzip
import itertools
import pathlib
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from html.parser import HTMLParser
from typing import NamedTuple

# Program text may take this share of a page, so that prose dominates.
CODE_SHARE = 0.1
# Short entries, those of dictionaries and glosses, share a document.
ENTRIES_PER_DOCUMENT = 20


class Section(NamedTuple):
  """A titled piece of a document."""

  title: str
  paragraphs: list[str]


Document = list[Section]


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


def wordnet(root: pathlib.Path) -> Iterator[Document]:
  """Yields documents of related glosses, in lexicographer file order."""
  for part in ("noun", "verb", "adj", "adv"):
    synsets = sorted(wordnet_synsets(root, part), key=lambda s: s.file)
    for _, group in itertools.groupby(synsets, key=lambda s: s.file):
      yield from _entries(_gloss(synset) for synset in group)


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


def _gloss(synset: Synset) -> str:
  gloss = synset.gloss.rstrip(";")
  ending = "" if re.search(r'[.!?]"?$', gloss) else "."
  return f"{', '.join(synset.lemmas[:3])}: {gloss}{ending}"


def _entries(entries: Iterable[str]) -> Iterator[Document]:
  entries = iter(entries)
  while group := list(itertools.islice(entries, ENTRIES_PER_DOCUMENT)):
    yield [Section("", group)]


class PageText(HTMLParser):
  """Collects the text of one page of HTML or XML: (kind, text) blocks.

  `article` matches the start tag whose content is kept; inside it, navigation,
  scripts, tables and link marks are dropped. Kinds are "prose", "code" and
  "title".
  """

  BLOCKS = frozenset(
    "p div section h1 h2 h3 h4 h5 h6 li dt dd dl ul ol blockquote br hr"
    " title para simpara listitem item term screen programlisting".split()
  )
  TITLES = frozenset("h1 h2 h3 h4 h5 h6 title".split())
  CODE = frozenset("pre screen programlisting".split())
  DROPPED_TAGS = frozenset(
    "script style nav table svg form sup math head header footer aside noscript"
    # DocBook's and Mallard's: who wrote it, what links to it.
    " info bookinfo articleinfo sect1info indexterm remark informaltable"
    " primary".split()
  )
  DROPPED_CLASSES = frozenset(
    "headerlink navheader navfooter toc footnotes sphinxsidebar related"
    " footnote versionmodified variablelist-toc id_link header contents"
    " table-of-contents nav-panel docnav sidebar up bottomnav topsection"
    "".split()
  )
  VOID = frozenset("br hr img input meta link col wbr".split())

  def __init__(self, article, dropped: Iterable[str] = ()):
    super().__init__(convert_charrefs=True)
    self._article = article
    self._dropped = self.DROPPED_TAGS | set(dropped)
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
    elif tag in self._dropped or classes & self.DROPPED_CLASSES:
      new_state = "dropped"
    elif state == "prose" and tag in self.CODE:
      new_state = "code"
    elif state == "prose" and tag in self.TITLES:
      new_state = "title"
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
    if self._state() in ("prose", "code", "title"):
      self._buffer.append(data)

  def _flush(self):
    text = " ".join("".join(self._buffer).split())
    if text:
      self.blocks.append((self._state(), text))
    self._buffer.clear()


def page_document(text: str, article, dropped: Iterable[str] = ()) -> Document:
  """Returns a page's prose, with at most CODE_SHARE of program code."""
  parser = PageText(article, dropped)
  parser.feed(text)
  parser.close()
  prose = sum(len(text) for kind, text in parser.blocks if kind == "prose")
  budget = int(prose * CODE_SHARE)
  document = [Section("", [])]
  for kind, text in parser.blocks:
    if kind == "title":
      document.append(Section(text, []))
      continue
    if kind == "code":
      if len(text) > budget:
        continue
      budget -= len(text)
    document[-1].paragraphs.append(text)
  return document


def pages(
  *globs: str, skipped: str = r"(?!)"
) -> Callable[[pathlib.Path], Iterator[Document]]:
  """A reader of pages of HTML.

  Args:
    globs: of the pages, from the root of the package.
    skipped: matches the names of pages that hold no prose: indexes, licences,
      people's names, change logs, and text that was written elsewhere.
  """
  pattern = re.compile(skipped)

  def read(root: pathlib.Path) -> Iterator[Document]:
    for path in _files(root, globs):
      # Some packages hold their pages a second time, through a link.
      if not pattern.match(path.name.split(".")[0]):
        text = path.read_text("utf-8", "replace")
        yield page_document(text, _article(text))

  return read


def _article(text: str) -> Callable[[str, dict[str, str | None]], bool]:
  if 'role="main"' in text:  # Sphinx
    return lambda _, attributes: attributes.get("role") == "main"
  if "<body" in text.lower():
    return lambda tag, _: tag == "body"
  return lambda *_: True


def xml(*globs: str) -> Callable[[pathlib.Path], Iterator[Document]]:
  """A reader of DocBook and Mallard files."""

  def read(root: pathlib.Path) -> Iterator[Document]:
    for path in _files(root, globs):
      text = path.read_text("utf-8", "replace")
      # Entities of the writers' own are names, mostly of programs.
      text = re.sub(r"&(?!lt;|gt;|amp;|quot;)([A-Za-z][\w.-]*);", r"\1", text)
      text = re.sub(r"<!\[CDATA\[|\]\]>|<!DOCTYPE[^\[>]*(\[.*?\])?>", "", text)
      yield page_document(text, lambda *_: True)

  return read


def sword(root: pathlib.Path) -> Iterator[Document]:
  """Yields the books of a SWORD module, without notes (OSIS in zlib blocks)."""
  for index in _files(root, ["usr/share/sword/modules/**/*.[bc]zs"]):
    blocks = index.with_suffix(index.suffix[:-1] + "z").read_bytes()
    for start, size, _ in struct.iter_unpack("<III", index.read_bytes()):
      if size:
        text = zlib.decompress(blocks[start : start + size]).decode("utf-8")
        text = f"<book><p>{text}</p></book>"
        yield page_document(text, lambda tag, _: tag == "book", ["note"])


def dictionary(
  name: str, clean: Callable[[str], str] = str
) -> Callable[[pathlib.Path], Iterator[Document]]:
  """A reader of a dictd file.

  Args:
    name: of the file, without its suffixes.
    clean: makes a paragraph of an entry; "" drops it.
  """
  digits = {
    c: i
    for i, c in enumerate(
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    )
  }

  def number(text: str) -> int:
    value = 0
    for c in text:
      value = value * 64 + digits[c]
    return value

  def read(root: pathlib.Path) -> Iterator[Document]:
    folder = root / "usr/share/dictd"
    data = gzip.decompress((folder / f"{name}.dict.dz").read_bytes())
    spans = set()
    for line in (folder / f"{name}.index").read_text("utf-8").splitlines():
      word, start, size = line.split("\t")
      if not word.startswith("00"):  # 00-database-info and the like
        spans.add((number(start), number(size)))
    entries = (
      clean(data[start : start + size].decode("utf-8", "replace"))
      for start, size in sorted(spans)
    )
    yield from _entries(" ".join(e.split()) for e in entries if e)

  return read


def webster(entry: str) -> str:
  r"""Drops pronunciations (`\Ab"di*cate\`), sources and etymologies."""
  entry = re.sub(r"\\[^\\]*\\,?", ":", entry, count=1)
  entry = re.sub(r"\[[^\]]*\]", "", entry)
  entry = re.sub(r"[{}]|^\s*Note:|--(?=[A-Z])", "", entry, flags=re.M)
  return re.sub(r"\s+([.,;:])", r"\1", entry)


def foldoc(entry: str) -> str:
  """Drops marks of subjects, links and dates."""
  entry = re.sub(r"<[^>]*>|\(\d{4}-\d\d-\d\d\)", "", entry)
  head, _, rest = entry.partition("\n")
  return f"{head}: {re.sub('[{}]', '', rest)}" if rest.strip() else ""


def pod(*globs: str) -> Callable[[pathlib.Path], Iterator[Document]]:
  """A reader of Perl's Plain Old Documentation (perlpod(1))."""

  def plain(text: str) -> str:
    while (new := re.sub(r"[A-Z]<([^<>]*)>", r"\1", text)) != text:
      text = new
    return text

  def read(root: pathlib.Path) -> Iterator[Document]:
    for path in _files(root, globs):
      document = [Section("", [])]
      for block in re.split(r"\n\s*\n", path.read_text("utf-8", "replace")):
        if heading := re.match(r"=head\d\s+(.+)", block):
          document.append(Section(plain(heading[1]), []))
        elif block and block[0] not in " \t=":
          document[-1].paragraphs.append(plain(block))
      yield document

  return read


def wesnoth(root: pathlib.Path) -> Iterator[Document]:
  """Yields the tale that the scenarios of Wesnoth's campaigns tell."""
  globs = ["usr/share/games/wesnoth/*/data/campaigns/*/scenarios/**/*.cfg"]
  for path in _files(root, globs):
    text = path.read_text("utf-8")
    title = re.search(r'^\s*name\s*=\s*_\s*"([^"]*)"', text, re.M)
    lines = re.findall(r'(?:message|story)\s*=\s*_\s*"((?:[^"]|"")*)"', text)
    lines = [re.sub(r"<[^>]*>|\^", "", line) for line in lines]
    yield [
      Section(title[1] if title else "", [x.replace('""', '"') for x in lines])
    ]


def endless_sky(root: pathlib.Path) -> Iterator[Document]:
  """Yields the conversations of Endless Sky's missions."""
  for path in _files(root, ["usr/share/games/endless-sky/data/**/*.txt"]):
    text = path.read_text("utf-8", "replace")
    for mission in re.split(r"^(?=\S)", text, flags=re.M):
      title = re.search(r'^\s+name [`"]([^`"]+)[`"]', mission, re.M)
      lines = re.findall(r"`([^`]+)`", mission)
      lines = [re.sub(r"<[^>]*>", "it", line) for line in lines]
      yield [Section(title[1] if title else "", [x for x in lines if " " in x])]


def crawl(root: pathlib.Path) -> Iterator[Document]:
  """Yields the descriptions of what lives and lies in Crawl's dungeon."""
  for path in _files(root, ["usr/share/crawl/dat/descript/*.txt"]):
    if path.stem == "quotes":  # of works of other people
      continue
    entries = path.read_text("utf-8").split("%%%%")
    pairs = [entry.strip().partition("\n") for entry in entries]
    yield from _entries(
      f"{name}: {' '.join(text.split())}"
      for name, _, text in pairs
      if text.strip() and not re.search(r"[{}_]", name + text)
    )


def _files(root: pathlib.Path, globs: Iterable[str]) -> list[pathlib.Path]:
  paths = {path for glob in globs for path in root.glob(glob)}
  return sorted(p for p in paths if p.is_file() and not p.is_symlink())
