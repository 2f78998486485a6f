"""Tables and plots of measurements, and their environment."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax

from coda_jax.formatting import format_table

# Heading, field of a row, format.
Column = tuple[str, str, str]


class Point(NamedTuple):
  """A measured model in a plot.

  Attributes:
    label: the text at the point.
    speedup: on the x axis.
    quality: the metric.
  """

  label: str
  speedup: float
  quality: float


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows in columns; a field that a row lacks is a dash."""
  lines = [tuple(heading for heading, _, _ in columns)]
  for row in rows:
    lines.append(
      tuple(
        form.format(row[field]) if row.get(field) is not None else "-"
        for _, field, form in columns
      )
    )
  return format_table(lines)


def environment() -> dict[str, Any]:
  """The versions and the device that results depend on."""
  return {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "flax": metadata.version("flax"),
    "platform": jax.default_backend(),
    "device": jax.devices()[0].device_kind,
    "machine": platform.machine(),
    "cpu_cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
  }


def plot(
  path: Path,
  lines: Mapping[str, Sequence[Point]],
  *,
  xlabel: str,
  ylabel: str,
  references: Mapping[str, float] | None = None,
  ylim: tuple[float, float] | None = None,
) -> None:
  """Draws a metric against speed-up, as a PNG.

  Args:
    path: the file.
    lines: {label: points, joined by a line}.
    xlabel: the parts that the speed-up compares.
    ylabel: the metric.
    references: {label: metric of something without a speed}, dashed lines.
    ylim: range of the metric; None fits it to the points.

  Raises:
    ModuleNotFoundError: matplotlib is not installed.
  """
  plt, axes = _axes()
  for label, points in lines.items():
    axes.plot(
      [point.speedup for point in points],
      [point.quality for point in points],
      marker="o",
      label=label if len(lines) > 1 else None,
    )
    # A line of one point is named by the legend.
    for point in points if len(points) > 1 or len(lines) == 1 else ():
      axes.annotate(
        point.label,
        (point.speedup, point.quality),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
      )
  styles = ("--", ":", "-.")
  for i, (label, quality) in enumerate((references or {}).items()):
    axes.axhline(
      quality, linestyle=styles[i % 3], color="tab:gray", label=label
    )
  axes.set_xlabel(xlabel)
  axes.set_ylabel(ylabel)
  axes.margins(x=0.2, y=0.2)
  axes.set_ylim(ylim)
  axes.grid(alpha=0.3)
  if len(lines) > 1 or references:
    axes.legend(loc="lower left", fontsize="small")
  _save(plt, axes, path)


def plot_times(
  path: Path, lines: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
  """Draws times over lengths, both logarithmic, as a PNG.

  Args:
    path: the file.
    lines: {label: (tokens, milliseconds) pairs, joined by a line}.

  Raises:
    ModuleNotFoundError: matplotlib is not installed.
  """
  plt, axes = _axes()
  for label, points in lines.items():
    axes.plot(*zip(*points, strict=True), marker="o", label=label)
  axes.set_xscale("log", base=2)
  axes.set_yscale("log")
  axes.set_xlabel("tokens")
  axes.set_ylabel("milliseconds")
  axes.grid(alpha=0.3)
  axes.legend(fontsize="small")
  _save(plt, axes, path)


def _axes() -> tuple[Any, Any]:
  """matplotlib's pyplot, without a screen, and an empty plot."""
  import matplotlib as mpl

  mpl.use("Agg")
  import matplotlib.pyplot as plt

  return plt, plt.subplots(figsize=(6, 4), layout="constrained")[1]


def _save(plt: Any, axes: Any, path: Path) -> None:
  axes.figure.savefig(path, dpi=150)
  plt.close(axes.figure)
