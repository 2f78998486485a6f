import pytest


@pytest.fixture(scope="module")
def build_corpus(load_script):
  return load_script("build_corpus")


def test_html_keeps_prose_only(build_corpus, tmp_path):
  page = (
    "<html><head><title>T</title><script>var x;</script></head><body>"
    "<nav>Menu</nav><div role='main'><h1>Files<a class='headerlink'>¶</a></h1>"
    "<p>A <em>file</em> is “open”<br/>or not"
    f"<p>{'It is read line by line. ' * 3}</p>"
    "<table><tr><td>1</td><td><p>2</p></td></tr></table>"
    "<pre>f()</pre><pre>a long program, left out</pre>"
    "<ul><li>one<li>two</ul></div><div>Footer</div></body></html>"
  )
  folder = tmp_path / "usr/share/doc/python3.11/html"
  folder.mkdir(parents=True)
  (folder / "files.html").write_text(page, "utf-8")
  (folder / "license.html").write_text(page, "utf-8")
  assert list(build_corpus.documents("python", tmp_path)) == [
    'Files A file is "open" or not It is read line by line. It is read line by'
    " line. It is read line by line. f() one two"
  ]


def test_wordnet_joins_related_glosses(build_corpus, tmp_path):
  folder = tmp_path / "usr/share/wordnet"
  folder.mkdir(parents=True)
  for part in ("noun", "verb", "adv"):
    (folder / f"data.{part}").write_text("  1 licence\n")
  (folder / "data.adj").write_text(
    "  1 This is the licence\n"
    '00000001 01 a 01 galore(ip) 0 000 | in great numbers; "daffodils"  \n'
    '00000002 00 s 02 new_born 0 young 1 000 | not old; "a newborn child!"  \n'
    "00000003 00 s 01 old 0 000 | not young  \n"
  )
  assert list(build_corpus.documents("wordnet", tmp_path)) == [
    'new born, young: not old; "a newborn child!" old: not young.',
    'galore: in great numbers; "daffodils".',
  ]


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
