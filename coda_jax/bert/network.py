"""BERT, RoBERTa and XLM-RoBERTa with conditional encoder layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax import token_ids
from coda_jax.bert import encoder
from coda_jax.bert.config import BertConfig
from coda_jax.nn import layers, stack


class Bert(nn.Module):
  """A BERT, dense or conditional, with or without a head for labels."""

  config: BertConfig

  def setup(self):
    cfg = self.config
    self.token_embedder = encoder.TokenEmbedder(cfg)
    self.embedder_norm = layers.LayerNorm(cfg.norm_epsilon, cfg.dtype)
    self.dropout = nn.Dropout(cfg.dropout_rate)
    self.encoder = encoder.Encoder(cfg)

  def encode(
    self,
    encoder_input_tokens: Array,
    encoder_token_types: Array | None = None,
    encoder_mask: Array | None = None,
    enable_dropout: bool = True,
    *,
    return_routing: bool = False,
  ) -> Array | tuple[Array, stack.Routing]:
    """Applies the encoder.

    Args:
      encoder_input_tokens: int32 [batch, length].
      encoder_token_types: int32 [batch, length], such as 0 for the first and 1
        for the second sentence; None for 0 everywhere.
      encoder_mask: bool [batch, length], or 0 and 1, False for padding; None
        takes the tokens that are not `BertConfig.pad_id`.
      enable_dropout: turns dropout on; needs a "dropout" rng.
      return_routing: also return what was routed.

    Returns:
      [batch, length, emb_dim] in the config's dtype; with `return_routing`,
      that and each layer's `Selection`, None for dense layers.

    Raises:
      ValueError: a row is too long, or shapes differ; or, outside of compiled
        code, a token or a type that the model has no embedding for.
    """
    cfg = self.config
    tokens = token_ids.checked(
      "encoder_input_tokens", encoder_input_tokens, cfg.vocab_size
    )
    tokens = jnp.asarray(tokens, jnp.int32)
    if tokens.shape[1] > cfg.max_length:
      raise ValueError(
        f"encoder_input_tokens has rows of {tokens.shape[1]} tokens; the model "
        f"has positions for {cfg.max_length} (BertConfig.max_length); cut the "
        "rows, or set TASK_FEATURE_LENGTHS accordingly"
      )
    types = self._checked_types(encoder_token_types, tokens)
    mask = self._mask(encoder_mask, tokens)
    x = self.embedder_norm(self.token_embedder(tokens, types))
    x = self.dropout(x, deterministic=not enable_dropout)
    encoded, routing = self.encoder(x, mask, deterministic=not enable_dropout)
    return (encoded, routing) if return_routing else encoded

  def __call__(
    self,
    encoder_input_tokens: Array,
    encoder_token_types: Array | None = None,
    encoder_mask: Array | None = None,
    enable_dropout: bool = True,
    *,
    return_routing: bool = False,
  ) -> Array | tuple[Array, stack.Routing]:
    """Encodes, and classifies if there is a head; arguments as in `encode`.

    Returns:
      What `encode` does; with a head, its float32 logits in place of the hidden
      states, [batch, num_labels] or [batch, length, num_labels].
    """
    y, routing = self.encode(
      encoder_input_tokens,
      encoder_token_types,
      encoder_mask,
      enable_dropout,
      return_routing=True,
    )
    if self.config.head is not None:
      mask = self._mask(encoder_mask, jnp.asarray(encoder_input_tokens))
      y = self.encoder.classify(y, mask, deterministic=not enable_dropout)
    return (y, routing) if return_routing else y

  def _mask(self, mask: Any, tokens: Array) -> Array:
    if mask is None:
      return tokens != self.config.pad_id
    mask = jnp.asarray(token_ids.as_array("encoder_mask", mask))
    _check_shape("encoder_mask", mask, tokens)
    return mask.astype(bool)

  def _checked_types(self, types: Any, tokens: Array) -> Array | None:
    if types is None:
      return None
    name, number = "encoder_token_types", self.config.num_token_types
    types = token_ids.as_array(name, types)
    _check_shape(name, types, tokens)
    if (found := token_ids.outside(types, number)) is not None:
      raise ValueError(
        f"{name} has the type {found}; expected 0 to {number - 1}: the model "
        f"has {number} types (BertConfig.num_token_types); None is 0 everywhere"
      )
    return jnp.asarray(types, jnp.int32)


def _check_shape(name: str, x: Any, tokens: jax.Array) -> None:
  if x.shape != tokens.shape:
    raise ValueError(
      f"{name} has the shape {x.shape}; expected {tokens.shape}, that of "
      "encoder_input_tokens"
    )
