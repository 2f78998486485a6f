"""T5's decoder: dense, with a parallel adapter in each layer."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax.nn import adapter, layers, position_bias, stack
from coda_jax.t5 import sublayers
from coda_jax.t5.config import T5Config


class DecoderLayer(nn.Module):
  """Decoder layer; dense always, with a parallel adapter if the config has."""

  config: T5Config

  @nn.compact
  def __call__(
    self,
    inputs: Array,
    encoded: Array,
    deterministic: bool = True,
    decode: bool = False,
    *,
    decoder_mask: Array | None,
    encoder_decoder_mask: Array,
    bias_table: Array | None = None,
    bias_buckets: Array | None = None,
  ) -> Array:
    cfg = self.config
    if bias_table is None:
      bias_table = sublayers.make_position_bias(cfg)(bias_buckets)
    norm_name = "pre_self_attention_layer_norm"
    x_norm = layers.RMSNorm(dtype=cfg.dtype, name=norm_name)(inputs)
    # [batch, length, emb_dim] -> [batch, length, emb_dim]
    x = sublayers.make_attention(cfg, "self_attention")(
      x_norm,
      x_norm,
      decoder_mask,
      position_bias=functools.partial(
        position_bias.from_table, bias_table, bidirectional=False
      ),
      decode=decode,
      deterministic=deterministic,
    )
    x = inputs + sublayers.make_dropout(cfg)(x, deterministic=deterministic)

    norm_name = "pre_cross_attention_layer_norm"
    y = layers.RMSNorm(dtype=cfg.dtype, name=norm_name)(x)
    # [batch, length, emb_dim] -> [batch, length, emb_dim]
    y = sublayers.make_attention(cfg, "encoder_decoder_attention")(
      y,
      encoded,
      encoder_decoder_mask,
      keep_kv=decode,
      deterministic=deterministic,
    )
    y = x + sublayers.make_dropout(cfg)(y, deterministic=deterministic)

    z = layers.RMSNorm(dtype=cfg.dtype, name="pre_mlp_layer_norm")(y)
    # [batch, length, emb_dim] -> [batch, length, emb_dim]
    z = sublayers.make_mlp(cfg, "mlp")(z, deterministic)
    z = y + sublayers.make_dropout(cfg)(z, deterministic=deterministic)

    if cfg.coda and cfg.coda.bottleneck_dim:
      z += adapter.Adapter(
        cfg.coda.bottleneck_dim,
        cfg.dtype,
        scale=cfg.coda.adapter_scale,
        name="adapter",
      )(x_norm)
    return z


class Decoder(nn.Module):
  """Embedding, decoder layers, final norm, logits."""

  config: T5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
    self,
    encoded: Array,
    decoder_input_tokens: Array,
    *,
    decoder_mask: Array | None,
    encoder_decoder_mask: Array,
    deterministic: bool = True,
    decode: bool = False,
    max_decode_length: int | None = None,
  ) -> Array:
    """Decodes to float32 logits [batch, length, vocab_size]."""
    cfg = self.config
    length = decoder_input_tokens.shape[1]
    if decode and max_decode_length:
      length = max_decode_length
    bias = sublayers.bias_inputs(cfg, length, bidirectional=False)

    # [batch, length] -> [batch, length, emb_dim]
    y = self.shared_embedding(decoder_input_tokens)
    y = sublayers.make_dropout(cfg)(y, deterministic=deterministic)

    def call(
      layer: DecoderLayer, y: Array, before: Sequence[None]
    ) -> tuple[Array, None]:
      del before
      y = layer(
        y,
        encoded,
        deterministic,
        decode,
        decoder_mask=decoder_mask,
        encoder_decoder_mask=encoder_decoder_mask,
        **bias,
      )
      return y, None

    y, _ = stack.apply_layers(
      self,
      lambda i, **place: DecoderLayer(cfg, **place),
      call,
      y,
      number=cfg.num_decoder_layers,
      remat=cfg.remat,
      # Layers that keep a cache each have their own.
      loop=cfg.scan_layers and not decode,
    )
    y = layers.RMSNorm(dtype=cfg.dtype, name="decoder_norm")(y)
    y = sublayers.make_dropout(cfg)(y, deterministic=deterministic)

    # [batch, length, emb_dim] -> [batch, length, vocab_size]
    if cfg.logits_via_embedding:
      return self.shared_embedding.attend(y) / cfg.emb_dim**0.5
    return layers.DenseGeneral(
      cfg.vocab_size,
      ("embed", "vocab"),
      dtype=jnp.float32,
      name="logits_dense",
    )(y)
