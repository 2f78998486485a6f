"""Pairs of texts: an encoder learns that the two of a pair belong together."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import Array

from coda_jax import backbones
from coda_jax.data import texts
from coda_jax.objectives import Batch, Sums, converters

if TYPE_CHECKING:
  import seqio

# What stands for the cosine with a row that is no pair: its softmax is 0.
_NEVER = -1e9


def pair_losses(
  inputs: Array, targets: Array, is_pair: Array, *, scale: float
) -> tuple[Array, Array]:
  """The symmetric cross-entropy of cosines within a batch, and who is nearest.

  Each input looks for its own target among the targets of all rows, and each
  target for its own input among the inputs. The loss of a row is the mean of
  both, as in sentence-transformers' MultipleNegativesSymmetricRankingLoss
  (Henderson et al. 2017, arXiv:1705.00652).

  Args:
    inputs: float32 [batch, d], of length 1.
    targets: float32 [batch, d], of length 1; row i belongs to input i.
    is_pair: bool [batch]; other rows are never looked for.
    scale: times the cosines before the softmax.

  Returns:
    loss, float32 [batch], of no meaning where `is_pair` is False; and bool
    [batch], whether the own target is the nearest one of the batch.
  """
  cosines = jnp.matmul(inputs, targets.T, precision=jax.lax.Precision.HIGHEST)
  own = jnp.arange(len(cosines))
  to_targets, to_inputs = (
    jnp.where(is_pair[None], scale * x, _NEVER) for x in (cosines, cosines.T)
  )
  loss = optax.softmax_cross_entropy_with_integer_labels
  losses = (loss(to_targets, own) + loss(to_inputs, own)) / 2
  return losses, to_targets.argmax(axis=1) == own


@dataclasses.dataclass(frozen=True)
class Contrastive:
  """Cross-entropy of cosines, over the pairs of a batch; see `pair_losses`.

  A text and its positive, a task's inputs and targets, are embedded by the
  same encoder: the mean of the hidden states of the tokens, scaled to length 1,
  in float32. Negatives are the texts of the batch's other rows: on a mesh those
  of all devices, with MICROBATCHES above 1 those of the microbatch alone. The
  metric `first` is the share of the rows whose target is the nearest one; it
  depends on the batch's size as the loss does.

  Attributes:
    scale: times the cosines.
  """

  scale: float = 20.0
  token_features: ClassVar[tuple[str, ...]] = ("inputs", "targets")

  def __post_init__(self):
    if not (isinstance(self.scale, int | float) and 0 < self.scale < math.inf):
      raise ValueError(
        f"Contrastive.scale={self.scale!r} (SCALE); expected a number above 0"
      )

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    for name in self.token_features:
      if name not in features:
        raise ValueError(
          f"Contrastive needs pairs of texts, but the task has no {name!r}; "
          "use tasks/pairs.gin"
        )
      texts.check_vocabulary(
        features[name].vocabulary, config.vocab_size, repr(name)
      )

  def constants(self, trained: Any) -> dict[str, Any]:
    del trained
    return {}

  def converter(
    self, features: Mapping[str, Any], *, pack: bool = False
  ) -> "seqio.FeatureConverter":
    del features
    if pack:
      raise ValueError(
        "loop.train.pack=True; a row has one vector, so it needs an example a "
        "row: use pack=False"
      )
    return converters.two_texts()

  def shapes(
    self, config: Any, batch_size: int, lengths: Mapping[str, int]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    del config
    return {
      f"{prefix}{name}": jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
      for prefix, length in (
        ("", lengths["inputs"]),
        (converters.OF_TARGETS, lengths["targets"]),
      )
      for name in ("encoder_input_tokens", "encoder_mask")
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
    """As the protocol says; `routing` and `mask` are those of the targets."""
    prefix = converters.OF_TARGETS
    of_targets = {
      name.removeprefix(prefix): x
      for name, x in batch.items()
      if name.startswith(prefix)
    }
    # Dropout of their own.
    other = {n: jax.random.fold_in(key, 1) for n, key in (rngs or {}).items()}
    inputs, _ = _vectors(model, params, batch, train=train, rngs=rngs)
    targets, routing = _vectors(
      model, params, of_targets, train=train, rngs=other
    )
    masks = [x["encoder_mask"].astype(bool) for x in (batch, of_targets)]
    is_pair = masks[0].any(axis=1) & masks[1].any(axis=1)
    losses, is_first = pair_losses(inputs, targets, is_pair, scale=self.scale)
    weights = is_pair.astype(jnp.float32)
    return Sums(
      loss=(losses * weights).sum(),
      weight=weights.sum(),
      metrics={"first": (is_first.astype(jnp.float32) * weights).sum()},
      tokens=sum(mask.sum().astype(jnp.float32) for mask in masks),
      routing=routing,
      mask=masks[1],
    )

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    """float32 [batch, d], the vectors of the inputs, of length 1."""
    del max_length
    return _predict(params, dict(batch), model=model)

  def answers(self, predictions: np.ndarray) -> list[Any]:
    raise NotImplementedError(
      "the answers of Contrastive are vectors, which no metric of a task "
      "compares with a text; use tasks/pairs.gin, a task without metrics"
    )


def _vectors(
  model: nn.Module,
  params: Any,
  batch: Batch,
  *,
  train: bool,
  rngs: Mapping[str, Array] | None,
) -> tuple[Array, Any]:
  """The vectors of texts, float32 [batch, d], and the encoder's routing."""
  hidden, routing = model.apply(
    {"params": params},
    **backbones.encoder_inputs(model.config, batch),
    enable_dropout=train,
    return_routing=True,
    method="encode",
    rngs=rngs,
  )
  mask = batch["encoder_mask"].astype(bool)
  # The mean has the direction of the sum.
  sums = jnp.where(mask[..., None], hidden.astype(jnp.float32), 0.0).sum(axis=1)
  squares = jnp.square(sums).sum(axis=-1, keepdims=True)
  return sums * jax.lax.rsqrt(jnp.maximum(squares, 1e-24)), routing


@functools.partial(jax.jit, static_argnames="model")
def _predict(params: Any, batch: Batch, *, model: nn.Module) -> Array:
  return _vectors(model, params, batch, train=False, rngs=None)[0]
