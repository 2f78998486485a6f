"""The best model of a run, by a metric of its evaluations."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coda_jax import arguments
from coda_jax.checkpoints import files
from coda_jax.training import hosts


def check(
  metric: str | None,
  patience: int | None,
  task: str,
  split: str,
  splits: Sequence[str],
) -> None:
  """Checks that a run can find its best model.

  Args:
    metric: name of the result that is to be the best; None for no such model.
    patience: steps without a better result after which a run ends; None for
      never.
    task: seqio task or mixture.
    split: to evaluate on.
    splits: those that the task has.

  Raises:
    ValueError: there is a `patience` and no `metric`, or no such split.
  """
  if patience and metric is None:
    raise ValueError(
      f"early_stop_steps={patience} needs best_metric, the name of the result "
      "that has to improve, such as 'accuracy'"
    )
  if metric and split not in splits:
    raise ValueError(
      f"best_metric={metric!r} needs evaluations, and {task!r} has no split "
      f"{split!r}; set eval_split to one of {list(splits)}"
    )


class Best:
  """Keeps `MODEL_DIR/best/`: the trained parameters, and `metrics.json`.

  Attributes:
    step: the step of the best evaluation so far, also before a resumption;
      None before the first evaluation.
  """

  def __init__(self, model_dir: str | Path, metric: str, mode: str = "max"):
    """Reads the best evaluation of an earlier part of the run.

    Args:
      model_dir: of the run.
      metric: its name in the evaluation's results, such as "accuracy".
      mode: "max" if larger values are better, "min" if smaller ones are.

    Raises:
      ValueError: an unknown mode, or `best/` has another metric or mode.
    """
    if mode not in arguments.BEST_MODES:
      raise ValueError(
        f"best_mode={mode!r}; expected one of {arguments.BEST_MODES}"
      )
    self._folder = Path(model_dir) / "best"
    self._metric, self._mode = metric, mode
    self._sign = 1 if mode == "max" else -1
    self.step, self._value = hosts.from_first(self._read)

  def _read(self) -> tuple[int | None, float | None]:
    files.recover(self._folder)
    record = self._folder / "metrics.json"
    if not record.exists():
      return None, None
    fields = files.read_json(record)
    with files.naming(record):
      metric, step, results = (
        fields[name] for name in ("metric", "step", "results")
      )
    if metric != self._metric:
      raise ValueError(
        f"{record} was written for metric {metric!r}, but best_metric is "
        f"{self._metric!r}; set BEST_METRIC to {metric!r}, or choose another "
        "MODEL_DIR"
      )
    if fields.get("mode", self._mode) != self._mode:
      raise ValueError(
        f"{record} was written for best_mode={fields['mode']!r}, but it is "
        f"{self._mode!r} now; set it to the former, or choose another MODEL_DIR"
      )
    with files.naming(record):
      return int(step), float(results[metric])

  def is_stalled(self, step: int, patience: int | None) -> bool:
    """Whether no evaluation has been better for `patience` steps."""
    if patience is None or self.step is None:
      return False
    return step - self.step >= patience

  def update(
    self,
    step: int,
    results: Mapping[str, float],
    save: Callable[[Path], object],
  ) -> bool:
    """Keeps what `save` writes if `results` are the best so far.

    Args:
      step: the step of the evaluation.
      results: its results by name.
      save: writes the model into a folder; called in every process, and only
        the first one writes.

    Returns:
      Whether they are the best.

    Raises:
      ValueError: the results lack the metric.
    """
    if self._metric not in results:
      raise ValueError(
        f"best_metric={self._metric!r} is not among the evaluation's results: "
        f"{sorted(results)}; name one of them"
      )
    value = results[self._metric]
    if not math.isfinite(value):  # NaN is never the best.
      return False
    if self._value is not None and (value - self._value) * self._sign <= 0:
      return False
    if hosts.is_first():
      # The model and its metrics are replaced together.
      record = {
        "step": step,
        "metric": self._metric,
        "mode": self._mode,
        "results": dict(results),
      }
      with files.aside(self._folder) as folder:
        save(folder)
        file = folder / "metrics.json"
        file.write_text(json.dumps(record, indent=2) + "\n")
    else:
      save(self._folder)
    self.step, self._value = step, value
    return True
