"""Numbers, durations and tables as text."""

from collections.abc import Mapping, Sequence


def format_table(rows: Sequence[Sequence[str]]) -> str:
  """Rows of text in columns, a rule under the first; numbers to the right."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
    "  ".join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    for row in rows
  ]
  lines.insert(1, "  ".join("-" * width for width in widths))
  return "\n".join(lines)


def format_scalars(scalars: Mapping[str, float]) -> str:
  """`name value` pairs, four significant digits."""
  return "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())


def format_seconds(seconds: float) -> str:
  """`1:02:03`, or `2:03` below an hour."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
