"""Runs the documentation's Python, and checks that its commands are there."""

import pathlib
import re
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
  for page in PAGES:
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
    for i, text in enumerate(found):
      yield pytest.param(text, id=f"{page.name}-{i}")


@pytest.mark.parametrize("text", list(blocks("python")))
def test_python_runs(text, capsys):
  exec(compile(text, "documentation", "exec"), {"__name__": "__main__"})


def commands():
  for block in blocks("sh"):
    lines = block.values[0].replace("\\\n", " ").splitlines()
    for i, line in enumerate(lines):
      words = shlex.split(line, comments=True)
      if words:
        yield pytest.param(words, id=f"{block.id}-{i}")


@pytest.mark.parametrize("words", list(commands()))
def test_commands_exist(words):
  """Scripts are there, modules have the flags, gin files and data are ours."""
  while re.fullmatch(r"[A-Z_]+=.*", words[0]):
    words = words[1:]
  if words[0].startswith("scripts/"):
    assert subprocess.run(["bash", "-n", ROOT / words[0]]).returncode == 0
  for word in words:
    if match := re.fullmatch(r"--gin_file=(.*)", word):
      assert (ROOT / "configs" / match[1]).exists(), word
    if re.fullmatch(r"(scripts|configs|tests|requirements)/\S+", word):
      assert (ROOT / word).exists(), word
  if words[:2] == ["python", "-m"] and words[2].startswith("coda_jax."):
    module = ROOT / (words[2].replace(".", "/"))
    assert (
      module.with_suffix(".py").exists() or (module / "__main__.py").exists()
    )


def links():
  for page in PAGES:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
      if not target.startswith("http"):
        yield pytest.param(page.parent / target, id=f"{page.name}-{target}")


@pytest.mark.parametrize("path", list(links()))
def test_links_lead_somewhere(path):
  assert path.exists()
