"""The forecast of a run: its steps, memory and time, before it starts."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from coda_jax.formatting import format_seconds
from coda_jax.training.state import TrainState

_TIMED_STEPS = 3


def describe(
  train_steps: Mapping[float | None, Callable[..., Any]],
  state: TrainState,
  frozen: Any,
  batch: Mapping[str, jax.Array],
  *,
  steps: int,
  num_examples: int | None,
  microbatches: int = 1,
) -> str:
  """Compiles the step, runs a few on one batch, and reports their cost.

  Args:
    train_steps: {r: jitted step}; r is None if there is only one.
    state: the state before the first step; it is not changed.
    frozen: the parameters that are not trained.
    batch: the first batch of the data.
    steps: how many steps the run would take.
    num_examples: the size of the training split, None if unknown.
    microbatches: parts of a batch, which the step loops over.

  Returns:
    Lines of text. Memory and FLOPs are the compiler's count, time is measured.
  """
  batch_size = len(next(iter(batch.values())))
  seen = batch_size * steps
  epochs = f", {seen / num_examples:.3g} epochs" if num_examples else ""
  shapes = ", ".join(f"{name} {x.shape}" for name, x in sorted(batch.items()))
  lines = [
    f"plan: {steps:,} steps of {batch_size} examples, {seen:,} in all{epochs}",
    f"batch: {shapes}",
  ]
  seconds = []
  for r, step in train_steps.items():
    one, line = _measure(step, state, frozen, batch, microbatches)
    seconds.append(one)
    lines.append(line if r is None else f"r = {r:g}: {line}")
  total = float(np.mean(seconds)) * steps
  lines.append(
    f"training takes about {format_seconds(total)} without evaluation; nothing "
    "was written (--dry_run)"
  )
  return "\n".join(lines)


def _measure(step, state, frozen, batch, microbatches) -> tuple[float, str]:
  """The seconds of a step, and a line on its time and memory."""
  key = jax.random.key(0)
  compiled = step.lower(state, frozen, batch, key).compile()
  memory = compiled.memory_analysis()
  flops = (compiled.cost_analysis() or {}).get("flops", float("nan"))
  flops *= microbatches  # The compiler counts a loop's body once.
  # The step donates its state, so pass a copy.
  state = jax.tree.map(lambda x: x.copy(), state)
  state, metrics = compiled(state, frozen, batch, key)
  jax.block_until_ready(metrics)
  start = time.perf_counter()
  for _ in range(_TIMED_STEPS):
    state, metrics = compiled(state, frozen, batch, key)
  jax.block_until_ready(metrics)
  seconds = (time.perf_counter() - start) / _TIMED_STEPS
  return seconds, (
    f"a step: {seconds:.3g} s, {flops / 1e9:,.4g} GFLOP, memory "
    f"{memory.argument_size_in_bytes / 1e6:,.4g} MB for parameters, optimizer "
    f"and batch, {memory.temp_size_in_bytes / 1e6:,.4g} MB while it runs"
  )
