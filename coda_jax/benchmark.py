"""Measures inference with CoDA against parallel adapters, in one run.

python -m coda_jax.benchmark --size base --length 512 --batch 4 \
  --reductions 3,5,8 --json benchmark.json

All methods are timed in turn, on random weights and tokens. FLOP ratio is what
the arithmetic allows, share is how much of it was reached.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np

from coda_jax import analysis, cli, report
from coda_jax.nn import config as nn_config
from coda_jax.t5 import decoding
from coda_jax.t5.config import CodaConfig, T5Config
from coda_jax.t5.network import Transformer
from coda_jax.training import logging

PARTS = ("encoder", "generate")


def size_config(size: str, dtype: str = "float32") -> T5Config:
  """The shape that `configs/sizes/SIZE.gin` describes, without dropout.

  Raises:
    ValueError: no such size.
  """
  sizes = sorted(p.stem for p in (cli.configs_dir() / "sizes").glob("*.gin"))
  if size not in sizes:
    raise ValueError(f"size {size!r}; expected one of {', '.join(sizes)}")
  families = ("byt5", "t5_1_0")
  family = next((f for f in families if size.startswith(f)), "t5_1_1")
  cli.parse_gin(
    [f"models/{family}.gin", f"sizes/{size}.gin"],
    [("DTYPE", repr(dtype)), ("DROPOUT_RATE", "0.0"), ("CODA", "None")],
  )
  return gin.get_configurable(T5Config)()


def generate_call(
  model: Transformer, params: Any, tokens: jax.Array, max_length: int
) -> Callable[[], jax.Array]:
  """A call of greedy `generate` that always decodes `max_length` tokens."""
  # No token has this id, so that nothing ends early.
  return lambda: (
    decoding.generate(
      model, params, tokens, max_length=max_length, eos_id=-1
    ).tokens
  )


def measure(
  config: T5Config,
  *,
  size: str,
  part: str,
  reductions: Sequence[float],
  attention: str = "k_to_k",
  length: int,
  batch: int,
  decode_length: int = 32,
  repeats: int = 5,
) -> list[dict[str, Any]]:
  """Times parallel adapters and CoDA in turn.

  Args:
    config: the backbone's shape, and the dtype of weights and computation.
    size: its name, for the rows.
    part: "encoder", or "generate" for whole greedy inference.
    reductions: r of each CoDA.
    attention: "k_to_k" or "k_to_all".
    length: input tokens of a sequence, none of them padding.
    batch: sequences.
    decode_length: tokens that "generate" writes.
    repeats: how often each method is timed.

  Returns:
    A row a method, parallel adapters first: what was run, `median_ms`, the
    quartiles `low_ms` and `high_ms`, and relative to parallel adapters
    `speedup`, `flop_ratio` and `share`, the one over the other.
  """
  if part not in PARTS:
    raise ValueError(f"part {part!r}; expected one of {PARTS}")
  configs = {
    r: dataclasses.replace(
      config, coda=CodaConfig(reduction=r, attention=attention)
    )
    for r in (1.0, *reductions)
  }
  # The deepest reduction's tree has routers, which the adapters leave unused.
  params = _random_params(Transformer(configs[max(configs)]), part)
  tokens = np.random.default_rng(0).integers(
    2, config.vocab_size, (batch, length), np.int32
  )
  tokens = jnp.asarray(tokens)
  calls = {}
  flops = {}
  for r, coda_config in configs.items():
    model = Transformer(coda_config)
    flops[r] = analysis.encoder_flops(coda_config, length)
    if part == "encoder":
      calls[r] = analysis.encoder_call(model, params, tokens)
    else:
      calls[r] = generate_call(model, params, tokens, decode_length)
      flops[r] += analysis.decoder_flops(coda_config, length, decode_length)
  times = analysis.paired_times(calls, repeats)
  rows = []
  for r in configs:
    low, median, high = _quartiles(times[r])
    speedup = statistics.median(times[1.0]) / median
    flop_ratio = flops[1.0] / flops[r]
    rows.append(
      {
        "part": part,
        "size": size,
        "method": "adapter" if r == 1 else "coda",
        "reduction": r,
        "attention": None if r == 1 else attention,
        "length": length,
        "batch": batch,
        "dtype": jnp.dtype(config.dtype).name,
        "platform": jax.default_backend(),
        "median_ms": median,
        "low_ms": low,
        "high_ms": high,
        "speedup": speedup,
        "flop_ratio": flop_ratio,
        "share": speedup / flop_ratio,
      }
    )
  return rows


def _random_params(model: Transformer, part: str) -> dict[str, Any]:
  """Made on the device, in the computation's dtype; no more than is used."""
  tokens = jnp.ones((1, 8), jnp.int32)

  @jax.jit
  def init(key):
    if part == "encoder":
      variables = model.init(key, tokens, enable_dropout=False, method="encode")
    else:
      variables = model.init(key, tokens, tokens, tokens, enable_dropout=False)
    dtype = model.config.dtype
    return jax.tree.map(lambda x: x.astype(dtype), variables["params"])

  return init(jax.random.key(0))


