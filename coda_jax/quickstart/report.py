"""The quickstart's table, results.json and plot."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from coda_jax.training.logging import format_table

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
  lines = [tuple(name for name, _, _ in _COLUMNS)]
  for row in rows:
    lines.append(
      tuple(
        form.format(row[field]) if row.get(field) is not None else "-"
        for _, field, form in _COLUMNS
      )
    )
  return format_table(lines)


def write_json(
  path: Path, rows: Sequence[Row], baselines: Sequence[Row]
) -> None:
  """Writes results.json."""
  content = {
    "rows": list(rows),
    "baselines": list(baselines),
    "environment": {
      "python": platform.python_version(),
      "jax": metadata.version("jax"),
      "flax": metadata.version("flax"),
      "platform": jax.default_backend(),
      "machine": platform.machine(),
    },
  }
  path.write_text(json.dumps(content, indent=2) + "\n")


def plot(path: Path, rows: Sequence[Row], baselines: Sequence[Row]) -> None:
  """Draws test accuracy on topics against the encoder's speed-up."""
  import matplotlib as mpl

  mpl.use("Agg")
  import matplotlib.pyplot as plt

  figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
  axes.plot(
    [row["encoder_speedup"] for row in rows],
    [100 * row["test_accuracy"] for row in rows],
    marker="o",
    color="tab:blue",
  )
  for row in rows:
    axes.annotate(
      row["label"],
      (row["encoder_speedup"], 100 * row["test_accuracy"]),
      xytext=(0, 8),
      textcoords="offset points",
      ha="center",
    )
  for row, style in zip(baselines, ("--", ":"), strict=False):
    axes.axhline(
      100 * row["test_accuracy"],
      linestyle=style,
      color="tab:gray",
      label=row["label"],
    )
  axes.set_xlabel("speed-up of the encoder over P-Adapter")
  axes.set_ylabel("BBC topic, test accuracy (%)")
  axes.margins(x=0.2)
  axes.set_ylim(0, 100)
  axes.grid(alpha=0.3)
  axes.legend(loc="lower left", fontsize="small")
  figure.savefig(path, dpi=150)
  plt.close(figure)
