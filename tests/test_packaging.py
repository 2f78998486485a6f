"""The distribution: what it imports, ships and requires, and its versions.

The tests of the distribution itself need it installed from a wheel, as
scripts/test.sh does; from a checkout they are skipped.
"""

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import coda_jax

ROOT = Path(__file__).parents[1]
PACKAGE = Path(coda_jax.__file__).parent
HEAVY = ("clu", "seqio", "tensorflow", "torch", "transformers")
PUBLIC = (
  "Bert",
  "BertConfig",
  "CodaConfig",
  "CodaLayer",
  "Selection",
  "T5Config",
  "Transformer",
  "embed",
  "generate",
  "load_adapter",
  "load_bank",
  "load_pretrained",
  "load_sentences",
  "merge_lora",
  "save_adapter",
  "score",
  "soft_top_k",
)


def modules_after(code: str) -> set[str]:
  """The top-level modules that a fresh process has loaded after `code`."""
  code += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
  )
  assert done.returncode == 0, done.stderr
  return set(done.stdout.split())


def test_import_loads_nothing_but_itself():
  extra = modules_after("import coda_jax") - modules_after("pass")
  assert extra <= {"coda_jax"} | set(sys.stdlib_module_names)


def test_public_names_load_no_other_framework():
  code = f"from coda_jax import {', '.join(PUBLIC)}"
  loaded = modules_after(code)
  assert {"coda_jax", "flax", "jax"} <= loaded
  assert not loaded.intersection(HEAVY)


def test_public_names_are_listed():
  assert set(PUBLIC) < set(coda_jax.__all__) <= set(dir(coda_jax))


def test_unknown_name():
  with pytest.raises(AttributeError, match=r"'soft_topk_'.*soft_top_k"):
    _ = coda_jax.soft_topk_


@pytest.fixture(scope="module")
def installed() -> metadata.Distribution:
  try:
    found = metadata.distribution("coda_jax")
  except metadata.PackageNotFoundError:
    pytest.skip("coda_jax is not installed")
  if "coda_jax/__init__.py" not in (found.read_text("RECORD") or ""):
    pytest.skip("coda_jax is not installed from a wheel")
  return found


def test_the_wheel_is_what_is_tested(installed):
  assert installed.locate_file("coda_jax").resolve() == PACKAGE.resolve()


def test_wheel_contents(installed):
  """Everything under coda_jax/ and configs/, and nothing else."""
  shipped = {
    file.as_posix()
    for file in installed.files
    if ".dist-info/" not in file.as_posix() and file.suffix != ".pyc"
  }
  expected = {
    file.relative_to(ROOT).as_posix()
    for file in (ROOT / "coda_jax").rglob("*")
    if file.is_file() and "__pycache__" not in file.parts
  } | {
    f"coda_jax/{file.relative_to(ROOT).as_posix()}"
    for file in (ROOT / "configs").rglob("*.gin")
  }
  assert shipped == expected
  assert any(name.startswith("coda_jax/configs/models/") for name in shipped)
  assert any(name.startswith("coda_jax/assets/") for name in shipped)


def test_versions_agree(installed):
  assert installed.version == coda_jax.__version__
  cited = re.search(
    r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE
  )
  assert cited[1] == coda_jax.__version__


def pins(version: str) -> dict[str, str]:
  """The constraints file of one version of Python, by canonical name."""
  text = (ROOT / f"requirements/constraints-py{version}.txt").read_text()
  return {
    canonicalize_name(name): pinned
    for name, pinned in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)
  }


@pytest.mark.parametrize("version", ["311", "312"])
def test_constraints_meet_the_bounds(installed, version):
  """But for the accelerators' plugins, whose sets are jax's own."""
  pinned = pins(version)
  for text in installed.requires:
    required = Requirement(text)
    name = canonicalize_name(required.name)
    assert name in pinned, text
    assert required.specifier.contains(pinned[name]), text


def test_ruff_is_the_same_everywhere():
  hook = re.search(
    r"ruff-pre-commit\n\s+rev: v(\S+)",
    (ROOT / ".pre-commit-config.yaml").read_text(),
  )
  assert {hook[1]} == {pins("311")["ruff"], pins("312")["ruff"]}


def imported(tree: ast.AST) -> set[str]:
  """Top-level modules that a file imports when it runs."""
  names = set()
  for node in ast.iter_child_nodes(tree):
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
      continue
    if isinstance(node, ast.Import):
      names |= {alias.name.split(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and not node.level:
      names.add(node.module.split(".")[0])
    names |= imported(node)
  return names


def test_every_import_is_declared(installed):
  required = {
    canonicalize_name(Requirement(r).name) for r in installed.requires
  }
  distributions = metadata.packages_distributions()
  for file in PACKAGE.rglob("*.py"):
    modules = imported(ast.parse(file.read_text()))
    if file.name == "distilled.py":
      modules -= {"t5x"}  # which is on no index: docs/t5x.md
    for module in modules - set(sys.stdlib_module_names) - {"coda_jax"}:
      names = distributions.get(module, [module])
      known = {canonicalize_name(name) for name in names}
      assert known & required, (
        f"{file.name} imports {module}, which setup.py does not name"
      )
