"""Imports go one way, in the order of the table in CONTRIBUTING.md."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "coda_jax").rglob("*.py"))


def order():
  """The packages, from the first to the last."""
  text = (ROOT / "CONTRIBUTING.md").read_text()
  table = text.split("| package | content |")[1].split("\n\n")[0]
  rows = [line.split("|")[1] for line in table.splitlines()[2:]]
  return re.findall(r"`(\w+)`", " ".join(rows))


def package(parts):
  return parts[1].removesuffix(".py") if len(parts) > 1 else "coda_jax"


def imports(file):
  """(line, package) of what is imported when the module is."""
  for node in ast.parse(file.read_text()).body:
    if isinstance(node, ast.ImportFrom) and node.module:
      if node.module == "coda_jax":
        yield from ((node.lineno, name.name) for name in node.names)
      elif node.module.startswith("coda_jax."):
        yield node.lineno, node.module.split(".")[1]


def test_the_table_has_every_package():
  own = {package(f.relative_to(ROOT).parts) for f in FILES}
  assert sorted(order()) == sorted(own - {"__init__"})


@pytest.mark.parametrize(
  "file", FILES, ids=lambda f: str(f.relative_to(ROOT / "coda_jax"))
)
def test_a_package_imports_what_stands_above_it(file):
  place = order().index
  own = package(file.relative_to(ROOT).parts)
  if own == "__init__":
    return
  for line, name in imports(file):
    assert place(name) <= place(own), f"line {line} imports {name}"
