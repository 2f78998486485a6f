"""Times alternatives in turn, and makes rows of their times."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from coda_jax import analysis


class Call(NamedTuple):
  """A call to time.

  Attributes:
    run: does the work; jax arrays that it returns are waited for.
    flops: floating-point operations of a call, or None where not counted.
    peak_bytes: see `analysis.peak_bytes`; None where not counted.
  """

  run: Callable[[], Any]
  flops: float | None = None
  peak_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Subject:
  """An alternative to time against others.

  Attributes:
    columns: its description in its row: "method", "reduction" and so on.
    build: makes the `Call`, compiling what it can.
  """

  columns: Mapping[str, Any]
  build: Callable[[], Call]


def measure(subjects: Sequence[Subject], repeats: int) -> list[dict[str, Any]]:
  """Times subjects in turn, A B C A B C ..., after each was called twice.

  Args:
    subjects: the others are compared with the first.
    repeats: how often each is timed.

  Returns:
    One row a subject: its columns; `first_ms`, to build it and call it once
    (compilation and warm-up); `median_ms` of the later calls and the quartiles
    `low_ms` and `high_ms`; `speedup`. Where FLOPs were counted, `flop_ratio`
    and `share`, the speed-up over it. Where memory was counted, `peak_bytes`
    and `memory_ratio`.
  """
  calls, first_ms = [], []
  for subject in subjects:
    start = time.perf_counter()
    calls.append(subject.build())
    jax.block_until_ready(calls[-1].run())
    first_ms.append(1e3 * (time.perf_counter() - start))
  times = analysis.paired_times(
    {i: call.run for i, call in enumerate(calls)}, repeats
  )
  base = calls[0]
  base_ms = float(np.median(times[0]))
  rows = []
  for i, (subject, call) in enumerate(zip(subjects, calls, strict=True)):
    low, median, high = (
      float(x) for x in np.quantile(np.asarray(times[i]), [0.25, 0.5, 0.75])
    )
    row = {
      **subject.columns,
      "first_ms": first_ms[i],
      "median_ms": median,
      "low_ms": low,
      "high_ms": high,
      "speedup": base_ms / median,
      "flop_ratio": None,
      "share": None,
    }
    if base.flops and call.flops:
      row["flop_ratio"] = base.flops / call.flops
      row["share"] = row["speedup"] / row["flop_ratio"]
    if base.peak_bytes and call.peak_bytes:
      row["peak_bytes"] = call.peak_bytes
      row["memory_ratio"] = base.peak_bytes / call.peak_bytes
    rows.append(row)
  return rows
