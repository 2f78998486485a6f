"""Hidden states of an encoder, and how far they are from a teacher's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class Encoded(NamedTuple):
  """What an encoder makes of a batch.

  Attributes:
    tokens: [batch, length, emb_dim], its output.
    layers: the same shape each, the tokens after some of its layers.
    routing: see `Transformer`.
  """

  tokens: Array
  layers: Sequence[Array]
  routing: Any


def check_layers(objective: str, layers: Any) -> None:
  """Refuses what are not numbers of layers.

  Raises:
    ValueError: naming it.
  """
  if not isinstance(layers, Sequence) or not all(
    isinstance(i, int) and not isinstance(i, bool) for i in layers
  ):
    raise ValueError(
      f"{objective}.hidden_layers={layers!r}; expected numbers of layers, "
      "such as (2, 5), or ()"
    )


def check_config(layers: Sequence[int], config: Any) -> None:
  """Refuses layers that a model does not have.

  Raises:
    ValueError: naming them, and the number of layers.
  """
  number = config.num_encoder_layers
  if missing := [i for i in layers if not -number <= i < number]:
    raise ValueError(
      f"HIDDEN_LAYERS={tuple(layers)}: the encoder has layers 0 to "
      f"{number - 1}, not {missing}"
    )


def encode(
  model: nn.Module,
  params: Any,
  inputs: Mapping[str, Any],
  layers: Sequence[int],
  *,
  train: bool = False,
  rngs: Mapping[str, Array] | None = None,
) -> Encoded:
  """Runs an encoder, and keeps the tokens after some layers.

  Args:
    model: with a method `encode`.
    params: its parameters.
    inputs: of its `encode`.
    layers: their numbers.
    train: with dropout.
    rngs: of dropout and routing.
  """
  found = model.apply(
    {"params": params},
    **inputs,
    enable_dropout=train,
    return_routing=True,
    method="encode",
    rngs=rngs,
    mutable=["intermediates"] if layers else False,
  )
  if not layers:
    return Encoded(found[0], (), found[1])
  (tokens, routing), state = found
  (outputs,) = state["intermediates"]["encoder"]["layers"]
  return Encoded(tokens, [outputs[i] for i in layers], routing)


def error(found: Encoded, expected: Encoded, mask: Array) -> Array:
  """The mean of the relative squared errors of the output and of the layers.

  After a layer each token counts by its direction: it is divided by its root
  mean square, as the norm of the next layer does. So single tokens with huge
  values, which T5 has, don't outweigh all others.

  Args:
    found: of the model.
    expected: of its teacher, with the same layers.
    mask: bool [batch, length], True for real tokens.

  Returns:
    float32 [batch], 0 for a row of padding alone.
  """
  errors = [relative_error(found.tokens, expected.tokens, mask)]
  errors += [
    relative_error(_direction(a), _direction(b), mask)
    for a, b in zip(found.layers, expected.layers, strict=True)
  ]
  return jnp.stack(errors).mean(axis=0)


def relative_error(found: Array, expected: Array, mask: Array) -> Array:
  """The squared error of hidden states over the teacher's squares.

  Args:
    found: [batch, length, emb_dim], any float dtype.
    expected: the teacher's, the same shape.
    mask: bool [batch, length], True for real tokens.

  Returns:
    float32 [batch], 0 for a row of padding alone.
  """
  found, expected = (x.astype(jnp.float32) for x in (found, expected))
  squares = sum_of_tokens(jnp.square(expected), mask).sum(axis=-1)
  wrong = sum_of_tokens(jnp.square(found - expected), mask).sum(axis=-1)
  return wrong / jnp.maximum(squares, 1e-12)


def sum_of_tokens(x: Array, mask: Array) -> Array:
  """[batch, length, d] -> [batch, d], over the real tokens."""
  return jnp.where(mask[..., None], x, 0.0).sum(axis=1)


def _direction(x: Array) -> Array:
  x = x.astype(jnp.float32)
  square = jnp.square(x).mean(axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
