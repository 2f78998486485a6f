"""From text to one of a few labels, or to a number: an encoder with a head."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from coda_jax import arguments, backbones
from coda_jax.data import texts
from coda_jax.nn.config import Conditional
from coda_jax.objectives import Batch, Sums, converters

if TYPE_CHECKING:
  import seqio

# Arguments of the model. Where a batch is made by hand, only the first is
# needed.
_MODEL_FEATURES = (
  "encoder_input_tokens",
  "encoder_token_types",
  "encoder_mask",
)


@dataclasses.dataclass(frozen=True)
class Classify:
  """Cross-entropy of labels, the texts that are a task's targets.

  For a model that takes `encoder_input_tokens`, `encoder_token_types` and
  `encoder_mask`, and gives float32 logits [batch, len(labels)]. Its metric is
  `label_accuracy`, the share of examples whose label the model finds most
  likely. With one label, targets are numbers, the model's output is one, and
  the loss is their squared difference.

  Attributes:
    labels: the texts, in the order of the model's logits.
  """

  labels: Sequence[str]
  token_features: ClassVar[tuple[str, ...]] = ("inputs",)

  def __post_init__(self):
    arguments.check(vars(self))

  @property
  def _is_regression(self) -> bool:
    return len(self.labels) == 1

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    texts.check_vocabulary(
      features["inputs"].vocabulary, config.vocab_size, repr("inputs")
    )
    if not isinstance(config, Conditional):
      return  # A model of the caller's own.
    head = config.head_fields
    if head.get("head") != "classification":
      raise ValueError(
        f"LABELS={self.labels!r} need a model with a head for classification, "
        f"but this is a {backbones.of(config).title} without; use "
        "models/bert.gin, or a checkpoint of such a model"
      )
    if head["num_labels"] != len(self.labels) or (
      head["labels"] and head["labels"] != tuple(self.labels)
    ):
      raise ValueError(
        f"LABELS={self.labels!r}, but the model was made for "
        f"{head['num_labels']} labels {head['labels'] or ''}; set LABELS to "
        "these, in their order"
      )

  def constants(self, trained: Any) -> dict[str, Any]:
    del trained
    return {}

  def converter(
    self, features: Mapping[str, Any], *, pack: bool = False
  ) -> "seqio.FeatureConverter":
    """Makes the model's arguments, `labels` and `loss_weights`, one a row.

    Raises:
      ValueError: with `pack`. And where examples are read: a target that is not
        among the labels, or not a number.
    """
    if pack:
      raise ValueError(
        "loop.train.pack=True; a classifier answers once a row, so it needs an "
        "example a row: use pack=False"
      )
    return converters.encoder_only(
      _MODEL_FEATURES,
      label=functools.partial(self._label, features),
      label_dtype=self._dtype,
    )

  @property
  def _dtype(self) -> Any:
    return np.float32 if self._is_regression else np.int32

  def _label(self, features: Mapping[str, Any], **example: Any) -> Any:
    """The label of an example, as the loss takes it."""
    text = texts.text_of(example, "targets", features).strip()
    if self._is_regression:
      try:
        return np.float32(text)
      except ValueError:
        raise ValueError(
          f"the target {text!r} is not a number, which one label "
          f"(LABELS={self.labels!r}) stands for; name all labels"
        ) from None
    if text not in self.labels:
      raise ValueError(
        f"LABELS={self.labels!r} lack the target {text!r}; name all targets of "
        "the task"
      )
    return np.int32(list(self.labels).index(text))

  def shapes(
    self, config: Any, batch_size: int, lengths: Mapping[str, int]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    del config
    tokens = jax.ShapeDtypeStruct((batch_size, lengths["inputs"]), jnp.int32)
    return {
      **dict.fromkeys(_MODEL_FEATURES, tokens),
      "labels": jax.ShapeDtypeStruct((batch_size,), self._dtype),
      "loss_weights": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
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
      **_inputs(batch),
      enable_dropout=train,
      return_routing=True,
      rngs=rngs,
    )
    self._check_logits(logits)
    logits = logits.astype(jnp.float32)
    weights = batch["loss_weights"].astype(jnp.float32)
    labels = batch["labels"]
    metrics = {}
    if self._is_regression:
      loss = jnp.square(logits[:, 0] - labels)
    else:
      loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      correct = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
      metrics["label_accuracy"] = (correct * weights).sum()
    # Padding is not 0 for all models: batches of `converter` have a mask.
    pad_id = getattr(model.config, "pad_id", 0)
    mask = batch["encoder_input_tokens"] != pad_id
    if "encoder_mask" in batch:
      mask = batch["encoder_mask"].astype(bool)
    return Sums(
      loss=(loss * weights).sum(),
      weight=weights.sum(),
      metrics=metrics,
      tokens=mask.sum().astype(jnp.float32),
      routing=routing,
      mask=mask,
    )

  def _check_logits(self, logits: Array) -> None:
    if logits.shape[1:] != (len(self.labels),):
      raise ValueError(
        f"LABELS={self.labels!r} are {len(self.labels)}, and the model gives "
        f"logits of shape {logits.shape}; expected [batch, {len(self.labels)}]:"
        " give its head as many outputs"
      )

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    """int32 [batch] places in `labels`; or float32 [batch] numbers.

    A row whose logits are not numbers has the place -1.
    """
    del max_length
    logits = _logits(params, _inputs(batch), model=model)
    self._check_logits(logits)
    if self._is_regression:
      return logits[:, 0].astype(jnp.float32)
    is_finite = jnp.isfinite(logits).all(axis=-1)
    return jnp.where(is_finite, logits.argmax(axis=-1), -1).astype(jnp.int32)

  def answers(self, predictions: np.ndarray) -> list[str]:
    if self._is_regression:
      return [str(number) for number in predictions.astype(np.float32)]
    if np.any(predictions < 0):
      raise FloatingPointError(
        "the logits of an answer are not numbers: the parameters are damaged, "
        "or training has diverged"
      )
    return [self.labels[place] for place in predictions]


@functools.partial(jax.jit, static_argnames="model")
def _logits(params: Any, inputs: Batch, *, model: nn.Module) -> Array:
  return model.apply({"params": params}, **inputs, enable_dropout=False)


def _inputs(batch: Batch) -> dict[str, Any]:
  return {name: batch[name] for name in _MODEL_FEATURES if name in batch}
