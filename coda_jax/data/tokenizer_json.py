"""Finds and reads a `tokenizer.json`, with the `tokenizers` library."""

import pathlib
from typing import Any

FILE = "tokenizer.json"
# Both name the special tokens; the first one that has a name decides.
NAMING_FILES = ("tokenizer_config.json", "special_tokens_map.json")


def find(path: pathlib.Path) -> pathlib.Path:
  """The `tokenizer.json` of a folder, or the file itself.

  Raises:
    FileNotFoundError: there is none; with the remedy where transformers can
      make it.
  """
  file = path / FILE if path.is_dir() else path
  if file.is_file():
    return file
  message = f"{file} does not exist"
  if any((file.parent / name).exists() for name in NAMING_FILES):
    message += (
      "; make it with transformers\n"
      '  python -c "from transformers import AutoTokenizer as T; '
      f"T.from_pretrained('{file.parent}').save_pretrained('{file.parent}')\""
    )
  raise FileNotFoundError(message)


def read(path: pathlib.Path, content: bytes) -> Any:
  """The `tokenizers.Tokenizer` of a file.

  Args:
    path: of the file, for messages.
    content: of the file.

  Raises:
    ModuleNotFoundError: the `tokenizers` library is missing.
    ValueError: the library can't read the file.
  """
  try:
    import tokenizers
  except ImportError as error:
    raise ModuleNotFoundError(
      f"{path} needs tokenizers: pip install 'coda_jax[sentences]'",
      name="tokenizers",
    ) from error
  try:
    return tokenizers.Tokenizer.from_buffer(content)
  # The library has no error class of its own.
  except Exception as error:
    raise ValueError(
      f"{path} is not a tokenizer that tokenizers {tokenizers.__version__} "
      f"reads ({error}); get the file again, or a newer tokenizers"
    ) from error
