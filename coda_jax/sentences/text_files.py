"""The texts of a file: a line each, or a column of a table."""

from collections.abc import Iterator

from coda_jax.data import table_files


def read(path: str, column: str = "text") -> Iterator[str]:
  """The texts of a file, in order.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a row that can't be read or lacks the column.
  """
  if path.endswith(".txt"):
    with open(path, "rb") as file:
      yield from _texts(table_files.text_lines(file, path), "text")
  else:
    table_files.check_ending(path)
    yield from _texts(table_files.read(path), column)


def _texts(rows: table_files.Rows, column: str) -> Iterator[str]:
  for where, row in rows:
    if isinstance(row, str):
      raise ValueError(f"{where}: {row}")
    if not isinstance(row.get(column), str):
      raise ValueError(
        f"{where}: --column={column} is {row.get(column)!r}; expected a text. "
        f"The columns are {sorted(map(str, row))}"
      )
    yield row[column]
