import importlib.util
import pathlib
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="session")
def load_script():
  """Imports a file of scripts/ by its name, with what it imports there."""
  sys.path.append(str(SCRIPTS))

  def load(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

  return load
