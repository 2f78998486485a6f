"""Runs the documentation's Python, and reads its commands as we would."""

import argparse
import contextlib
import importlib
import itertools
import pathlib
import re
import shlex
import subprocess

import pytest

from coda_jax import cli
from coda_jax.training import hosts

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


def commands(*modules):
  """Those of the documentation; with `modules`, the arguments given to these.

  Variables that are set in front of a command are left out.
  """
  for block in blocks("sh"):
    lines = block.values[0].replace("\\\n", " ").splitlines()
    for i, line in enumerate(lines):
      words = shlex.split(line, comments=True)
      while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
      name = words[2] if words[:2] == ["python", "-m"] else None
      if words and (name in modules or not modules):
        yield pytest.param(words, id=f"{block.id}-{i}")


@pytest.mark.parametrize("words", list(commands()))
def test_commands_exist(words):
  """Scripts and modules are there, gin files and data are ours."""
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


def call(words):
  """Runs a command's module in this process, up to the first pipe."""
  arguments = list(itertools.takewhile(lambda word: word != "|", words[3:]))
  return importlib.import_module(words[2]).main(arguments)


@pytest.mark.parametrize(
  "words", list(commands("coda_jax.train", "coda_jax.eval", "coda_jax.infer"))
)
def test_macros_are_known_and_none_is_missing(words, monkeypatch):
  configured = []

  def configure(function, program, description, argv, instead=None):
    del instead
    cli.configure(argv, program, description)
    configured.append(cli.configured(function))
    return 0

  monkeypatch.setattr(cli, "run", configure)
  monkeypatch.setattr(cli, "write_config", lambda macro: None)
  monkeypatch.setattr(hosts, "joined", lambda *args: contextlib.nullcontext())
  assert call(words) == 0
  assert configured


class Parsed(Exception):
  """The command line is right."""


@pytest.mark.parametrize(
  "words",
  list(
    commands(
      "coda_jax.benchmark",
      "coda_jax.convert",
      "coda_jax.export",
      "coda_jax.inspect",
      "coda_jax.quickstart",
      "coda_jax.under_t5x.saved_model",
    )
  ),
)
def test_options_are_known(words, monkeypatch):
  parse = argparse.ArgumentParser.parse_args

  def stop(self, *args):
    parse(self, *args)
    raise Parsed

  monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
  with pytest.raises(Parsed):
    call(words)


def links():
  for page in PAGES:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
      if not target.startswith("http"):
        yield pytest.param(page.parent / target, id=f"{page.name}-{target}")


@pytest.mark.parametrize("path", list(links()))
def test_links_lead_somewhere(path):
  assert path.exists()
