import gzip
import struct
import zlib

import pytest


@pytest.fixture(scope="module")
def build_corpus(load_script):
  return load_script("build_corpus")


@pytest.fixture(scope="module")
def readers(load_script):
  return load_script("corpus_readers")


def read(build_corpus, source, root):
  seen = set()
  return [
    text
    for document in build_corpus.documents(source, root)
    for text in build_corpus.clean(document, seen)
  ]


@pytest.fixture
def short_texts(build_corpus, monkeypatch):
  monkeypatch.setattr(build_corpus, "MIN_WORDS", 3)


def test_html_keeps_prose_only(build_corpus, tmp_path, short_texts):
  page = (
    "<html><head><title>T</title><script>var x;</script></head><body>"
    "<nav>Menu</nav><div role='main'><h1>Files<a class='headerlink'>¶</a></h1>"
    "<p>A <em>file</em> is “open”<br/>or not"
    f"<p>{'It is read line by line. ' * 3}</p>"
    "<table><tr><td>1</td><td><p>2</p></td></tr></table>"
    "<pre>f()</pre><pre>a long program, left out</pre>"
    "<ul><li>one<li>two</ul></div><div>Footer</div></body></html>"
  ).replace("role='main'", 'role="main"')
  folder = tmp_path / "usr/share/doc/python3.11/html"
  folder.mkdir(parents=True)
  (folder / "files.html").write_text(page, "utf-8")
  (folder / "license.html").write_text(page, "utf-8")
  assert read(build_corpus, "python", tmp_path) == [
    'Files\tA file is "open" or not It is read line by line. It is read line by'
    " line. It is read line by line. f() one two"
  ]


def test_wordnet_joins_related_glosses(build_corpus, tmp_path, short_texts):
  folder = tmp_path / "usr/share/wordnet"
  folder.mkdir(parents=True)
  for part in ("noun", "verb", "adv"):
    (folder / f"data.{part}").write_text("  1 licence\n")
  (folder / "data.adj").write_text(
    "  1 This is the licence\n"
    '00000001 01 a 01 galore(ip) 0 000 | in the great; "daffodils"  \n'
    '00000002 00 s 02 new_born 0 young 1 000 | not old; "a newborn child!"  \n'
    "00000003 00 s 01 old 0 000 | not young  \n"
  )
  assert read(build_corpus, "wordnet", tmp_path) == [
    'new born, young: not old; "a newborn child!" old: not young.',
    'galore: in the great; "daffodils".',
  ]


def test_sections_and_repeated_paragraphs(build_corpus, monkeypatch):
  monkeypatch.setattr(build_corpus, "MIN_WORDS", 9)
  once = "It is the one and only of a kind, and long."
  document = [
    ("1.2. The Kinds", [once, once, "f(x, y) -> [1, 2, 3]"]),
    ("Others", ["These are the short and the few of them in all, to you."]),
    ("Empty", ["42"]),
  ]
  seen = set()
  assert list(build_corpus.clean(document, seen)) == [
    "The Kinds\tIt is the one and only of a kind, and long.\tOthers\tThese are"
    " the short and the few of them in all, to you."
  ]
  assert list(build_corpus.clean(document[:1], seen)) == []
  german = "Das ist nicht der Text und wird auch nie ein solcher sein."
  assert list(build_corpus.clean([("", [german])], seen)) == []


def test_long_documents_are_cut(build_corpus, monkeypatch):
  monkeypatch.setattr(build_corpus, "MIN_WORDS", 2)
  monkeypatch.setattr(build_corpus, "MAX_WORDS", 4)
  document = [("T", ["a b of the in to and is"]), ("", ["an of be as"])]
  assert list(build_corpus.clean(document, set())) == [
    "T\ta b of the",
    "in to and is",
    "an of be as",
  ]


def test_dictionary(readers, tmp_path):
  entries = {
    "00-database-info": "About it",
    "Abbot": 'Abbot \\Ab"bot\\, n. [AS. abbod.]\n   The superior of an\n'
    "   abbey. {Abbess}. --Bailey.\n   [1913 Webster]\n",
  }
  digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  folder = tmp_path / "usr/share/dictd"
  folder.mkdir(parents=True)
  index, data = "", ""
  for word, text in entries.items():
    size = digits[len(text) // 64] + digits[len(text) % 64]
    index += f"{word}\t{digits[len(data)]}\t{size}\n"
    data += text
  (folder / "d.index").write_text(index)
  (folder / "d.dict.dz").write_bytes(gzip.compress(data.encode()))
  (document,) = readers.dictionary("d", readers.webster)(tmp_path)
  assert document[0].paragraphs == [
    "Abbot: n. The superior of an abbey. Abbess. Bailey."
  ]


def test_sword_leaves_notes_out(readers, tmp_path):
  folder = tmp_path / "usr/share/sword/modules/texts/ztext/x"
  folder.mkdir(parents=True)
  text = (
    '<title>Ruth</title><div sID="1" type="x-p"/> And <w lemma="7">it</w> came'
    '<note>Or was</note> to pass.<div eID="1"/>'
  )
  block = zlib.compress(text.encode())
  (folder / "ot.bzz").write_bytes(block)
  (folder / "ot.bzs").write_bytes(struct.pack("<III", 0, len(block), 99))
  ((_, section),) = readers.sword(tmp_path)
  assert section == ("Ruth", ["And it came", "to pass."])


def test_games_and_pod(readers, tmp_path):
  folder = tmp_path / "usr/share/games/wesnoth/1.16/data/campaigns/A/scenarios"
  folder.mkdir(parents=True)
  (folder / "1.cfg").write_text(
    'name= _ "Dusk"\nmessage= _ "He said ""no""."\ntype= "Elf"\n'
  )
  ((section,),) = readers.wesnoth(tmp_path)
  assert section == ("Dusk", ['He said "no".'])
  (tmp_path / "a.pod").write_text(
    "=head1 B<Names>\n\nUse F<C<x>>\nhere.\n\n  code\n\n=cut\n"
  )
  ((_, section),) = readers.pod("*.pod")(tmp_path)
  assert section == ("Names", ["Use x\nhere."])


def test_shards_hold_every_document_once(build_corpus, tmp_path, monkeypatch):
  monkeypatch.setattr(build_corpus, "SHARD_CHARACTERS", 10)
  texts = [f"text {i}" for i in range(7)]
  build_corpus.write_split(texts, tmp_path, "s-train")
  paths = sorted(tmp_path.glob("s-train-*-of-00004.txt"))
  assert len(paths) == 4
  lines = [line for path in paths for line in path.read_text().splitlines()]
  assert sorted(lines) == texts


def test_two_versions_of_a_package(build_corpus, tmp_path):
  for version in (1, 2):
    (tmp_path / f"wordnet-base_{version}_all.deb").touch()
  with pytest.raises(ValueError, match="holds 2 files named wordnet-base_"):
    build_corpus.unpack("wordnet-base", tmp_path, tmp_path)
