"""Self-distillation: a routed encoder learns from itself without routing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from coda_jax import backbones
from coda_jax.data import texts
from coda_jax.objectives import Batch, Sums, converters, hidden_states, teacher

if TYPE_CHECKING:
  import seqio

_MODEL_FEATURES = ("encoder_input_tokens", "encoder_mask")


@dataclasses.dataclass(frozen=True)
class DistilEncoder:
  """Hidden states and embeddings of the dense encoder, without any label.

  The teacher is the same model without routing and adapters, see `teacher`. The
  metric `cosine` is that of the embeddings, the means of a row's
  hidden states.

  Attributes:
    hidden: weight of the squared error of the hidden states after the last
      layer, over the teacher's mean square; a mean over the tokens of a row.
    pooled: weight of 1 - `cosine`.
    hidden_layers: numbers of further layers whose hidden states are compared,
      see `hidden_states.error`.
  """

  hidden: float = 1.0
  pooled: float = 1.0
  hidden_layers: Sequence[int] = ()
  token_features: ClassVar[tuple[str, ...]] = ("inputs",)

  def __post_init__(self):
    teacher.check_weights(
      "DistilEncoder", {"hidden": self.hidden, "pooled": self.pooled}
    )
    hidden_states.check_layers("DistilEncoder", self.hidden_layers)

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    texts.check_vocabulary(
      features["inputs"].vocabulary, config.vocab_size, repr("inputs")
    )
    teacher.check(config)
    hidden_states.check_config(self.hidden_layers, config)

  def constants(self, trained: Any) -> dict[str, Any]:
    return teacher.constants(trained)

  def converter(
    self, features: Mapping[str, Any], *, pack: bool = False
  ) -> "seqio.FeatureConverter":
    del features
    if pack:
      raise ValueError(
        "loop.train.pack=True; routing needs an example a row: use pack=False"
      )
    return converters.encoder_only(_MODEL_FEATURES)

  def shapes(
    self, config: Any, batch_size: int, lengths: Mapping[str, int]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    del config
    shape = jax.ShapeDtypeStruct((batch_size, lengths["inputs"]), jnp.int32)
    return dict.fromkeys(_MODEL_FEATURES, shape)

  def sums(
    self,
    model: nn.Module,
    params: Any,
    batch: Batch,
    *,
    train: bool,
    rngs: Mapping[str, Array] | None = None,
  ) -> Sums:
    inputs = backbones.encoder_inputs(model.config, batch)
    mask = batch["encoder_mask"].astype(bool)
    found = hidden_states.encode(
      model, params, inputs, self.hidden_layers, train=train, rngs=rngs
    )
    expected = jax.lax.stop_gradient(
      hidden_states.encode(
        teacher.model_of(model),
        teacher.params_of(params),
        inputs,
        self.hidden_layers,
      )
    )
    tokens = mask.sum(axis=1).astype(jnp.float32)
    weights = (tokens > 0).astype(jnp.float32)
    error = hidden_states.error(found, expected, mask)
    # The means' cosine is the sums'.
    cosine = _cosine(
      *(
        hidden_states.sum_of_tokens(x.tokens.astype(jnp.float32), mask)
        for x in (found, expected)
      )
    )
    loss = self.hidden * error + self.pooled * (1 - cosine)
    return Sums(
      loss=(loss * weights).sum(),
      weight=weights.sum(),
      metrics={
        "cosine": (cosine * weights).sum(),
        "hidden_error": (error * weights).sum(),
      },
      tokens=tokens.sum(),
      routing=found.routing,
      mask=mask,
    )

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    raise NotImplementedError("self-distillation has no answers")

  def answers(self, predictions: np.ndarray) -> list[Any]:
    raise NotImplementedError("self-distillation has no answers")


def _cosine(a: Array, b: Array) -> Array:
  """[batch, d] twice -> [batch]; 0 for a vector of zeros."""
  squares = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
  return (a * b).sum(-1) * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
