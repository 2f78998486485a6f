"""T5's encoder, dense or conditional."""

import functools

from flax import linen as nn
from jax import Array

from coda_jax.nn import coda, layers, position_bias, stack
from coda_jax.t5 import sublayers
from coda_jax.t5.config import T5Config


class EncoderLayer(nn.Module):
  """The pretrained encoder layer, as a block that `CodaLayer` can wrap."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.pre_attention_layer_norm = layers.RMSNorm(dtype=cfg.dtype)
    if cfg.relpos_bias_per_layer:
      self.relpos_bias = position_bias.RelativePositionBiases(cfg.num_heads)
    self.attention = sublayers.make_attention(cfg)
    self.pre_mlp_layer_norm = layers.RMSNorm(dtype=cfg.dtype)
    self.mlp = sublayers.make_mlp(cfg)
    self.dropout = sublayers.make_dropout(cfg)

  def normalize(self, x: Array) -> Array:
    """See `coda.Block.normalize`."""
    return self.pre_attention_layer_norm(x)

  def delta(
    self,
    tokens: coda.Tokens,
    context: coda.Tokens,
    *,
    everything: coda.Tokens,
    deterministic: bool,
    attention_mask: Array | None = None,
    bias_table: Array | None = None,
    bias_buckets: Array | None = None,
  ) -> Array:
    """See `coda.Block.delta`, and `sublayers.bias_inputs` for the last two.

    Where examples are packed, which no layer that routes can have,
    `attention_mask` of bool [batch, 1, n, n] replaces the context's mask.
    """
    del everything  # T5 has no convolution.
    if attention_mask is None:
      attention_mask = context.mask[:, None, None, :]
    if bias_table is None:
      bias_table = self.relpos_bias(bias_buckets)
    # [batch, k, emb_dim] -> [batch, k, emb_dim]
    z_attention = self.attention(
      tokens.norm,
      context.norm,
      attention_mask,
      position_bias=functools.partial(
        position_bias.from_table, bias_table, bidirectional=True
      ),
      query_positions=tokens.positions,
      key_positions=context.positions,
      deterministic=deterministic,
    )
    z_attention = self.dropout(z_attention, deterministic=deterministic)
    # [batch, k, emb_dim] -> [batch, k, emb_dim]
    x_norm = self.pre_mlp_layer_norm(tokens.x + z_attention)
    z_mlp = self.mlp(x_norm, deterministic)
    return z_attention + self.dropout(z_mlp, deterministic=deterministic)


class Encoder(nn.Module):
  """Embedding, encoder layers, final norm."""

  config: T5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
    self,
    encoder_input_tokens: Array,
    attention_mask: Array | None = None,
    deterministic: bool = True,
  ) -> tuple[Array, stack.Routing]:
    """Encodes.

    Args:
      encoder_input_tokens: int32 [batch, length]; 0 is padding.
      attention_mask: see `EncoderLayer.delta`.
      deterministic: turns dropout off.

    Returns:
      [batch, length, emb_dim], and each layer's `Selection` (None if dense).
    """
    cfg = self.config
    length = encoder_input_tokens.shape[1]
    bias = sublayers.bias_inputs(cfg, length, bidirectional=True)
    dropout = sublayers.make_dropout(cfg)

    # [batch, length] -> [batch, length, emb_dim]
    x = self.shared_embedding(encoder_input_tokens)
    x = dropout(x, deterministic=deterministic)
    x, routing = stack.encode(
      self,
      functools.partial(EncoderLayer, cfg),
      cfg,
      x,
      encoder_input_tokens > 0,
      deterministic=deterministic,
      attention_mask=attention_mask,
      **bias,
    )
    x = layers.RMSNorm(dtype=cfg.dtype, name="encoder_norm")(x)
    x = nn.Dropout(cfg.dropout_rate)(x, deterministic=deterministic)
    return x, routing
