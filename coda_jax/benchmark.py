"""Measures CoDA against parallel adapters, in one run.

python -m coda_jax.benchmark --size base --length 512 --batch 4 \
  --reductions 3,5,8 --json benchmark.json
python -m coda_jax.benchmark --part train --decode_length 64

All methods are timed in turn, on random weights and tokens. FLOP ratio is what
the arithmetic allows, share is how much of it was reached. A step of training
has the trainer's own gradient and Adafactor, of adapters, routers and norms
alone; its FLOPs and its memory are the compiler's count.
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
from coda_jax import params as params_lib
from coda_jax.checkpoints import initialise
from coda_jax.nn import config as nn_config
from coda_jax.t5 import decoding
from coda_jax.t5.config import CodaConfig, T5Config
from coda_jax.t5.network import Transformer
from coda_jax.training import logging, optimizers, state, steps

PARTS = ("encoder", "generate", "train")


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


class TrainStep:
  """A finetuning step of the trainer, compiled, and what it costs.

  A call takes the next step on the same batch and returns the metrics of
  `steps.make_train_step`.

  Attributes:
    flops: floating-point operations of a step, as the compiler counts them.
    peak_bytes: see `analysis.peak_bytes`.
  """

  def __init__(self, model: Transformer, params: Any, batch: steps.Batch):
    """Compiles.

    Args:
      model: what is trained of it is `params.TASK_PATTERNS`.
      params: has the leaves of `model`; others are left out.
      batch: of int32 arrays, as the trainer reads it.
    """
    leaves = params_lib.flatten(params)
    own = params_lib.flatten(initialise.abstract_params(model))
    trained, frozen = params_lib.split(
      params_lib.unflatten({path: leaves[path] for path in own}),
      params_lib.TASK_PATTERNS,
    )
    # The step gives its state away, and other models have the same leaves.
    trained = jax.tree.map(jnp.copy, trained)
    optimizer = optimizers.adafactor(optimizers.constant())
    self._state = state.TrainState.create(trained, optimizer)
    self._rest = (frozen, batch, jax.random.key(0))
    step = steps.make_train_step(model, optimizer)
    self._step = step.lower(self._state, *self._rest).compile()
    self.flops = self._step.cost_analysis()["flops"]
    self.peak_bytes = analysis.peak_bytes(self._step)

  def __call__(self) -> steps.Metrics:
    self._state, metrics = self._step(self._state, *self._rest)
    return metrics


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
    part: "encoder", "generate" for whole greedy inference, or "train" for a
      step of finetuning.
    reductions: r of each CoDA.
    attention: "k_to_k" or "k_to_all".
    length: input tokens of a sequence, none of them padding.
    batch: sequences.
    decode_length: tokens that "generate" writes, and of the targets of "train".
    repeats: how often each method is timed.

  Returns:
    A row a method, parallel adapters first: what was run, `median_ms`, the
    quartiles `low_ms` and `high_ms`, and relative to parallel adapters
    `speedup`, `flop_ratio` and `share`, the one over the other. Those of
    "train" have `peak_bytes` and `memory_ratio` as well.

  Raises:
    ValueError: no such part, or arguments that no model can have.
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
  tokens = _random_tokens(config, batch, length)
  calls: dict[float, Callable[[], Any]] = {}
  flops: dict[float, float] = {}
  peak_bytes: dict[float, int] = {}
  for r, coda_config in configs.items():
    model = Transformer(coda_config)
    flops[r] = analysis.encoder_flops(coda_config, length)
    if part == "encoder":
      calls[r] = analysis.encoder_call(model, params, tokens)
    elif part == "train":
      targets = _random_tokens(config, batch, decode_length)
      step = TrainStep(model, params, train_batch(tokens, targets))
      calls[r], flops[r], peak_bytes[r] = step, step.flops, step.peak_bytes
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
        "decode_length": None if part == "encoder" else decode_length,
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
    if part == "train":
      rows[-1] |= {
        "peak_bytes": peak_bytes[r],
        "memory_ratio": peak_bytes[1.0] / peak_bytes[r],
      }
  return rows


def _random_tokens(config: T5Config, batch: int, length: int) -> jax.Array:
  """int32 [batch, length], none of them padding or the end."""
  rng = np.random.default_rng(0)
  return jnp.asarray(
    rng.integers(2, config.vocab_size, (batch, length), np.int32)
  )


def train_batch(tokens: jax.Array, targets: jax.Array) -> steps.Batch:
  """A batch for the trainer of int32 [batch, length] and [batch, targets]."""
  return {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": jnp.ones_like(targets),
  }


def _random_params(model: Transformer, part: str) -> dict[str, Any]:
  """Made on the device, in the computation's dtype; no more than is used.

  Training keeps its parameters in float32 whatever it computes in.
  """
  tokens = jnp.ones((1, 8), jnp.int32)

  @jax.jit
  def init(key):
    if part == "encoder":
      variables = model.init(key, tokens, enable_dropout=False, method="encode")
    else:
      variables = model.init(key, tokens, tokens, tokens, enable_dropout=False)
    dtype = jnp.float32 if part == "train" else model.config.dtype
    return jax.tree.map(lambda x: x.astype(dtype), variables["params"])

  return init(jax.random.key(0))


def _quartiles(times: Sequence[float]) -> tuple[float, float, float]:
  low, median, high = np.quantile(np.asarray(times), [0.25, 0.5, 0.75])
  return float(low), float(median), float(high)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """The rows of `measure` as text."""
  heading = ("method", "ms", "quartiles", "speed-up", "FLOP ratio", "share")
  has_memory = "peak_bytes" in rows[0]
  lines = [heading + ("peak MB", "memory ratio") * has_memory]
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
    if has_memory:
      lines[-1] += (
        f"{row['peak_bytes'] / 1e6:,.0f}",
        f"{row['memory_ratio']:.2f}",
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
  parser.add_argument(
    "--decode_length",
    type=int,
    default=32,
    help="tokens that generate writes, and of the targets of train",
  )
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
