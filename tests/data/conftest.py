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


@pytest.fixture
def prepare(tmp_path, monkeypatch):
  """Prepares a data set in a TFDS_DATA_DIR of the test's own.

  The features are those of TFDS's own builder, so that examples which do not
  fit the real schema are refused.
  """
  import tensorflow_datasets as tfds

  data_dir = tmp_path / "tfds"
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))

  def store(name, in_order=True, **splits):
    path, _, version = name.partition(":")
    dataset, _, config = path.partition("/")
    real = tfds.builder(path, data_dir=tmp_path / "unprepared")
    tfds.dataset_builders.store_as_tfds_dataset(
      name=dataset,
      config=config or None,
      version=version,
      data_dir=data_dir,
      split_datasets={
        split.replace("__", "-"): list(enumerate(rows))
        for split, rows in splits.items()
      },
      features=real.info.features,
      disable_shuffling=in_order,  # such data can't be trained on
    )
    return data_dir.joinpath(*path.split("/"), version)

  return store
