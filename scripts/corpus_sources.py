"""The Debian 12 packages that the pretraining corpus is made of.

Only of the section main, whose licences are free; licences are those that each
package's copyright file gives for the text, and texts under the GFDL have no
invariant sections.
"""

import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import corpus_readers
from corpus_readers import Document, dictionary, pages, xml

# References to one program count for less than general English does.
MANUAL_WORDS = 1_500_000


class Source(NamedTuple):
  """Text of one kind.

  Attributes:
    packages: that hold it.
    text: what it is.
    licence: of the text.
    read: the documents of an unpacked package.
    max_words: how much of it is taken.
  """

  packages: tuple[str, ...]
  text: str
  licence: str
  read: Callable[[pathlib.Path], Iterator[Document]]
  max_words: int = MANUAL_WORDS


_CAMPAIGNS = "did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs"
_INDEX = r"index|genindex|search|contents|license|copyright|changelog|release"

SOURCES = {
  "wordnet": Source(
    ("wordnet-base",),
    "glosses and examples",
    "WordNet licence",
    corpus_readers.wordnet,
    10**9,
  ),
  "webster": Source(
    ("dict-gcide",),
    "Webster's dictionary of 1913, and additions",
    "GPL-3+",
    dictionary("gcide", corpus_readers.webster),
    10**9,
  ),
  "devil": Source(
    ("dict-devil",),
    "The Devil's Dictionary",
    "public domain",
    dictionary("devil", corpus_readers.webster),
  ),
  "foldoc": Source(
    ("dict-foldoc",),
    "Dictionary of Computing",
    "GFDL-1.1+",
    dictionary("foldoc", corpus_readers.foldoc),
  ),
  "jargon": Source(
    ("dict-jargon",),
    "The Jargon File",
    "public domain",
    dictionary("jargon"),
  ),
  "kjv": Source(
    ("sword-text-kjv",),
    "King James Bible",
    "public domain",
    corpus_readers.sword,
  ),
  "web": Source(
    ("sword-text-web",),
    "World English Bible",
    "public domain",
    corpus_readers.sword,
  ),
  "henry": Source(
    ("sword-comm-mhcc",),
    "Matthew Henry's commentary",
    "public domain",
    corpus_readers.sword,
  ),
  "spurgeon": Source(
    ("sword-comm-tdavid",),
    "Spurgeon's Treasury of David",
    "public domain",
    corpus_readers.sword,
    10**9,
  ),
  "scofield": Source(
    ("sword-comm-scofield",),
    "Scofield's notes",
    "public domain",
    corpus_readers.sword,
  ),
  "anarchism": Source(
    ("anarchism",),
    "An Anarchist FAQ, essays",
    "GPL-2",
    pages("usr/share/doc/anarchism/html/*.html", skipped=r"links|index"),
    10**9,
  ),
  "wesnoth": Source(
    tuple(f"wesnoth-1.16-{name}" for name in _CAMPAIGNS.split()),
    "tales of Battle for Wesnoth's campaigns",
    "GPL-2+",
    corpus_readers.wesnoth,
  ),
  "endless_sky": Source(
    ("endless-sky-data",),
    "conversations of Endless Sky",
    "GPL-3+",
    corpus_readers.endless_sky,
  ),
  "crawl": Source(
    ("crawl-common",),
    "descriptions of Dungeon Crawl",
    "GPL-2+",
    corpus_readers.crawl,
  ),
  "handbook": Source(
    ("debian-handbook",),
    "The Debian Administrator's Handbook",
    "CC-BY-SA-3.0 or GPL-2+",
    pages("usr/share/doc/debian-handbook/html/en-US/*.html"),
  ),
  "debian": Source(
    (
      "debian-reference-en",
      "developers-reference",
      "debian-policy",
      "debian-history",
      "debian-faq",
      "debian-kernel-handbook",
      "harden-doc",
      "installation-guide-amd64",
      "debmake-doc",
      "fai-doc",
      "aptitude-doc-en",
    ),
    "guides and history of Debian",
    "GPL-2+, Expat, and the FAQ's",
    pages(
      "usr/share/debian-reference/*.en.html",
      "usr/share/developers-reference/*.html",
      "usr/share/doc/debian-policy/policy.html/*.html",
      "usr/share/doc/debian-history/docs/*.en.html",
      "usr/share/doc/debian/FAQ/*.en.html",
      "usr/share/doc/kernel-handbook*/**/*.html",
      "usr/share/doc/debian-kernel-handbook/**/*.html",
      "usr/share/doc/harden-doc/html/en-US/*.html",
      "usr/share/doc/installation-guide-amd64/en/*.html",
      "usr/share/doc/debmake-doc/html/*.html",
      "usr/share/doc/fai-doc/**/*.html",
      "usr/share/doc/aptitude/html/en/*.html",
      skipped=_INDEX,
    ),
  ),
  "debian_edu": Source(
    ("debian-edu-doc-en", "freedombox-doc-en"),
    "manuals of Debian Edu and FreedomBox",
    "GPL-2+, CC-BY-SA-3.0",
    pages(
      "usr/share/doc/debian-edu-doc-en/*.html",
      "usr/share/freedombox/manual/en/*.html",
    ),
  ),
  "gnome": Source(
    ("gnome-user-docs", "evolution-common"),
    "help of GNOME and Evolution",
    "CC-BY-SA-3.0",
    xml("usr/share/help/C/**/*.page"),
  ),
  "gnucash": Source(
    ("gnucash-docs",),
    "guide to book-keeping",
    "GFDL-1.1+",
    xml("usr/share/help/C/gnucash-guide/*.xml"),
  ),
  "kstars": Source(
    ("kstars-data",),
    "handbook of astronomy",
    "GFDL-1.2+",
    xml("usr/share/doc/HTML/en/kstars/*.docbook"),
  ),
  "gimp": Source(
    ("gimp-help-en",),
    "manual of GIMP",
    "GFDL-1.2+",
    pages("usr/share/gimp/2.0/help/en/*.html", skipped=_INDEX + "|gfdl|bibl"),
  ),
  "libreoffice": Source(
    ("libreoffice-help-en-us",),
    "help of LibreOffice",
    "MPL-2.0",
    pages("usr/share/libreoffice/help/en-US/text/**/*.html"),
  ),
  "python": Source(
    ("python3.11-doc",),
    "documentation of Python",
    "PSF-2.0",
    pages(
      "usr/share/doc/python3.11/html/**/*.html",
      skipped=r"genindex|py-modindex|search|contents|download|license"
      r"|copyright|index|changelog|about",
    ),
  ),
  "postgresql": Source(
    ("postgresql-doc-15",),
    "manual of PostgreSQL",
    "PostgreSQL licence",
    pages(
      "usr/share/doc/postgresql-doc-15/html/**/*.html",
      # The page on regular expressions comes from Tcl's manual.
      skipped=r"bookindex|legalnotice|biblio|release|appendix|sql-keywords"
      r"|features|errcodes|functions-matching|acronyms|index|external-",
    ),
  ),
  "perl": Source(
    ("perl-doc",),
    "documentation of Perl",
    "GPL-1+ or Artistic",
    corpus_readers.pod(
      "usr/share/perl/5.36.0/pod/perl[!0-9]*.pod",
    ),
  ),
  "git": Source(
    ("git-doc",),
    "documentation of Git",
    "GPL-2",
    pages("usr/share/doc/git-doc/**/*.html", skipped=_INDEX + "|RelNotes"),
  ),
  "apache": Source(
    ("apache2-doc",),
    "manual of the Apache HTTP Server",
    "Apache-2.0",
    pages("usr/share/doc/apache2-doc/manual/en/**/*.html", skipped=_INDEX),
  ),
  "django": Source(
    ("python-django-doc",),
    "documentation of Django",
    "BSD-3-Clause",
    pages(
      "usr/share/doc/python-django-doc/html/[!_]*/**/*.html",
      skipped=_INDEX + "|[0-9]",
    ),
  ),
  "sqlite": Source(
    ("sqlite3-doc",),
    "documentation of SQLite",
    "public domain",
    pages("usr/share/doc/sqlite3/*.html", skipped=_INDEX + "|changes|c3ref"),
  ),
  "linux": Source(
    ("linux-doc-6.1",),
    "documentation of the Linux kernel",
    "GPL-2",
    pages(
      "usr/share/doc/linux-doc-6.1/html/[!t]*/**/*.html",
      skipped=_INDEX + "|maintainers",
    ),
  ),
  "grass": Source(
    ("grass-doc",),
    "manual of GRASS GIS",
    "GPL-2+",
    pages("usr/share/doc/grass-doc/html/*.html", skipped=_INDEX),
  ),
  "octave": Source(
    ("octave-doc",),
    "manual of Octave",
    "GPL-3+",
    pages("usr/share/doc/octave/octave.html/*.html", skipped=_INDEX),
  ),
  "r": Source(
    ("r-doc-html",),
    "manuals of R",
    "GPL-2",
    pages("usr/share/R/doc/manual/*.html", skipped=_INDEX),
  ),
  "krb5": Source(
    ("krb5-doc",),
    "documentation of Kerberos",
    "CC-BY-SA-3.0",
    pages("usr/share/doc/krb5-doc/**/*.html", skipped=_INDEX + "|mitK5"),
  ),
  "erlang": Source(
    ("erlang-doc",),
    "documentation of Erlang",
    "Apache-2.0",
    pages(
      "usr/share/doc/erlang-doc/**/*.html", skipped=_INDEX + "|notes|.*_app$"
    ),
  ),
  "shorewall": Source(
    ("shorewall-doc",),
    "documentation of Shorewall",
    "GFDL-1.2+",
    pages(
      "usr/share/doc/shorewall-doc/html/*.htm*", skipped=_INDEX + "|GnuCopy"
    ),
  ),
  "postfix": Source(
    ("postfix-doc",),
    "documentation of Postfix",
    "EPL-2.0 or IPL-1.0",
    pages("usr/share/doc/postfix/html/*.html", skipped=_INDEX),
  ),
  "exim": Source(
    ("exim4-doc-html",),
    "specification of Exim",
    "GPL-2+",
    pages("usr/share/doc/exim4-doc-html/**/*.html", skipped=_INDEX),
  ),
  "borg": Source(
    ("borgbackup-doc", "scons-doc"),
    "documentation of Borg and SCons",
    "BSD-3-Clause, Expat",
    pages(
      "usr/share/doc/borgbackup/html/**/*.html",
      "usr/share/doc/scons*/**/*.html",
      skipped=_INDEX + "|changes|authors",
    ),
  ),
}
