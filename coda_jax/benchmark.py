"""Measures CoDA against parallel adapters and against peers, in one run.

python -m coda_jax.benchmark --size base --length 512 --batch 4 \
  --reductions 3,5,8 --json benchmark.json --plot benchmark.png
python -m coda_jax.benchmark --part train --decode_length 64
python -m coda_jax.benchmark --part soft_top_k --batch 32 --length 512,4096
python -m coda_jax.benchmark --batch 32 --dtype bfloat16 --compile_for v5e:1x1

All alternatives are timed in turn, on random weights and tokens. Speed-ups are
over the first one. The FLOP ratio is the speed-up that the arithmetic allows,
the share is how much of it was reached. A training step is the trainer's own,
with Adafactor on adapters, routers and norms alone; its FLOPs and its memory
are the compiler's count. With --part distil CoDA learns from the dense model,
which runs too; adapters learn from the targets. Peers are timed where they are
installed (the `bench` extra). With --compile_for nothing runs: times are the
compiler's estimate for the encoder on one device of a TPU slice (the `tpu`
extra).
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from coda_jax import report
from coda_jax.benchmarking import (
  estimates,
  models,
  shapes,
  timing,
  top_k,
  torch_peers,
  train_step,
)
from coda_jax.checkpoints import files
from coda_jax.nn import config as nn_config
from coda_jax.nn.config import CodaConfig, Conditional

PARTS = (*models.PARTS, *top_k.PARTS)
METHODS = (*models.METHODS, *torch_peers.METHODS)

# Heading, field, format.
_COLUMNS = (
  ("method", "method", "{}"),
  ("r", "reduction", "{:g}"),
  ("length", "length", "{}"),
  ("first ms", "first_ms", "{:.0f}"),
  ("ms", "median_ms", "{:.2f}"),
  ("quartile", "low_ms", "{:.2f}"),
  ("quartile", "high_ms", "{:.2f}"),
  ("speed-up", "speedup", "{:.2f}x"),
  ("FLOP ratio", "flop_ratio", "{:.2f}"),
  ("share", "share", "{:.0%}"),
)
_MEMORY_COLUMNS = (
  ("peak bytes", "peak_bytes", "{:,}"),
  ("memory ratio", "memory_ratio", "{:.2f}"),
)


def measure(
  config: Conditional,
  *,
  size: str,
  part: str,
  reductions: Sequence[float],
  coda: CodaConfig,
  methods: Sequence[str] = ("adapter", "coda"),
  length: int,
  batch: int,
  decode_length: int = 32,
  repeats: int = 5,
) -> list[dict[str, Any]]:
  """Times alternatives in turn at one length of input.

  Args:
    config: the backbone's shape, and the dtype of weights and computation.
    size: its name, for the rows.
    part: one of `PARTS`.
    reductions: r of each CoDA.
    coda: attention, router and the rest; `reductions` replaces its reduction.
    methods: some of `METHODS`; the others are compared with the first.
    length: input tokens of a sequence, none of them padding.
    batch: sequences.
    decode_length: tokens that "generate" writes; target tokens of "train" and
      "distil".
    repeats: how often each method is timed.

  Returns:
    One row for each method and r: its settings, and the columns of
    `timing.measure`.

  Raises:
    ValueError: an unknown part or method, or invalid arguments.
  """
  if part not in PARTS:
    raise ValueError(f"part {part!r}; expected one of {PARTS}")
  if unknown := [method for method in methods if method not in METHODS]:
    raise ValueError(f"methods {unknown}; expected some of {METHODS}")
  tokens = shapes.random_tokens(config, batch, length)
  peers = functools.partial(
    torch_peers.subjects,
    config,
    part=part,
    methods=[m for m in methods if m in torch_peers.METHODS],
    tokens=tokens,
    decode_length=decode_length,
  )
  if part in top_k.PARTS:  # At each r, over the selection at this r.
    groups = [
      top_k.subjects(part, reduction=r, batch=batch, length=length)
      + peers(reductions=(r,))
      for r in reductions
    ]
  else:
    ours = models.subjects(
      config,
      part=part,
      coda=coda,
      reductions=reductions,
      methods=[m for m in methods if m in models.METHODS],
      tokens=tokens,
      decode_length=decode_length,
    )
    groups = [ours + peers(reductions=reductions)]
  decodes = part in ("generate", *train_step.PARTS)
  shared = {
    "part": part,
    "size": None if part in top_k.PARTS else size,
    "attention": None,
    "length": length,
    "decode_length": decode_length if decodes else None,
    "batch": batch,
    "dtype": jnp.dtype(config.dtype).name,
    "platform": jax.default_backend(),
  }
  return [
    {**shared, **row}
    for subjects in groups
    for row in timing.measure(subjects, repeats)
  ]


def table(rows: Sequence[dict[str, Any]]) -> str:
  """The rows of `measure` as text."""
  has_memory = any("peak_bytes" in row for row in rows)
  return report.table(_COLUMNS + _MEMORY_COLUMNS * has_memory, rows)


def _numbers(kind: type):
  return lambda text: tuple(kind(number) for number in text.split(","))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the benchmark that the command line asks for."""
  parser = argparse.ArgumentParser(
    prog="python -m coda_jax.benchmark",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--part", choices=PARTS, default="encoder")
  parser.add_argument("--size", default="base", help="a name in configs/sizes")
  parser.add_argument(
    "--methods",
    type=_numbers(str),
    help=f"some of {','.join(METHODS)}; speed-ups are over the first "
    "(default: all that are installed)",
  )
  parser.add_argument("--length", type=_numbers(int), default=(512,))
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument(
    "--reductions", type=_numbers(float), default=(3.0, 5.0, 8.0)
  )
  parser.add_argument(
    "--slots", type=int, help="tokens that are routed: r is length / slots"
  )
  parser.add_argument("--dtype", default="float32")
  parser.add_argument(
    "--attention", choices=nn_config.ATTENTIONS, default="k_to_k"
  )
  parser.add_argument(
    "--router", choices=nn_config.ROUTERS, default="soft_top_k"
  )
  parser.add_argument(
    "--dispatch", choices=nn_config.DISPATCHES, default="auto"
  )
  parser.add_argument(
    "--decode_length",
    type=int,
    default=32,
    help="tokens that generate writes; target tokens of train and distil",
  )
  parser.add_argument(
    "--compile_for",
    metavar="SLICE",
    help="print the compiler's estimate for a TPU slice, such as v5e:1x1; "
    "needs no TPU",
  )
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--json", metavar="FILE", type=Path)
  parser.add_argument("--plot", metavar="FILE", type=Path, help="a PNG")
  arguments = parser.parse_args(argv)
  if arguments.compile_for and (
    arguments.part != "encoder" or arguments.methods
  ):
    parser.error(
      "--compile_for compares encoders of adapter and coda; leave --part and "
      "--methods out"
    )
  methods = arguments.methods or (*models.METHODS, *torch_peers.installed())
  rows = []
  try:
    config = shapes.size_config(arguments.size, arguments.dtype)
    coda = CodaConfig(
      attention=arguments.attention,
      router=arguments.router,
      dispatch=arguments.dispatch,
    )
    for length in arguments.length:
      reductions = arguments.reductions
      if arguments.slots:
        reductions = (length / arguments.slots,)
      shared = {
        "size": arguments.size,
        "reductions": reductions,
        "coda": coda,
        "length": length,
        "batch": arguments.batch,
      }
      if arguments.compile_for:
        rows += estimates.measure(
          config, slice_name=arguments.compile_for, **shared
        )
      else:
        rows += measure(
          config,
          part=arguments.part,
          methods=methods,
          decode_length=arguments.decode_length,
          repeats=arguments.repeats,
          **shared,
        )
  except (ValueError, ModuleNotFoundError) as error:
    parser.error(str(error))
  environment = report.environment()
  print(
    f"{arguments.part}, T5 {arguments.size}, batch {arguments.batch}, "
    f"{arguments.dtype}, {environment}"
  )
  print(table(rows))
  if arguments.json:
    files.write_json(arguments.json, {"rows": rows, "environment": environment})
  if arguments.plot:
    plot(arguments.plot, rows)
  return 0


def plot(path: Path, rows: Sequence[dict[str, Any]]) -> None:
  """Draws the time of each method over the length of the input, as a PNG."""
  lines: dict[str, list[tuple[float, float]]] = {}
  for row in rows:
    name, r = row["method"], row["reduction"]
    all_r = {
      other["reduction"]
      for other in rows
      if (other["method"], other["length"]) == (name, row["length"])
    }
    if len(all_r) > 1:
      name += f" r={r:g}"
    lines.setdefault(name, []).append((row["length"], row["median_ms"]))
  report.plot_times(path, lines)


if __name__ == "__main__":
  sys.exit(main())
