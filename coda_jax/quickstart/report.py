"""The quickstart's table, results.json and plot."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coda_jax import report

Row = Mapping[str, Any]

# Column, field, format.
_COLUMNS = (
  ("method", "label", "{}"),
  ("trained", "trained_share", "{:.2%}"),
  ("topic", "test_topic_accuracy", "{:.3f}"),
  ("headline, ROUGE-1", "test_headline_rouge1", "{:.3f}"),
  ("find", "test_find_accuracy", "{:.3f}"),
  ("encoder ms", "encoder_ms", "{:.0f}"),
  ("speed-up", "encoder_speedup", "{:.2f}x"),
  ("inference ms", "inference_ms", "{:.0f}"),
  ("speed-up", "inference_speedup", "{:.2f}x"),
)

# Task, field, what 1/100 of it is called.
_COMPARED = (
  ("topics", "test_topic_accuracy", "points"),
  ("headlines", "test_headline_rouge1", "points of ROUGE-1"),
  ("finding words", "test_find_accuracy", "points"),
)


def table(rows: Sequence[Row]) -> str:
  """The rows in columns; a field that a row lacks is a dash."""
  return report.table(_COLUMNS, rows)


def sentences(rows: Sequence[Row]) -> list[str]:
  """Says how far each row is from the first one, in plain words."""
  first, lines = rows[0], []
  for row in rows[1:]:
    parts = [
      _difference(name, 100 * (row[field] - first[field]), unit)
      for name, field, unit in _COMPARED
      if field in row
    ]
    lines.append(
      f"{row['label']}, {row['encoder_speedup']:.1f}x as fast: "
      f"{', '.join(parts)}, compared with the {first['label']}."
    )
  return lines


def _difference(name: str, points: float, unit: str) -> str:
  if abs(points) < 0.05:
    return f"{name} level"
  return f"{name} {abs(points):.1f} {unit} {'above' if points > 0 else 'below'}"


def write_json(
  path: Path, rows: Sequence[Row], baselines: Sequence[Row]
) -> None:
  """Writes results.json."""
  content = {
    "rows": list(rows),
    "baselines": list(baselines),
    "environment": report.environment(),
  }
  path.write_text(json.dumps(content, indent=2) + "\n")


def plot(path: Path, rows: Sequence[Row], baselines: Sequence[Row]) -> None:
  """Draws test accuracy on topics against the encoder's speed-up."""
  points = [
    report.Point(
      row["label"], row["encoder_speedup"], 100 * row["test_topic_accuracy"]
    )
    for row in rows
    if "test_topic_accuracy" in row
  ]
  report.plot(
    path,
    {"": points},
    xlabel="speed-up of the encoder over the parallel adapter",
    ylabel="BBC topic, test accuracy (%)",
    references={b["label"]: 100 * b["test_topic_accuracy"] for b in baselines},
    ylim=(0, 100),
  )
