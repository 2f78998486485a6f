"""What a run tells: a table first, progress, TensorBoard and JSON lines."""

import contextlib
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from coda_jax import analysis
from coda_jax import params as params_lib
from coda_jax.checkpoints import files
from coda_jax.t5.config import T5Config

METRICS_FILE = "metrics.jsonl"

_NORMS = ("grad_norm", "update_norm")


def model_table(
  config: T5Config, lengths: Mapping[str, int], trained: Any, frozen: Any
) -> str:
  """What is trained, what is frozen, and what a forward pass costs.

  Args:
    config: the model's shape.
    lengths: {"inputs": n, "targets": m}, in tokens.
    trained: nested mapping of the leaves that are trained.
    frozen: of those that are not.
  """
  rows = [
    (part, f"{a:,}", f"{b:,}")
    for part, (a, b) in analysis.parameter_counts(trained, frozen).items()
  ]
  a, b = params_lib.count(trained), params_lib.count(frozen)
  rows.append(("all", f"{a:,}", f"{b:,}"))
  encoder = analysis.encoder_flops(config, lengths["inputs"])
  decoder = analysis.decoder_flops(
    config, lengths["inputs"], lengths["targets"]
  )
  return (
    format_table([("parameters", "trained", "frozen"), *rows])
    + f"\ntrained share: {a / (a + b):.2%}"
    + f"\nGFLOPs an example, forward: encoder {encoder / 1e9:.3g}, decoder "
    + f"{decoder / 1e9:.3g}"
  )


def format_table(rows: Sequence[Sequence[str]]) -> str:
  """Rows of text in columns, a rule under the first; numbers to the right."""
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = [
    "  ".join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    for row in rows
  ]
  lines.insert(1, "  ".join("-" * width for width in widths))
  return "\n".join(lines)


def format_scalars(scalars: Mapping[str, float]) -> str:
  """`name value` pairs, four significant digits."""
  return "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())


