"""The memory and time of a compiled program on one device of a slice.

All figures are the compiler's estimates, or computed from them; nothing runs.
"""

import re
import resource
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from coda_jax import analysis, flops, report
from coda_jax.compiling import hlo
from coda_jax.compiling.topologies import Chip

Row = dict[str, Any]

NOTE = (
  "Estimates of the TPU's compiler, per chip; nothing was run. Compute is the "
  "compiler's count of cycles. It has no count for collectives, which are "
  "bytes over links here, or for kernels, which are their own FLOPs and bytes "
  "at the chip's peak. A step takes the first of its times if all collectives "
  "overlap with the rest, the second if none does."
)

_COLUMNS: Sequence[report.Column] = (
  ("program", "program", "{}"),
  ("method", "method", "{}"),
  ("r", "reductions", "{}"),
  ("slice", "slice", "{}"),
  ("mesh", "mesh", "{}"),
  ("fits", "verdict", "{}"),
  ("peak GiB", "peak_gib", "{:.2f}"),
  ("of", "hbm_gib", "{:.2f}"),
  ("arguments", "arguments_gib", "{:.2f}"),
  ("temporaries", "temporaries_gib", "{:.2f}"),
  ("TFLOP", "tflop", "{:.3g}"),
  ("GB", "gigabytes", "{:.3g}"),
  ("exchanged GB", "exchanged_gigabytes", "{:.3g}"),
  ("compute ms", "compute_ms", "{:.1f}"),
  ("kernels ms", "kernels_ms", "{:.1f}"),
  ("collectives ms", "collectives_ms", "{:.1f}"),
  ("step ms", "step", "{}"),
)

_COLLECTIVE_COLUMNS: Sequence[report.Column] = (
  *(
    c for c in _COLUMNS if c[1] in ("program", "method", "reductions", "slice")
  ),
  ("collective", "kind", "{}"),
  ("count", "count", "{:,}"),
  ("GB", "gb", "{:.3g}"),
)


def measure(traced: jax.stages.Traced, chip: Chip, devices: int) -> Row:
  """Compiles a program and estimates its memory and time on each device.

  Args:
    traced: the program, traced for devices of a slice.
    chip: the kind of device.
    devices: how many devices.

  Returns:
    {"fits", "peak_bytes", "hbm_bytes", "compile_seconds"}; if compilation
    succeeds, also {"compile_cpu_seconds", "host_peak_bytes" of
    this process so far, "arguments_bytes", "output_bytes",
    "donated_bytes", "temporaries_bytes", "code_bytes", "flops",
    "bytes_accessed", "cycles", "compute_ms", "kernels", "kernels_ms",
    "collectives": {kind: {"count", "bytes"}}, "collectives_ms", "step_ms":
    [least, most], "unknown_loops"}.

  Raises:
    RuntimeError: compilation fails, and not for lack of memory.
  """
  start, cpu_start = time.perf_counter(), time.process_time()
  try:
    compiled = traced.lower().compile()
  except RuntimeError as error:
    needed = needed_bytes(str(error))
    if needed is None:
      raise
    return {
      "fits": False,
      "peak_bytes": needed,
      "hbm_bytes": chip.hbm_bytes,
      "compile_seconds": time.perf_counter() - start,
    }
  seconds = time.perf_counter() - start
  cpu_seconds = time.process_time() - cpu_start
  memory = compiled.memory_analysis()
  cost = compiled.cost_analysis()
  costs = hlo.costs(compiled.as_text())
  compute = 1e3 * costs.cycles / chip.clock_hz
  kernels = 1e3 * sum(kernel_seconds(one, chip) for one in costs.kernels)
  exchange = 1e3 * sum(exchange_seconds(x, chip) for x in costs.collectives)
  peak = analysis.peak_bytes(compiled) + memory.generated_code_size_in_bytes
  return {
    "fits": peak <= chip.hbm_bytes,
    "peak_bytes": peak,
    "hbm_bytes": chip.hbm_bytes,
    "compile_seconds": seconds,
    "compile_cpu_seconds": cpu_seconds,
    "host_peak_bytes": 1024
    * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    "arguments_bytes": memory.argument_size_in_bytes,
    "output_bytes": memory.output_size_in_bytes,
    "donated_bytes": memory.alias_size_in_bytes,
    "temporaries_bytes": memory.temp_size_in_bytes,
    "code_bytes": memory.generated_code_size_in_bytes,
    "flops": flops.matrix_flops(traced.jaxpr) / devices,
    "bytes_accessed": cost["bytes accessed"],
    "cycles": costs.cycles,
    "compute_ms": compute,
    "kernels": sum(one.times for one in costs.kernels),
    "kernels_ms": kernels,
    "collectives": by_kind(costs.collectives),
    "collectives_ms": exchange,
    "step_ms": [
      max(compute + kernels, exchange),
      compute + kernels + exchange,
    ],
    "unknown_loops": costs.unknown_loops,
  }


