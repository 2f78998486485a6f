"""t5x's model of a `Transformer`, trained by self-distillation."""

from collections.abc import Mapping
from typing import Any

import jax
from clu import metrics as clu_metrics
from t5x import losses, metrics, models

from coda_jax import params as params_lib
from coda_jax.objectives import Sums, distil_seq2seq, teacher
from coda_jax.under_t5x import optimizer


class DistilledModel(models.EncoderDecoderModel):
  """`EncoderDecoderModel` with the loss of `DistilSeq2Seq`.

  The teacher is the same network with the same arrays, without what CoDA adds.
  So only what CoDA adds may be trained: a teacher whose norms change would
  follow the model that it teaches.
  """

  def __init__(
    self, *args: Any, objective: distil_seq2seq.DistilSeq2Seq, **kwargs: Any
  ):
    """See `EncoderDecoderModel`.

    Args:
      *args: of `EncoderDecoderModel`.
      objective: the loss, with its own `z_loss` and `label_smoothing`.
      **kwargs: of `EncoderDecoderModel`.
    """
    super().__init__(*args, **kwargs)
    self._objective = objective

  def loss_fn(
    self,
    params: Any,
    batch: Mapping[str, jax.Array],
    dropout_rng: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """The loss of a batch, and t5x's metrics of it.

    Args:
      params: of the model.
      batch: of seqio's `EncDecFeatureConverter`.
      dropout_rng: None when evaluating.

    Returns:
      (float32 [], metrics by name): `cross_entropy`, `divergence`,
      `hidden_error` and `accuracy` are means over target tokens.

    Raises:
      ValueError: nothing is added to the model, or a parameter of the teacher
        is trained.
    """
    teacher.check(self.module.config)
    self._check_trained(params)
    train = dropout_rng is not None
    sums = self._objective.sums(
      self.module,
      params,
      batch,
      train=train,
      rngs={"dropout": dropout_rng} if train else None,
    )
    factor, _ = losses.get_loss_normalizing_factor_and_weights(
      self._loss_normalizing_factor, batch
    )
    loss = sums.loss if factor is None else sums.loss / factor
    return loss, _metrics(sums, loss, len(batch["decoder_target_tokens"]))

  def _check_trained(self, params: Any) -> None:
    if not isinstance(self.optimizer_def, optimizer.TrainedOnly):
      raise ValueError(
        "self-distillation under t5x trains only what CoDA adds; use a file of "
        "schedules/ or t5x/optimizers/, whose OPTIMIZER_DEF is TrainedOnly"
      )
    for path in params_lib.flatten(params):
      if not params_lib.is_added(path) and params_lib.matches(
        path, self.optimizer_def.patterns
      ):
        raise ValueError(
          f"TRAINED: {path} belongs to the teacher too, and t5x keeps no copy "
          "of it; use TRAINED=%params.ADDED_PATTERNS, as "
          "t5x/objectives/distil_seq2seq.gin does"
        )


def _metrics(sums: Sums, loss: jax.Array, examples: int) -> dict[str, Any]:
  means = {
    "accuracy" if name == "token_accuracy" else name: clu_metrics.Average(
      total=total, count=sums.weight
    )
    for name, total in sums.metrics.items()
  }
  return {
    **means,
    "loss": metrics.AveragePerStep(total=loss),
    "timing/seqs_per_second": metrics.TimeRate.from_model_output(
      numerator=examples
    ),
    "timing/steps_per_second": metrics.StepsPerTime.from_model_output(),
    "timing/seconds": metrics.Time(),
  }
