"""From words to a label each: an encoder with a head for tokens."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from coda_jax import arguments
from coda_jax.objectives import Batch, Sums, converters, heads

if TYPE_CHECKING:
  import seqio

_DIMS = ("batch", "length")
# In predictions: a token without a label, and one whose logits are not numbers.
_NONE, _DAMAGED = -1, -2


@dataclasses.dataclass(frozen=True)
class ClassifyTokens:
  """Cross-entropy of words' labels, the tags of a task such as `token_table`.

  For a model that takes `encoder_input_tokens`, `encoder_token_types` and
  `encoder_mask`, and gives float32 logits [batch, length, len(labels)]. The
  first token of a word has the word's label; other tokens have none, and weigh
  nothing. The loss is the mean over labels. Its metric is `token_accuracy`, the
  share of them that the model finds most likely.

  Attributes:
    labels: the tags, in the order of the model's logits.
  """

  labels: Sequence[str]
  token_features: ClassVar[tuple[str, ...]] = ("inputs",)

  def __post_init__(self):
    arguments.check(vars(self))
    for label in self.labels:
      if label.split() != [label]:
        raise ValueError(
          f"LABELS={self.labels!r} have {label!r}, with a space in it; "
          "expected tags without one"
        )

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    heads.check("token_classification", self.labels, features, config)

  def constants(self, trained: Any) -> dict[str, Any]:
    del trained
    return {}

  def converter(
    self, features: Mapping[str, Any], *, pack: bool = False
  ) -> "seqio.FeatureConverter":
    """Makes the model's arguments, `labels` and `loss_weights`, one a token.

    Raises:
      ValueError: with `pack`. And where examples are read: a tag that is not
        among the labels, or a task whose examples do not say where words start.
    """
    del features
    if pack:
      raise ValueError(
        "loop.train.pack=True; token types and masks are of one example a row: "
        "use pack=False"
      )
    return converters.encoder_only(
      heads.ARGUMENTS,
      label=self._labels_of,
      label_dtype=np.int32,
      of_words=True,
    )

  def _labels_of(self, targets_pretokenized: bytes) -> np.ndarray:
    """int32 [words], the labels of an example's tags."""
    tags = targets_pretokenized.decode().split()
    places = {label: place for place, label in enumerate(self.labels)}
    if unknown := [tag for tag in tags if tag not in places]:
      raise ValueError(
        f"LABELS={self.labels!r} lack the tag {unknown[0]!r}; name all tags of "
        "the task"
      )
    return np.array([places[tag] for tag in tags], np.int32)

  def shapes(
    self, config: Any, batch_size: int, lengths: Mapping[str, int]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    del config
    tokens = jax.ShapeDtypeStruct((batch_size, lengths["inputs"]), jnp.int32)
    return dict.fromkeys((*heads.ARGUMENTS, "labels", "loss_weights"), tokens)

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
    heads.check_logits(self.labels, logits, _DIMS)
    logits = logits.astype(jnp.float32)
    weights = batch["loss_weights"].astype(jnp.float32)
    labels = batch["labels"]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = (logits.argmax(axis=-1) == labels).astype(jnp.float32)
    mask = heads.mask(model, batch)
    return Sums(
      loss=(loss * weights).sum(),
      weight=weights.sum(),
      metrics={"token_accuracy": (correct * weights).sum()},
      tokens=mask.sum().astype(jnp.float32),
      routing=routing,
      mask=mask,
    )

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    """int32 [batch, length] places in `labels`; -1 where no word starts.

    A token whose logits are not numbers has the place -2. Without
    `loss_weights`, every token that is not padding has a place.
    """
    del max_length
    logits = heads.logits(params, heads.inputs(batch), model=model)
    heads.check_logits(self.labels, logits, _DIMS)
    labelled = heads.mask(model, batch)
    if "loss_weights" in batch:
      labelled = batch["loss_weights"] > 0
    is_finite = jnp.isfinite(logits).all(axis=-1)
    places = jnp.where(is_finite, logits.argmax(axis=-1), _DAMAGED)
    return jnp.where(labelled, places, _NONE).astype(jnp.int32)

  def answers(self, predictions: np.ndarray) -> list[str]:
    """The labels of each row's words, with spaces between them."""
    if np.any(predictions == _DAMAGED):
      raise FloatingPointError(
        "the logits of an answer are not numbers: the parameters are damaged, "
        "or training has diverged"
      )
    return [
      " ".join(self.labels[place] for place in row if place != _NONE)
      for row in predictions
    ]