def needed_bytes(message: str) -> int | None:
  """The memory that a program would need, from the compiler's error.

  Args:
    message: the error's text.

  Returns:
    Bytes, None if the error is about something else.
  """
  match = re.search(
    r"(?:Used|temporaries \(|requires) ?([\d.]+)([KMGT]?)\)? (?:of|exceeds)",
    message,
  )
  if "RESOURCE_EXHAUSTED" not in message or match is None:
    return None
  power = " KMGT".index(match[2] or " ")
  return int(float(match[1]) * 1024**power)


def exchange_seconds(one: hlo.Collective, chip: Chip) -> float:
  """The time of a collective over a ring of neighbours, both ways at once.

  A ring uses one of the two or three dimensions of the network, so a good
  schedule may be faster. Where the slice does not wrap around, a ring across
  its edge is slower.
  """
  share = (one.group - 1) / one.group
  if one.kind == "all-reduce":  # A reduce-scatter, and an all-gather of it.
    share *= 2
  elif one.kind == "collective-permute":
    share = 1.0
  return one.times * share * one.bytes / (2 * chip.link_bandwidth)


def kernel_seconds(one: hlo.Kernel, chip: Chip) -> float:
  """The time of a kernel that runs at the chip's peak."""
  arithmetic = (one.flops or 0.0) / chip.flops
  return one.times * max(arithmetic, one.bytes / chip.bandwidth)


def by_kind(collectives: Sequence[hlo.Collective]) -> dict[str, dict[str, int]]:
  """{kind: how many there are, and the bytes of their whole arrays}."""
  totals: dict[str, dict[str, int]] = {}
  for one in collectives:
    total = totals.setdefault(one.kind, {"count": 0, "bytes": 0})
    total["count"] += one.times
    total["bytes"] += one.times * one.bytes
  return totals


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows as text, without columns that are empty in every row."""
  shown = [_readable(row) for row in rows]
  columns = [c for c in _COLUMNS if any(row.get(c[1]) for row in shown)]
  return report.table(columns, shown)


def collectives(rows: Sequence[Mapping[str, Any]]) -> str:
  """The collectives by kind, as text; empty if there are none."""
  shown = [
    {**row, "kind": kind, "count": one["count"], "gb": one["bytes"] / 1e9}
    for row in rows
    for kind, one in row.get("collectives", {}).items()
  ]
  return report.table(_COLLECTIVE_COLUMNS, shown) if shown else ""


def _readable(row: Mapping[str, Any]) -> Row:
  shown = {**row, "verdict": "fits" if row["fits"] else "does not fit"}
  for name in ("peak", "hbm", "arguments", "temporaries"):
    if f"{name}_bytes" in row:
      shown[f"{name}_gib"] = row[f"{name}_bytes"] / 2**30
  if "flops" in row:
    shown["tflop"] = row["flops"] / 1e12
    shown["gigabytes"] = row["bytes_accessed"] / 1e9
    exchanged = sum(one["bytes"] for one in row["collectives"].values())
    shown["exchanged_gigabytes"] = exchanged / 1e9
    least, most = row["step_ms"]
    shown["step"] = f"{least:.1f} to {most:.1f}"
  return shown
