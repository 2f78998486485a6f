"""Tables of the names that parameters have in another library, and here.

A row is (name in the file, parameter path, whether the matrix is transposed).
Both may have placeholders: {i} stands for a number, such as a layer's, and any
other letter for one of the words that `Words` lists for it.
"""

import re
from collections.abc import Mapping, Sequence

Rows = Sequence[tuple[str, str, bool]]
# {placeholder: {word in the file: word in the path}}.
Words = Mapping[str, Mapping[str, str]]


def to_path(name: str, rows: Rows, words: Words) -> tuple[str | None, bool]:
  """(parameter path, transposed) of a tensor's name; None if it has none."""
  return _translate(name, rows, words)


def to_name(path: str, rows: Rows, words: Words) -> tuple[str | None, bool]:
  """(tensor's name, transposed) of a parameter path; None if it has none."""
  return _translate(
    path,
    [(ours, theirs, transposed) for theirs, ours, transposed in rows],
    {
      placeholder: {ours: theirs for theirs, ours in pairs.items()}
      for placeholder, pairs in words.items()
    },
  )


def _translate(name: str, rows: Rows, words: Words) -> tuple[str | None, bool]:
  for source, target, transposed in rows:
    if match := re.fullmatch(_pattern(source, words), name):
      found = {
        placeholder: words[placeholder][value]
        if placeholder in words
        else value
        for placeholder, value in match.groupdict().items()
      }
      return target.format(**found), transposed
  return None, False


def _pattern(template: str, words: Words) -> str:
  """The regular expression of a name with placeholders."""
  pattern = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)")
  for placeholder, pairs in words.items():
    pattern = pattern.replace(
      rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{'|'.join(pairs)})"
    )
  return pattern
