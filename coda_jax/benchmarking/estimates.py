"""The TPU compiler's estimate for the encoder, on a machine without a TPU."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from coda_jax import analysis, backbones, partitioning
from coda_jax.benchmarking import models
from coda_jax.compiling import estimate, programs, topologies
from coda_jax.nn.config import CodaConfig, Conditional


def measure(
  config: Conditional,
  *,
  size: str,
  slice_name: str,
  coda: CodaConfig,
  reductions: Sequence[float],
  length: int,
  batch: int,
) -> list[dict[str, Any]]:
  """Compiles encoders for one chip, the parallel adapter first.

  Args:
    config: the backbone's shape, and the dtype of weights and computation.
    size: its name, for the rows.
    slice_name: a slice of `topologies`, such as "v5e:1x1"; one device is used.
    coda: attention, router and the rest; `reductions` replaces its reduction.
    reductions: r of each CoDA.
    length: input tokens of a sequence.
    batch: sequences.

  Returns:
    One row for each method and r, with the columns of `timing.measure`.
    `median_ms` is the compiler's cycles at the chip's clock, plus the time of
    kernels by their own FLOPs and bytes; `first_ms` is the time to compile.

  Raises:
    ModuleNotFoundError, ValueError: no `libtpu`, or an unknown slice.
  """
  where = topologies.get(slice_name)
  mesh = partitioning.mesh_of(None, where.devices[:1])
  rows: list[dict[str, Any]] = []
  for method, r in [("adapter", 1.0), *(("coda", r) for r in reductions)]:
    chosen = dataclasses.replace(coda, reduction=float(r))
    model = backbones.build(dataclasses.replace(config, coda=chosen))
    traced = programs.encode(model, mesh, length=length, batch_size=batch)
    cost = estimate.measure(traced, where.chip, 1)
    if not cost["fits"]:
      needed, memory = (cost[x] / 2**30 for x in ("peak_bytes", "hbm_bytes"))
      raise ValueError(
        f"{method} at r = {r:g} needs {needed:.1f} GiB, a chip has "
        f"{memory:.2f}; take a smaller --batch"
      )
    flops = analysis.encoder_flops(model.config, length)
    row = {
      "part": "encoder",
      "size": size,
      **models.columns(method, chosen),
      "length": length,
      "batch": batch,
      "dtype": model.config.dtype.name,
      "platform": f"{where.name}, one device, by its compiler",
      "first_ms": 1e3 * cost["compile_seconds"],
      "median_ms": cost["compute_ms"] + cost["kernels_ms"],
      "kernels_ms": cost["kernels_ms"],
      "flops": flops,
    }
    base = rows[0] if rows else row
    row["speedup"] = base["median_ms"] / row["median_ms"]
    row["flop_ratio"] = base["flops"] / row["flops"]
    row["share"] = row["speedup"] / row["flop_ratio"]
    rows.append(row)
  return rows