def _quartiles(times: Sequence[float]) -> tuple[float, float, float]:
  low, median, high = np.quantile(np.asarray(times), [0.25, 0.5, 0.75])
  return float(low), float(median), float(high)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows of `measure` as text."""
  lines = [("method", "ms", "quartiles", "speed-up", "FLOP ratio", "share")]
  for row in rows:
    name = "parallel adapter"
    if row["method"] == "coda":
      name = f"CoDA r={row['reduction']:g} {row['attention']}"
    lines.append(
      (
        name,
        f"{row['median_ms']:.1f}",
        f"{row['low_ms']:.1f}-{row['high_ms']:.1f}",
        f"{row['speedup']:.2f}x",
        f"{row['flop_ratio']:.2f}",
        f"{row['share']:.0%}",
      )
    )
  return logging.format_table(lines)


def _reductions(text: str) -> tuple[float, ...]:
  return tuple(float(r) for r in text.split(","))


def main(argv: Sequence[str] | None = None) -> int:
  """Runs what the command line says."""
  parser = argparse.ArgumentParser(
    prog="python -m coda_jax.benchmark",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--size", default="base", help="a name in configs/sizes")
  parser.add_argument("--length", type=int, default=512)
  parser.add_argument("--batch", type=int, default=4)
  parser.add_argument("--reductions", type=_reductions, default=(3.0, 5.0, 8.0))
  parser.add_argument("--dtype", default="float32")
  parser.add_argument(
    "--attention", choices=nn_config.ATTENTIONS, default="k_to_k"
  )
  parser.add_argument("--part", choices=PARTS, default="encoder")
  parser.add_argument("--decode_length", type=int, default=32)
  parser.add_argument("--repeats", type=int, default=5)
  parser.add_argument("--json", metavar="FILE", help="write the rows here")
  arguments = parser.parse_args(argv)
  try:
    rows = measure(
      size_config(arguments.size, arguments.dtype),
      size=arguments.size,
      part=arguments.part,
      reductions=arguments.reductions,
      attention=arguments.attention,
      length=arguments.length,
      batch=arguments.batch,
      decode_length=arguments.decode_length,
      repeats=arguments.repeats,
    )
  except ValueError as error:
    parser.error(str(error))
  found = report.environment()
  print(
    f"{arguments.part}, T5 {arguments.size}, {arguments.batch} x "
    f"{arguments.length} tokens, {arguments.dtype}, {found}"
  )
  print(table(rows))
  if arguments.json:
    with open(arguments.json, "w", encoding="utf-8") as file:
      json.dump({"rows": rows, "environment": found}, file, indent=2)
      file.write("\n")
  return 0


if __name__ == "__main__":
  sys.exit(main())
