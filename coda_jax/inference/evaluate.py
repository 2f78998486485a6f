"""Accuracy and speed of checkpoints, each at one r or at several."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from coda_jax import (
  analysis,
  arguments,
  backbones,
  partitioning,
  quantization,
  report,
)
from coda_jax.checkpoints import files, folders
from coda_jax.formatting import format_scalars
from coda_jax.inference import outputs
from coda_jax.objectives import Objective
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import coverage, inputs
from coda_jax.training.evaluation import Evaluation

Row = dict[str, Any]

# The results of every objective, the best for a plot last; a task adds its own
# metrics.
_LOSSES = ("loss", "token_accuracy", "label_accuracy")
_SPEED_COLUMNS = (
  ("encoder ms", "encoder_ms", "{:.3g}"),
  ("speed-up", "encoder_speedup", "{:.2f}x"),
  ("inference ms", "inference_ms", "{:.3g}"),
  ("speed-up", "inference_speedup", "{:.2f}x"),
)


def evaluate(
  *,
  checkpoint_path: str,
  eval_output_dir: str,
  mixture_or_task_name: str,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  split: str = "validation",
  num_examples: int | None = None,
  initial_checkpoint_path: str | None = None,
  reductions: Sequence[float] | None = None,
  weights: Sequence[str] = ("float",),
  metric: str | None = None,
  objective: Objective = Seq2Seq(),
  dtype: str = "float32",
  repeats: int = 5,
  mesh: Mapping[str, int] | None = None,
) -> list[Row]:
  """Evaluates checkpoints, times them in turn, and prints one table.

  Args:
    checkpoint_path: a model folder, an adapter folder, a run's checkpoints/N,
      or a folder of such folders; see `folders.find`.
    eval_output_dir: gets `results.json`, rewritten after each evaluation,
      `predictions/CHECKPOINT/rR/TASK.jsonl`, and `accuracy_speed.png`.
    mixture_or_task_name: known to seqio.
    task_feature_lengths: {"inputs": n, "targets": m}, in tokens.
    batch_size: examples a batch, also when timing.
    split: of the task.
    num_examples: how many examples to evaluate, from the start of the split;
      None for all.
    initial_checkpoint_path: the pretrained model of the adapters.
    reductions: values of r to run each checkpoint that routes at; None takes
      its own. In a folder, a checkpoint that does not route is run as it is.
    weights: "float", "int8" or both: the weights of the backbone's projections,
      see `quantization.int8`.
    metric: the metric of the plot; None takes the task's first.
    objective: gives the loss and the answers.
    dtype: of the computation, "float32" or "bfloat16".
    repeats: how often each model is timed, for the median; 0 for no times and
      no plot.
    mesh: see `partitioning.mesh_of`.

  Returns:
    One row for each checkpoint, r and weights: {"checkpoint", "reduction",
    "weights", "metrics"} and, if timed, the columns of
    `analysis.inference_costs`. Speed-ups are over the first row. Rows of one
    shape, r and weights share their times, measured with the parameters of the
    first.

  Raises:
    FileNotFoundError, ValueError: arguments or checkpoints that do not fit.
    FloatingPointError: the loss of a checkpoint is not finite.
  """
  arguments.check(locals())
  devices = partitioning.mesh_of(mesh)
  partitioning.check_batch(batch_size, devices)
  sharding = partitioning.batch_sharding(devices)
  paths = folders.find(checkpoint_path)
  folder = Path(eval_output_dir)
  rows: list[Row] = []
  timed: dict[Any, tuple[nn.Module, Any]] = {}
  timed_as = []
  evaluation = None
  with partitioning.under(devices):
    for path, loaded, read in folders.load_each(
      paths, initial_checkpoint_path, dtype=dtype, mesh=devices
    ):
      for at_reduction, kind in itertools.product(
        _at_reductions(loaded, reductions, is_alone=len(paths) == 1), weights
      ):
        model, params = at_reduction, read
        if kind == "int8":
          model, params = quantization.int8(model, params)
        if evaluation is None:
          inputs.check_task(mixture_or_task_name, objective, model.config)
          inputs.check_split(mixture_or_task_name, split)
          for line in coverage.report(
            mixture_or_task_name,
            split,
            task_feature_lengths,
            objective.token_features,
          ):
            print(line, flush=True)
          evaluation = Evaluation(
            model,
            mixture_or_task_name,
            split=split,
            task_feature_lengths=task_feature_lengths,
            batch_size=batch_size,
            num_examples=num_examples,
            objective=objective,
            sharding=sharding,
          )
        evaluation = evaluation.for_model(model)
        metrics, predictions = evaluation.with_predictions(params)
        row = _row(Path(path).absolute().name, model, kind, metrics)
        label = f"{row['checkpoint']}, r = {row['reduction']:g}, {kind}"
        for line in (
          f"{label}: {format_scalars(metrics)}",
          *evaluation.remarks,
        ):
          print(line, flush=True)
        if not math.isfinite(metrics["loss"]):
          raise FloatingPointError(
            f"{path}: the loss is {metrics['loss']}; its parameters are "
            "damaged, or training had diverged. Earlier results are in "
            f"{folder / 'results.json'}"
          )
        rows.append(row)
        metric = metric or _first_metric(metrics)
        _write(folder, rows, predictions, mixture_or_task_name, split, metric)
        if metric not in metrics:
          raise ValueError(
            f"METRIC={metric!r}, but {mixture_or_task_name!r} has "
            f"{sorted(metrics)}; choose one of them"
          )
        timed_as.append((model.config, kind))
        timed.setdefault(timed_as[-1], (model, params))
    if repeats:
      first = next(
        inputs.eval_batches(
          mixture_or_task_name,
          split,
          objective=objective,
          lengths=task_feature_lengths,
          batch_size=batch_size,
          num_examples=num_examples,
        )
      )
      costs = analysis.inference_costs(
        timed,
        jax.device_put(
          backbones.encoder_inputs(timed_as[0][0], first), sharding
        ),
        max_length=task_feature_lengths.get("targets", 1),
        repeats=repeats,
        objective=objective,
      )
      for row, key in zip(rows, timed_as, strict=True):
        row |= costs[key]
      _write(folder, rows, {}, mixture_or_task_name, split, metric)
  print(f"\n{table(rows)}")
  if repeats:
    _plot(folder / "accuracy_speed.png", rows, metric)
  print(f"\nwrote {folder}/")
  return rows


def table(rows: Sequence[Row]) -> str:
  """The rows of `evaluate` as text, the statistics of routing left out."""
  names = dict.fromkeys(
    name
    for row in rows
    for name in row["metrics"]
    if not name.startswith("routing/")
  )
  columns = [
    ("checkpoint", "checkpoint", "{}"),
    ("r", "reduction", "{:g}"),
    ("weights", "weights", "{}"),
    *((name, name, "{:.4g}") for name in names),
    *_SPEED_COLUMNS,
  ]
  return report.table(columns, [{**row["metrics"], **row} for row in rows])


def _at_reductions(
  model: nn.Module, reductions: Sequence[float] | None, *, is_alone: bool
) -> list[nn.Module]:
  if reductions is None or not (model.config.is_routed or is_alone):
    return [model]
  return [backbones.build(model.config.with_reduction(r)) for r in reductions]


def _row(
  name: str, model: nn.Module, weights: str, metrics: Mapping[str, float]
) -> Row:
  coda = model.config.coda
  return {
    "checkpoint": name,
    "reduction": coda.reduction if coda else 1,
    "weights": weights,
    "metrics": dict(metrics),
  }


def _first_metric(metrics: Mapping[str, float]) -> str:
  """The task's first metric, or the objective's if it has none."""
  own = [n for n in metrics if n not in _LOSSES and "routing/" not in n]
  return own[0] if own else next(n for n in _LOSSES[::-1] if n in metrics)


def _write(
  folder: Path,
  rows: Sequence[Row],
  predictions: Mapping[str, Sequence[Mapping[str, str]]],
  task: str,
  split: str,
  metric: str,
) -> None:
  """Writes all rows, and the predictions of the last one."""
  last = rows[-1]
  variant = f"r{last['reduction']:g}"
  if last["weights"] != "float":
    variant += f"_{last['weights']}"
  for name, texts in predictions.items():
    outputs.write_lines(
      folder
      / "predictions"
      / last["checkpoint"]
      / variant
      / f"{name.replace('/', '_')}.jsonl",
      texts,
    )
  files.write_json(
    folder / "results.json",
    {
      "task": task,
      "split": split,
      "metric": metric,
      "rows": list(rows),
      "environment": report.environment(),
    },
  )


def _plot(path: Path, rows: Sequence[Row], metric: str) -> None:
  lines: dict[str, list[report.Point]] = {}
  for row in rows:
    label = row["checkpoint"]
    if row["weights"] != "float":
      label += f", {row['weights']}"
    lines.setdefault(label, []).append(
      report.Point(
        f"r = {row['reduction']:g}",
        row["encoder_speedup"],
        row["metrics"][metric],
      )
    )
  first = f"{rows[0]['checkpoint']} at r = {rows[0]['reduction']:g}"
  xlabel = f"speed-up of the encoder over {first}"
  try:
    report.plot(path, lines, xlabel=xlabel, ylabel=metric)
  except ModuleNotFoundError as error:
    if error.name != "matplotlib":
      raise
    print("no plot: matplotlib is missing; pip install 'coda_jax[bench]'")
