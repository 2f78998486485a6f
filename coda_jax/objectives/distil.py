"""Self-distillation: a routed encoder learns from itself without routing."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from coda_jax import backbones
from coda_jax import params as params_lib
from coda_jax.data import texts
from coda_jax.objectives import Batch, Sums, converters

if TYPE_CHECKING:
  import seqio

_MODEL_FEATURES = ("encoder_input_tokens", "encoder_mask")

# Where the parameters have the teacher's own, those that training changes.
TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class DistilEncoder:
  """Hidden states and embeddings of the dense encoder, without any label.

  The teacher is the same model without routing and adapters. It shares the
  frozen parameters; only the small ones that are trained, such as norms, exist
  twice. The metric `cosine` is that of the embeddings, the means of a row's
  hidden states.

  Attributes:
    hidden: weight of the squared error of the hidden states after the last
      layer, over the teacher's mean square; a mean over the tokens of a row.
    pooled: weight of 1 - `cosine`.
  """

  hidden: float = 1.0
  pooled: float = 1.0
  token_features: ClassVar[tuple[str, ...]] = ("inputs",)

  def __post_init__(self):
    for name, value in vars(self).items():
      if not (isinstance(value, int | float) and 0 <= value < math.inf):
        raise ValueError(
          f"DistilEncoder.{name}={value!r}; expected a number, 0 or more"
        )

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    texts.check_vocabulary(
      features["inputs"].vocabulary, config.vocab_size, repr("inputs")
    )
    if config.coda is None:
      raise ValueError(
        "self-distillation of a plain model changes nothing: it is its own "
        "teacher; use a file of methods/"
      )

  def constants(self, trained: Any) -> dict[str, Any]:
    """The teacher's own parameters, as they are before the first step."""
    leaves = {
      path: jnp.copy(leaf)
      for path, leaf in params_lib.flatten(trained).items()
      if not params_lib.is_added(path)
    }
    return {TEACHER: params_lib.unflatten(leaves)} if leaves else {}

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
    found, routing = model.apply(
      {"params": params},
      **inputs,
      enable_dropout=train,
      return_routing=True,
      method="encode",
      rngs=rngs,
    )
    dense = backbones.build(dataclasses.replace(model.config, coda=None))
    expected = dense.apply(
      {"params": _of_teacher(params)},
      **inputs,
      enable_dropout=False,
      method="encode",
    )
    expected = jax.lax.stop_gradient(expected).astype(jnp.float32)
    found = found.astype(jnp.float32)
    tokens = mask.sum(axis=1).astype(jnp.float32)
    weights = (tokens > 0).astype(jnp.float32)
    squares = _sum_of_tokens(jnp.square(expected), mask).sum(axis=-1)
    error = _sum_of_tokens(jnp.square(found - expected), mask).sum(axis=-1)
    error /= jnp.maximum(squares, 1e-12)
    # The means' cosine is the sums'.
    cosine = _cosine(
      _sum_of_tokens(found, mask), _sum_of_tokens(expected, mask)
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
      routing=routing,
      mask=mask,
    )

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    raise NotImplementedError("self-distillation has no answers")

  def answers(self, predictions: np.ndarray) -> list[Any]:
    raise NotImplementedError("self-distillation has no answers")


def _of_teacher(params: Any) -> dict[str, Any]:
  """The parameters of the dense model."""
  leaves = params_lib.flatten(params)
  own = f"{TEACHER}/"
  kept = {
    path: leaf
    for path, leaf in leaves.items()
    if not (path.startswith(own) or params_lib.is_added(path))
  }
  kept |= {
    path.removeprefix(own): leaf
    for path, leaf in leaves.items()
    if path.startswith(own)
  }
  return params_lib.unflatten(kept)


def _sum_of_tokens(x: Array, mask: Array) -> Array:
  """[batch, length, d] -> [batch, d], over the real tokens."""
  return jnp.where(mask[..., None], x, 0.0).sum(axis=1)


def _cosine(a: Array, b: Array) -> Array:
  """[batch, d] twice -> [batch]; 0 for a vector of zeros."""
  squares = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
  return (a * b).sum(-1) * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
