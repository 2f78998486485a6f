"""Loss, routing statistics and a task's own metrics on a split."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding

from coda_jax import partitioning
from coda_jax.data.texts import text_of
from coda_jax.objectives import Objective
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import hosts, inputs, steps, tf_iterator


class Evaluation:
  """Evaluates parameters on one split of a task or mixture.

  A run builds it once, so steps are compiled and targets prepared once.

  Attributes:
    remarks: warnings on the answers of the last call, a line each.
  """

  def __init__(
    self,
    model: nn.Module,
    mixture_or_task_name: str,
    *,
    split: str,
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    num_examples: int | None = None,
    predict: bool = True,
    objective: Objective = Seq2Seq(),
    sharding: NamedSharding | None = None,
  ):
    """Prepares.

    Args:
      model: of `backbones.build`.
      mixture_or_task_name: known to seqio.
      split: "validation", "test"...
      task_feature_lengths: {"inputs": n, "targets": m}.
      batch_size: examples a batch.
      num_examples: how many examples to evaluate, from the start of the split;
        None for all.
      predict: also answer, and compute the task's own metrics.
      objective: gives the loss and the answers.
      sharding: of batches, `partitioning.batch_sharding`; None for one device.
        Of several processes, each reads all examples and computes its share.
    """
    self._model = model
    self._name = mixture_or_task_name
    self._split = split
    self._lengths = dict(task_feature_lengths)
    self._batch_size = batch_size
    self._num_examples = num_examples
    self._objective = objective
    self._step = steps.make_eval_step(model, objective)
    self._sharding = sharding
    self.remarks: list[str] = []
    self._evaluator = self._make_evaluator() if predict else None

  def for_model(self, model: nn.Module) -> "Evaluation":
    """The same evaluation of another model; the targets are shared."""
    other = copy.copy(self)
    other._model = model
    other._step = steps.make_eval_step(model, self._objective)
    return other

  def __call__(self, params: Any) -> dict[str, float]:
    """Measures `loss`, the objective's metrics, `routing/...` and the task's.

    The metrics of a task are under their own names, or `TASK/name` if a
    mixture has several tasks.
    """
    return self._measure(params)[0]

  def with_predictions(
    self, params: Any, *, texts: int | None = None
  ) -> tuple[dict[str, float], dict[str, list[dict[str, str]]]]:
    """The results of a call, and the texts that metrics compare.

    The texts are {task: [{"input", "target", "prediction"}]}, in the order of
    the split, for each task that has metrics.

    Args:
      params: the model's parameters.
      texts: how many texts of each task; None for all.
    """
    metrics, outputs = self._measure(params)
    return metrics, {
      task: list(itertools.islice(self._texts(task, answers), texts))
      for task, answers in outputs.items()
    }

  def _measure(self, params):
    losses = self._losses(params)
    metrics, outputs = self._task_metrics(params)
    return {**losses, **metrics}, outputs

  def _losses(self, params) -> dict[str, float]:
    batches = inputs.eval_batches(
      self._name,
      self._split,
      objective=self._objective,
      lengths=self._lengths,
      batch_size=self._batch_size,
      num_examples=self._num_examples,
      vocab_size=self._model.config.vocab_size,
    )
    sums: dict[str, float] = {}
    for batch in batches:
      for name, value in jax.device_get(
        self._step(params, self._place(batch))
      ).items():
        sums[name] = sums.get(name, 0.0) + float(value)
    if not sums:
      raise ValueError(
        f"split {self._split!r} of {self._name!r} has no examples"
      )
    weight = max(sums.pop("weight"), 1.0)
    tokens = max(sums.pop("input_tokens"), 1.0)
    return {
      name: value / (tokens if name.startswith("routing/") else weight)
      for name, value in sums.items()
    }

  def _place(self, batch: inputs.Batch) -> Mapping[str, Any]:
    if self._sharding is None:
      return batch
    rows = np.arange(self._batch_size)
    return partitioning.place_batch(
      batch, self._batch_size, rows, self._sharding
    )

  def _make_evaluator(self):
    import seqio

    whole = seqio.get_mixture_or_task(self._name)
    tasks = seqio.get_subtasks(whole)
    if not any(task.metric_objs for task in tasks):
      return None
    for task in tasks:
      for metric in task.metric_objs:
        kind = metric.model_output_type
        if kind != seqio.metrics.ModelOutputType.PREDICTION:
          raise ValueError(
            f"task {task.name!r} has a metric of {kind.name}; only metrics of "
            "PREDICTION are computed here. Give the task such metrics, or set "
            "predict=False and use the scores of coda_jax.infer"
          )
    with inputs.readable(self._name, self._split):
      return seqio.Evaluator(
        self._name,
        self._objective.converter(whole.output_features),
        eval_split=self._split,
        sequence_length=self._lengths,
        num_examples=self._num_examples,
        async_compute_metrics=False,
      )

  def _task_metrics(self, params):
    """Metrics, and {task: the answer to each example}."""
    if self._evaluator is None or not self._evaluator.eval_tasks:
      return {}, {}
    from seqio import metrics as seqio_metrics

    metrics, outputs = self._evaluator.evaluate(
      compute_metrics=True, predict_fn=self._predict_fn(params)
    )
    several = len(metrics.result()) > 1
    named = {
      f"{task}/{name}" if several else name: float(
        getattr(value, "value", value)
      )
      for task, values in metrics.result().items()
      for name, value in values.items()
    }
    kind = seqio_metrics.ModelOutputType.PREDICTION
    answers = {task: output[kind] for task, output in outputs.items()}
    self.remarks = [
      line
      for task, some in answers.items()
      for line in self._remarks(task, some)
    ]
    return named, answers

  def _remarks(self, task: str, answers: list) -> Iterator[str]:
    """A warning if one label is the answer to everything."""
    if not answers or not isinstance(answers[0], str) or len(set(answers)) > 1:
      return
    targets = {example["target"] for example in self._texts(task, answers)}
    if len(targets) > 1:
      yield (
        f"warning: every answer to {task!r} is {answers[0]!r}: the model tells "
        "no label from another. If that stays so, lower PEAK, raise "
        "WARMUP_STEPS or BATCH_SIZE; see docs/tasks.md, Classify texts with a "
        "BERT"
      )

  def _texts(self, task: str, answers: list) -> Iterator[dict[str, str]]:
    import seqio

    features = seqio.get_mixture_or_task(task).output_features
    examples = tf_iterator.read(self._evaluator.cached_task_datasets[task])
    for example, answer in zip(examples, answers, strict=True):
      if not isinstance(answer, str):
        answer = features["targets"].vocabulary.decode(answer)
      yield {
        "input": text_of(example, "inputs", features),
        "target": text_of(example, "targets", features),
        "prediction": answer,
      }

  def _predict_fn(self, params) -> Callable[[Any], list]:
    """A function from an enumerated dataset to (index, answer) pairs."""

    def predict(dataset):
      results = []
      batches = dataset.batch(self._batch_size)
      for indices, features in tf_iterator.read(batches):
        batch = self._place(inputs.pad_batch(features, self._batch_size))
        predictions = self._objective.predict(
          self._model, params, batch, max_length=self._lengths["targets"]
        )
        # The rows that filled up the batch have no index.
        predictions = hosts.fetch(predictions)[: len(indices)]
        answers = self._objective.answers(predictions)
        results += zip(indices.tolist(), answers, strict=True)
      return results

    return predict
