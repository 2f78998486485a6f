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
  ("topic dev", "dev_accuracy", "{:.3f}"),
  ("topic test", "test_accuracy", "{:.3f}"),
  ("headline test, ROUGE-1", "test_rouge1", "{:.3f}"),
  ("encoder ms", "encoder_ms", "{:.0f}"),
  ("speed-up", "encoder_speedup", "{:.2f}x"),
  ("inference ms", "inference_ms", "{:.0f}"),
  ("speed-up", "inference_speedup", "{:.2f}x"),
)


def table(rows: Sequence[Row]) -> str:
  """The rows in columns; a field that a row lacks is a dash."""
  return report.table(_COLUMNS, rows)


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
      row["label"], row["encoder_speedup"], 100 * row["test_accuracy"]
    )
    for row in rows
  ]
  report.plot(
    path,
    {"": points},
    xlabel="speed-up of the encoder over P-Adapter",
    ylabel="BBC topic, test accuracy (%)",
    references={b["label"]: 100 * b["test_accuracy"] for b in baselines},
    ylim=(0, 100),
  )