class Logger:
  """Writes scalars and texts to `MODEL_DIR`, and says how far the run is.

  `MODEL_DIR/metrics.jsonl` has one object a line, `{"step": n, name: value}`;
  TensorBoard's files are beside it. On a terminal there is a progress bar,
  elsewhere a line for each report. A run that resumes after `first_step`
  replaces what it had written of later steps.
  """

  def __init__(self, model_dir: str | Path, *, first_step: int, steps: int):
    from clu import metric_writers
    from tqdm import tqdm

    self._folder = folder = Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _drop_later(folder / METRICS_FILE, first_step)
    self._tensorboard = metric_writers.SummaryWriter(str(folder))
    self._lines = open(folder / METRICS_FILE, "a", encoding="utf-8")
    self._steps = steps
    self._done = first_step
    self._bar = (
      tqdm(total=steps, initial=first_step, unit="step", dynamic_ncols=True)
      if sys.stderr.isatty()
      else None
    )

  def say(self, text: str) -> None:
    """Prints `text` without disturbing the progress bar."""
    if self._bar is None:
      print(text, flush=True)
    else:
      self._bar.write(text)

  def write(self, step: int, scalars: Mapping[str, float], prefix: str) -> None:
    """Writes scalars, named `prefix/name`, to TensorBoard and JSON lines."""
    named = {f"{prefix}/{name}": float(x) for name, x in scalars.items()}
    with self._writing():
      self._tensorboard.write_scalars(step, named)
      self._tensorboard.flush()
      self._lines.write(json.dumps({"step": step, **named}) + "\n")
      self._lines.flush()

  def written(self, step: int, prefix: str) -> dict[str, float]:
    """The scalars that were written of a step, also before a resumption."""
    found: dict[str, float] = {}
    for _, row in _rows(Path(self._lines.name)):
      if row.pop("step") == step:
        found |= {
          name.removeprefix(f"{prefix}/"): value
          for name, value in row.items()
          if name.startswith(f"{prefix}/")
        }
    return found

  def write_texts(
    self,
    step: int,
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    prefix: str,
  ) -> None:
    """Writes examples to TensorBoard, `prefix/task/number`.

    Args:
      step: steps done.
      predictions: of each task, as `Evaluation.with_predictions` gives them.
      prefix: what comes before the names.
    """
    for task, examples in predictions.items():
      texts = {
        f"{prefix}/{task}/{i}": "\n\n".join(
          # TensorBoard reads Markdown, which leaves indented lines alone.
          f"{name}\n\n{textwrap.indent(str(text), '    ', lambda line: True)}"
          for name, text in example.items()
        )
        for i, example in enumerate(examples)
      }
      with self._writing():
        self._tensorboard.write_texts(step, texts)

  def progress(
    self, step: int, loss: float, rate: float, tokens: float
  ) -> None:
    """Shows where the run is.

    Args:
      step: steps done.
      loss: of the last steps.
      rate: steps a second.
      tokens: tokens a second.
    """
    text = f"loss {loss:.4g}  {tokens:,.0f} tokens/s"
    if self._bar is not None:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(step - self._done)
    else:
      left = format_seconds((self._steps - step) / rate)
      print(
        f"step {step}/{self._steps}  {text}  {rate:.3g} steps/s  {left} left",
        flush=True,
      )
    self._done = step

  def close(self) -> None:
    """Ends the bar and closes the files."""
    if self._bar is not None:
      self._bar.close()
    with self._writing():
      self._tensorboard.close()
      self._lines.close()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Says where there is no room; tensorflow has errors of its own."""
    import tensorflow as tf

    try:
      yield
    except (OSError, tf.errors.OpError) as error:
      raise OSError(
        f"{self._folder} could not be written; what was saved before is kept: "
        "make room, and start again to resume from it. The system says: "
        f"{str(error).splitlines()[0]}"
      ) from error


class Silent:
  """What the other processes of a run have where the first has a `Logger`."""

  def __getattr__(self, name: str) -> Callable[..., None]:
    return lambda *args, **kwargs: None


def summarize(
  history: Sequence[Mapping[str, Any]], done: int
) -> dict[str, float]:
  """Means over the steps since the last report, per target token.

  Args:
    history: the metrics of each step, of `steps.make_train_step`.
    done: the last of them.

  Raises:
    FloatingPointError: a loss or a norm is not finite.
  """
  first = done - len(history) + 1
  for step, metrics in enumerate(history, first):
    watched = {name: metrics[name] for name in ("loss", *_NORMS)}
    if not all(np.isfinite(value) for value in watched.values()):
      raise FloatingPointError(
        f"step {step}: training has diverged: {format_scalars(watched)}. What "
        "was saved before is kept. Lower the learning rate, lengthen the "
        "warm-up, or set clip_norm of the optimizer; then start again to "
        "resume from the last checkpoint"
      )
  weights = np.array([float(m["target_tokens"]) for m in history])
  weights = np.maximum(weights, 1e-9)
  means = {
    name: float(np.average([float(m[name]) for m in history], weights=weights))
    for name in ("loss", "token_accuracy", *_NORMS)
  }
  return {**means, "tokens": np.mean([float(m["tokens"]) for m in history])}


def format_seconds(seconds: float) -> str:
  """`1:02:03`, or `2:03` below an hour."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Profile:
  """Writes a profile of some steps for TensorBoard.

  Of those that a run has: one that resumes in their midst, or ends there,
  writes what it saw.
  """

  def __init__(self, model_dir: str | Path, steps: tuple[int, int] | None):
    """Prepares.

    Args:
      model_dir: of the run.
      steps: the first and the last, counted from 1; None for no profile.
    """
    self._folder = str(model_dir)
    self._first, self._last = steps or (0, 0)
    self._is_running = False

  @contextlib.contextmanager
  def step(self, step: int) -> Iterator[None]:
    """Around the work of a step."""
    if self._first <= step <= self._last and not self._is_running:
      jax.profiler.start_trace(self._folder)
      self._is_running = True
    yield
    if step == self._last:
      self.close()

  def close(self) -> None:
    """Writes the profile, if there is one that has not ended."""
    if self._is_running:
      jax.profiler.stop_trace()
      self._is_running = False


def _drop_later(path: Path, step: int) -> None:
  """Removes the lines of later steps, and one that was cut off."""
  if not path.exists():
    return
  kept = [line for line, row in _rows(path) if row["step"] <= step]
  with files.aside(path) as temporary:
    temporary.write_bytes(b"".join(kept))


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """The lines of `METRICS_FILE` and what they hold, but not a cut off one.

  Raises:
    ValueError: one of them is damaged.
  """
  for number, line in enumerate(path.read_bytes().splitlines(True), 1):
    if not line.endswith(b"\n"):
      return
    try:
      row = json.loads(line)
      row["step"] + 0
    except (KeyError, RecursionError, TypeError, ValueError) as error:
      raise ValueError(
        f"{path}, line {number}: {line[:60]!r} is not a JSON object with a "
        "step; remove that line to go on"
      ) from error
    yield line, row


class Rate:
  """Steps a second, and the share of the time that went into waiting."""

  def __init__(self, step: int):
    self.reset(step)

  def reset(self, step: int) -> None:
    """Starts the clock after `step`, and after what should not count."""
    self._step, self._start, self._waited = step, time.perf_counter(), 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Around what should not take time, such as the next batch."""
    start = time.perf_counter()
    yield
    self._waited += time.perf_counter() - start

  def measure(self, step: int) -> tuple[float, float]:
    """(steps a second, share spent waiting); starts the clock anew."""
    seconds = max(time.perf_counter() - self._start, 1e-9)
    rate, share = max(step - self._step, 1) / seconds, self._waited / seconds
    self.reset(step)
    return rate, share
