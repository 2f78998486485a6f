"""Runs the documentation's Python, and follows its links."""

import pathlib
import re

import pytest

from coda_jax.checkpoints import installed

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks():
  for page in PAGES:
    found = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    for i, text in enumerate(found):
      yield pytest.param(text, id=f"{page.name}-{i}")


@pytest.mark.parametrize("text", list(blocks()))
def test_python_runs(text, capsys):
  for name in installed.MODELS:
    if name in text:
      try:
        installed.find(name)
      except ModuleNotFoundError as error:
        pytest.skip(str(error))
  exec(compile(text, "documentation", "exec"), {"__name__": "__main__"})


def links():
  for page in PAGES:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
      if not target.startswith("http"):
        yield pytest.param(page, target, id=f"{page.name}-{target}")


def anchors(page):
  """As GitHub makes them of headings."""
  for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
    yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_links_lead_somewhere(page, target):
  path, _, anchor = target.partition("#")
  found = page.parent / path if path else page
  assert found.exists()
  assert not anchor or anchor in anchors(found)
