"""The log of a run: progress, TensorBoard and JSON lines."""

import contextlib
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coda_jax.checkpoints import files
from coda_jax.formatting import format_seconds

METRICS_FILE = "metrics.jsonl"


class Logger:
  """Writes scalars and texts to `MODEL_DIR`, and says how far the run is.

  `MODEL_DIR/metrics.jsonl` has one object a line, `{"step": n, name: value}`;
  TensorBoard's files are next to it. A terminal shows a progress bar, other
  outputs a line for each report. A run that resumes after `first_step` replaces
  the lines of later steps.
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
    """The scalars written for a step, also before a resumption."""
    scalars: dict[str, float] = {}
    for _, row in _rows(Path(self._lines.name)):
      if row.pop("step") == step:
        scalars |= {
          name.removeprefix(f"{prefix}/"): value
          for name, value in row.items()
          if name.startswith(f"{prefix}/")
        }
    return scalars

  def write_texts(
    self,
    step: int,
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    prefix: str,
  ) -> None:
    """Writes examples to TensorBoard, `prefix/task/number`.

    Args:
      step: steps done.
      predictions: those of each task; see `Evaluation.with_predictions`.
      prefix: put before the names.
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
    """Names the folder in an error of writing, also in tensorflow's."""
    import tensorflow as tf

    try:
      yield
    except (OSError, tf.errors.OpError) as error:
      raise OSError(
        f"cannot write to {self._folder} ({str(error).splitlines()[0]}). "
        "Earlier results are kept: free some space and run the same command to "
        "resume"
      ) from error


class Silent:
  """The logger of all processes but the first: it does nothing."""

  def __getattr__(self, name: str) -> Callable[..., None]:
    return lambda *args, **kwargs: None


def _drop_later(path: Path, step: int) -> None:
  """Removes the lines of later steps, and an incomplete last line."""
  if not path.exists():
    return
  kept = [line for line, row in _rows(path) if row["step"] <= step]
  with files.aside(path) as temporary:
    temporary.write_bytes(b"".join(kept))


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
  """The complete lines of `METRICS_FILE`, and their objects.

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
        "step; remove that line to resume"
      ) from error
    yield line, row
