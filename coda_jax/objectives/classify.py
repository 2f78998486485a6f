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

from coda_jax import arguments
from coda_jax.data import texts
from coda_jax.objectives import Batch, Sums, converters, heads

if TYPE_CHECKING:
  import seqio


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
    heads.check("classification", self.labels, features, config)

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
      heads.ARGUMENTS,
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
      **dict.fromkeys(heads.ARGUMENTS, tokens),
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
      **heads.inputs(batch),
      enable_dropout=train,
      return_routing=True,
      rngs=rngs,
    )
    heads.check_logits(self.labels, logits, ("batch",))
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
    mask = heads.mask(model, batch)
    return Sums(
      loss=(loss * weights).sum(),
      weight=weights.sum(),
      metrics=metrics,
      tokens=mask.sum().astype(jnp.float32),
      routing=routing,
      mask=mask,
    )

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    """int32 [batch] places in `labels`; or float32 [batch] numbers.

    A row whose logits are not numbers has the place -1.
    """
    del max_length
    logits = heads.logits(params, heads.inputs(batch), model=model)
    heads.check_logits(self.labels, logits, ("batch",))
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
