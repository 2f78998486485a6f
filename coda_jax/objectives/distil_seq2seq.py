"""Self-distillation of an encoder-decoder, with a task's text."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax.objectives import Batch, Sums, hidden_states, seq2seq, teacher


@dataclasses.dataclass(frozen=True)
class DistilSeq2Seq(seq2seq.Seq2Seq):
  """Logits and hidden states of the dense model, and the targets themselves.

  The teacher is the same model without routing and adapters, see `teacher`. The
  metrics, besides those of `Seq2Seq`: `cross_entropy`, its loss; `divergence`,
  of the teacher's predictions from the model's; and `hidden_error`.

  Attributes:
    targets: weight of the loss of `Seq2Seq`.
    logits: weight of the Kullback-Leibler divergence at each target token.
    hidden: weight of the squared error of the encoder's output, over the
      teacher's mean square; a mean over the rows.
    hidden_layers: numbers of layers of the encoder whose tokens are compared
      too, see `hidden_states.error`.
  """

  targets: float = 0.0
  logits: float = 1.0
  hidden: float = 1.0
  hidden_layers: Sequence[int] = ()

  def __post_init__(self):
    super().__post_init__()
    names = ("targets", "logits", "hidden")
    teacher.check_weights(
      "DistilSeq2Seq", {name: getattr(self, name) for name in names}
    )
    hidden_states.check_layers("DistilSeq2Seq", self.hidden_layers)

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    super().check(features, config)
    teacher.check(config)
    hidden_states.check_config(self.hidden_layers, config)

  def constants(self, trained: Any) -> dict[str, Any]:
    return teacher.constants(trained)

  def sums(
    self,
    model: nn.Module,
    params: Any,
    batch: Batch,
    *,
    train: bool,
    rngs: Mapping[str, Array] | None = None,
  ) -> Sums:
    encoded, logits = self._outputs(
      model, params, batch, train=train, rngs=rngs
    )
    own = self.sums_of(logits, encoded.routing, batch, train=train)
    expected, expected_logits = jax.lax.stop_gradient(
      self._outputs(
        teacher.model_of(model), teacher.params_of(params), batch, train=False
      )
    )
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    divergence = (_divergence(expected_logits, logits) * weights).sum()
    # A row counts by its targets, as in the other terms of the loss.
    error = hidden_states.error(encoded, expected, own.mask)
    error = (error * weights.sum(axis=1)).sum()
    return own._replace(
      loss=self.targets * own.loss
      + self.logits * divergence
      + self.hidden * error,
      metrics={
        **own.metrics,
        "cross_entropy": own.loss,
        "divergence": divergence,
        "hidden_error": error,
      },
    )

  def _outputs(
    self,
    model: nn.Module,
    params: Any,
    batch: Batch,
    *,
    train: bool,
    rngs: Mapping[str, Array] | None = None,
  ) -> tuple[hidden_states.Encoded, Array]:
    """The encoder's output and the logits, see `Transformer`."""
    inputs = {
      "encoder_input_tokens": batch["encoder_input_tokens"],
      "encoder_segment_ids": batch.get("encoder_segment_ids"),
    }
    encoded = hidden_states.encode(
      model, params, inputs, self.hidden_layers, train=train, rngs=rngs
    )
    logits = model.apply(
      {"params": params},
      encoded=encoded.tokens,
      **inputs,
      decoder_input_tokens=batch["decoder_input_tokens"],
      decoder_target_tokens=batch["decoder_target_tokens"],
      decoder_segment_ids=batch.get("decoder_segment_ids"),
      enable_dropout=train,
      method="decode",
      rngs=rngs,
    )
    return encoded, logits


def _divergence(expected: Array, found: Array) -> Array:
  """float32 [batch, length] of logits, [batch, length, vocab_size] each."""
  expected, found = (
    jax.nn.log_softmax(x.astype(jnp.float32)) for x in (expected, found)
  )
  return (jnp.exp(expected) * (expected - found)).sum(axis=-1)
