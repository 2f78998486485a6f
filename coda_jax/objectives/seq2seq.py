"""From text to text: an encoder-decoder that generates its answers."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from coda_jax import arguments, backbones, decoding
from coda_jax.data import texts
from coda_jax.nn.config import Conditional
from coda_jax.objectives import Batch, Sums

if TYPE_CHECKING:
  import seqio

# Transformer's arguments, as seqio's EncDecFeatureConverter names them with
# packing; without, the last two pairs are absent.
_MODEL_FEATURES = (
  "encoder_input_tokens",
  "decoder_input_tokens",
  "decoder_target_tokens",
  "encoder_segment_ids",
  "decoder_segment_ids",
  "encoder_positions",
  "decoder_positions",
)


def cross_entropy(
  logits: Array,
  targets: Array,
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> Array:
  """Loss of each target token.

  Args:
    logits: [batch, length, vocab_size], any float dtype; float32 inside.
    targets: int [batch, length].
    z_loss: times the squared log of the softmax's normaliser, which keeps it
      near 1 (Mesh TensorFlow; T5 pretrains with 1e-4).
    label_smoothing: probability spread evenly over the vocabulary.

  Returns:
    float32 [batch, length].
  """
  logits = logits.astype(jnp.float32)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  if z_loss or label_smoothing:
    log_z = jax.nn.logsumexp(logits, axis=-1)
    uniform = log_z - logits.mean(axis=-1)
    loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    loss += z_loss * jnp.square(log_z)
  return loss


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
  """Cross-entropy of target tokens; answers are generated.

  For a `Transformer`, and tasks with a vocabulary for inputs and targets. Its
  metric is `token_accuracy`, the share of target tokens that the model finds
  most likely.

  Attributes:
    z_loss: see `cross_entropy`; of training only.
    label_smoothing: see `cross_entropy`; of training only.
    generate: arguments of `coda_jax.generate`, such as {"method": "beam"}; None
      is greedy.
  """

  z_loss: float = 0.0
  label_smoothing: float = 0.0
  generate: Mapping[str, Any] | None = None
  token_features: ClassVar[tuple[str, ...]] = ("inputs", "targets")

  def __post_init__(self):
    arguments.check(vars(self))

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    for name in ("inputs", "targets"):
      texts.check_vocabulary(
        features[name].vocabulary, config.vocab_size, repr(name)
      )
    if isinstance(config, Conditional) and config.task_fields:
      raise ValueError(
        f"Seq2Seq needs an encoder-decoder, but the model is a "
        f"{backbones.of(config).title}; add objectives/classify.gin after the "
        "file of runs/, and LABELS"
      )

  def constants(self, trained: Any) -> dict[str, Any]:
    del trained
    return {}

  def converter(
    self, features: Mapping[str, Any], *, pack: bool = False
  ) -> "seqio.FeatureConverter":
    import seqio

    del features
    return seqio.EncDecFeatureConverter(pack=pack)

  def shapes(
    self, config: Any, batch_size: int, lengths: Mapping[str, int]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    del config
    inputs, targets = (
      jax.ShapeDtypeStruct((batch_size, lengths[name]), jnp.int32)
      for name in ("inputs", "targets")
    )
    return {
      "encoder_input_tokens": inputs,
      "decoder_input_tokens": targets,
      "decoder_target_tokens": targets,
      "decoder_loss_weights": targets,
    }

  def sums(
    self,
    model: nn.Module,
    params: Any,
    batch: Batch,
    *,
    train: bool,
    rngs: Mapping[str, Array] | None = None,
  ) -> Sums:
    logits, routing = model.apply(
      {"params": params},
      **{name: batch[name] for name in _MODEL_FEATURES if name in batch},
      enable_dropout=train,
      return_routing=True,
      rngs=rngs,
    )
    return self.sums_of(logits, routing, batch, train=train)

  def sums_of(
    self, logits: Array, routing: Any, batch: Batch, *, train: bool
  ) -> Sums:
    """`sums`, of a model's logits and routing."""
    targets = batch["decoder_target_tokens"]
    loss = cross_entropy(
      logits,
      targets,
      z_loss=self.z_loss if train else 0.0,
      label_smoothing=self.label_smoothing if train else 0.0,
    )
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    correct = (logits.argmax(axis=-1) == targets).astype(jnp.float32)
    mask = batch["encoder_input_tokens"] > 0
    return Sums(
      loss=(loss * weights).sum(),
      weight=weights.sum(),
      metrics={"token_accuracy": (correct * weights).sum()},
      tokens=weights.sum() + mask.sum().astype(jnp.float32),
      routing=routing,
      mask=mask,
    )

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    """int32 [batch, max_length] tokens, see `coda_jax.generate`."""
    return decoding.generate(
      model,
      params,
      batch["encoder_input_tokens"],
      max_length=max_length,
      **(self.generate or {}),
    ).tokens

  def answers(self, predictions: np.ndarray) -> list[list[int]]:
    return predictions.tolist()
