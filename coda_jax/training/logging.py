"""What a run tells: a table first, progress, TensorBoard and JSON lines."""

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coda_jax import params as params_lib

# Rows of the table; a parameter is of the first row that matches its path.
_GROUPS = (
  ("adapters", r".*/adapter/.*"),
  ("routers", r".*/router/.*"),
  ("LoRA", r".*/lora/.*"),
  ("norms", r".*_norm/scale"),
  ("embedding, logits", r"(token_embedder|decoder/logits_dense)/.*"),
  ("encoder", r"encoder/.*"),
  ("decoder", r"decoder/.*"),
)


def parameter_table(trained: Any, frozen: Any) -> str:
  """A table of what is trained and what is frozen, in parameters."""
  columns = [params_lib.flatten(trained), params_lib.flatten(frozen)]
  counts = {name: [0, 0] for name, _ in (*_GROUPS, ("other", ""))}
  for column, leaves in enumerate(columns):
    for path, leaf in leaves.items():
      counts[_group(path)][column] += int(leaf.size)
  rows = [(name, *row) for name, row in counts.items() if sum(row)]
  totals = [sum(row[i] for row in rows) for i in (1, 2)]
  rows.append(("all", *totals))
  lines = [("parameters", "trained", "frozen")]
  lines += [(name, f"{a:,}", f"{b:,}") for name, a, b in rows]
  share = totals[0] / max(sum(totals), 1)
  return f"{format_table(lines)}\ntrained share: {share:.2%}"


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


def _group(path: str) -> str:
  for name, pattern in _GROUPS:
    if re.fullmatch(pattern, path):
      return name
  return "other"


def format_scalars(scalars: Mapping[str, float]) -> str:
  """`name value` pairs, four significant digits."""
  return "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())


class Logger:
  """Writes scalars to `MODEL_DIR` and tells the user how far the run is.

  `MODEL_DIR/metrics.jsonl` has one object a line, `{"step": n, name: value}`;
  TensorBoard's files are beside it. On a terminal there is a progress bar,
  elsewhere a line for each report.
  """

  def __init__(self, model_dir: str | Path, *, first_step: int, steps: int):
    from clu import metric_writers
    from tqdm import tqdm

    folder = Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    self._tensorboard = metric_writers.SummaryWriter(str(folder))
    self._lines = open(folder / "metrics.jsonl", "a", encoding="utf-8")
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
    self._tensorboard.write_scalars(step, named)
    self._lines.write(json.dumps({"step": step, **named}) + "\n")
    self._lines.flush()

  def progress(
    self, step: int, scalars: Mapping[str, float], rate: float, tokens: float
  ) -> None:
    """Shows where the run is.

    Args:
      step: steps done.
      scalars: what to show, such as the loss.
      rate: steps a second.
      tokens: tokens a second.
    """
    text = f"{format_scalars(scalars)}  {tokens:,.0f} tokens/s"
    if self._bar is not None:
      self._bar.set_postfix_str(text, refresh=False)
      self._bar.update(step - self._done)
    else:
      left = format_seconds((self._steps - step) / rate) if rate else "?"
      print(
        f"step {step}/{self._steps}  {text}  {rate:.3g} steps/s  {left} left",
        flush=True,
      )
    self._done = step

  def close(self) -> None:
    """Ends the bar and closes the files."""
    if self._bar is not None:
      self._bar.close()
    self._tensorboard.close()
    self._lines.close()


def format_seconds(seconds: float) -> str:
  """`1:02:03`, or `2:03` below an hour."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Rate:
  """Steps and tokens a second since the last `reset`."""

  def __init__(self):
    self.reset()

  def reset(self) -> None:
    """Starts the clock anew, after what should not count."""
    self._start = time.perf_counter()

  def measure(self, steps: int, tokens: float) -> tuple[float, float]:
    """(steps a second, tokens a second) of the time since; starts anew."""
    seconds = max(time.perf_counter() - self._start, 1e-9)
    self.reset()
    return steps / seconds, tokens / seconds
