"""T5 with conditional encoder layers, in the signatures of t5x's minimal T5.

`Transformer` can stand wherever `t5x.examples.t5.network.Transformer` stands;
its parameter paths are the same, plus what `T5Config.coda` adds.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax import token_ids
from coda_jax.nn import adapter, attention, coda, layers, router
from coda_jax.t5 import looped
from coda_jax.t5.config import T5Config

Routing = tuple[router.Selection | None, ...]


def _attention(cfg: T5Config, name: str | None = None):
  return attention.MultiHeadDotProductAttention(
    num_heads=cfg.num_heads,
    head_dim=cfg.head_dim,
    dropout_rate=cfg.dropout_rate,
    lora=cfg.lora,
    dtype=cfg.dtype,
    name=name,
  )


def _mlp(cfg: T5Config, name: str | None = None):
  return layers.MlpBlock(
    intermediate_dim=cfg.mlp_dim,
    activations=cfg.mlp_activations,
    dropout_rate=cfg.dropout_rate,
    lora=cfg.lora,
    dtype=cfg.dtype,
    name=name,
  )


def _dropout(cfg: T5Config, name: str | None = None):
  return nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,), name=name)


def _position_bias(cfg: T5Config):
  return layers.RelativePositionBiases(cfg.num_heads, name="relpos_bias")


def _bias_inputs(
  cfg: T5Config, length: int, *, bidirectional: bool
) -> dict[str, Array]:
  """The inputs of a stack's layers for their position bias.

  Returns:
    {"bias_table": see `attention.bias_from_table`}, the bias of the stack; or
    {"bias_buckets": see `layers.distance_buckets`}, for the bias of each layer.
  """
  buckets = layers.distance_buckets(length, bidirectional=bidirectional)
  if cfg.relpos_bias_per_layer:
    return {"bias_buckets": buckets}
  return {"bias_table": _position_bias(cfg)(buckets)}


class EncoderLayer(nn.Module):
  """The pretrained encoder layer, as a block that `CodaLayer` can wrap."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.pre_attention_layer_norm = layers.RMSNorm(dtype=cfg.dtype)
    if cfg.relpos_bias_per_layer:
      self.relpos_bias = layers.RelativePositionBiases(cfg.num_heads)
    self.attention = _attention(cfg)
    self.pre_mlp_layer_norm = layers.RMSNorm(dtype=cfg.dtype)
    self.mlp = _mlp(cfg)
    self.dropout = _dropout(cfg)

  def normalize(self, x: Array) -> Array:
    """See `coda.Block.normalize`."""
    return self.pre_attention_layer_norm(x)

  def delta(
    self,
    x: Array,
    x_norm: Array,
    context: Array,
    *,
    positions: Array,
    context_positions: Array,
    mask: Array,
    deterministic: bool,
    bias_table: Array | None = None,
    bias_buckets: Array | None = None,
  ) -> Array:
    """See `coda.Block.delta`, and `_bias_inputs` for the last two."""
    if bias_table is None:
      bias_table = self.relpos_bias(bias_buckets)
    # [batch, k, emb_dim] -> [batch, k, emb_dim]
    z_attention = self.attention(
      x_norm,
      context,
      mask,
      bias_table=bias_table,
      bias_edges=layers.bucket_edges(bias_table.shape[1] // 2 + 1),
      query_positions=positions,
      key_positions=context_positions,
      deterministic=deterministic,
    )
    z_attention = self.dropout(z_attention, deterministic=deterministic)
    # [batch, k, emb_dim] -> [batch, k, emb_dim]
    z_mlp = self.mlp(self.pre_mlp_layer_norm(x + z_attention), deterministic)
    return z_attention + self.dropout(z_mlp, deterministic=deterministic)

  def __call__(
    self,
    x: Array,
    mask: Array,
    deterministic: bool = True,
    *,
    attention_mask: Array,
    **bias: Array,
  ) -> tuple[Array, None]:
    """The dense layer, in the signature of `CodaLayer`."""
    del mask  # The attention mask says it all.
    x_norm = self.normalize(x)
    positions = jnp.arange(x.shape[1])[None, :]
    delta = self.delta(
      x,
      x_norm,
      x_norm,
      positions=positions,
      context_positions=positions,
      mask=attention_mask,
      deterministic=deterministic,
      **bias,
    )
    return x + delta, None


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
      bias_table = _position_bias(cfg)(bias_buckets)
    norm_name = "pre_self_attention_layer_norm"
    x_norm = layers.RMSNorm(dtype=cfg.dtype, name=norm_name)(inputs)
    # [batch, length, emb_dim] -> [batch, length, emb_dim]
    x = _attention(cfg, "self_attention")(
      x_norm,
      x_norm,
      decoder_mask,
      bias_table=bias_table,
      decode=decode,
      deterministic=deterministic,
    )
    x = inputs + _dropout(cfg)(x, deterministic=deterministic)

    norm_name = "pre_cross_attention_layer_norm"
    y = layers.RMSNorm(dtype=cfg.dtype, name=norm_name)(x)
    # [batch, length, emb_dim] -> [batch, length, emb_dim]
    y = _attention(cfg, "encoder_decoder_attention")(
      y,
      encoded,
      encoder_decoder_mask,
      keep_kv=decode,
      deterministic=deterministic,
    )
    y = x + _dropout(cfg)(y, deterministic=deterministic)

    z = layers.RMSNorm(dtype=cfg.dtype, name="pre_mlp_layer_norm")(y)
    # [batch, length, emb_dim] -> [batch, length, emb_dim]
    z = _mlp(cfg, "mlp")(z, deterministic)
    z = y + _dropout(cfg)(z, deterministic=deterministic)

    if cfg.coda and cfg.coda.bottleneck_dim:
      z += adapter.Adapter(cfg.coda.bottleneck_dim, cfg.dtype, name="adapter")(
        x_norm
      )
    return z


class Encoder(nn.Module):
  """Embedding, encoder layers, final norm."""

  config: T5Config
  shared_embedding: nn.Module

  @nn.compact
  def __call__(
    self,
    encoder_input_tokens: Array,
    encoder_mask: Array,
    deterministic: bool = True,
  ) -> tuple[Array, Routing]:
    """Encodes.

    Args:
      encoder_input_tokens: int32 [batch, length]; 0 is padding.
      encoder_mask: bool [batch, 1, length, length].
      deterministic: turns dropout off.

    Returns:
      [batch, length, emb_dim], and each layer's `Selection` (None if dense).
    """
    cfg = self.config
    bias = _bias_inputs(cfg, encoder_input_tokens.shape[1], bidirectional=True)

    # [batch, length] -> [batch, length, emb_dim]
    x = self.shared_embedding(encoder_input_tokens)
    x = _dropout(cfg)(x, deterministic=deterministic)

    routing = []
    if cfg.scan_layers and not self.is_initializing():
      layer = _encoder_layer(cfg, 0, parent=None)
      x, routing = looped.apply_layers(
        lambda params, x, rngs: layer.apply(
          {"params": params},
          x,
          encoder_input_tokens > 0,
          deterministic,
          attention_mask=encoder_mask,
          **bias,
          rngs=rngs,
        ),
        *looped.layer_inputs(self, cfg.num_encoder_layers),
        x=x,
        remat=cfg.remat,
      )
    else:
      for i in range(cfg.num_encoder_layers):
        layer = _encoder_layer(cfg, i, name=f"layers_{i}")
        x, selection = layer(
          x,
          encoder_input_tokens > 0,
          deterministic,
          attention_mask=encoder_mask,
          **bias,
        )
        routing.append(selection)

    x = layers.RMSNorm(dtype=cfg.dtype, name="encoder_norm")(x)
    x = nn.Dropout(cfg.dropout_rate)(x, deterministic=deterministic)
    return x, tuple(routing)


def _encoder_layer(cfg: T5Config, i: int, **place: Any) -> nn.Module:
  """Encoder layer number `i`; `place` is its name, or no parent."""
  # A loop recomputes its body itself.
  plain = cfg.scan_layers and "parent" in place
  if cfg.coda is None:
    return (EncoderLayer if plain else _remat(EncoderLayer, cfg))(cfg, **place)
  return (coda.CodaLayer if plain else _remat(coda.CodaLayer, cfg))(
    EncoderLayer(cfg, parent=None),
    cfg.coda,
    cfg.layer_reduction(i),
    cfg.dtype,
    **place,
  )


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
    bias = _bias_inputs(cfg, length, bidirectional=False)

    # [batch, length] -> [batch, length, emb_dim]
    y = self.shared_embedding(decoder_input_tokens)
    y = _dropout(cfg)(y, deterministic=deterministic)

    inputs = {
      "decoder_mask": decoder_mask,
      "encoder_decoder_mask": encoder_decoder_mask,
      **bias,
    }
    # Layers that keep a cache each have their own.
    if cfg.scan_layers and not (decode or self.is_initializing()):
      layer = DecoderLayer(cfg, parent=None)
      y, _ = looped.apply_layers(
        lambda params, y, rngs: (
          layer.apply(
            {"params": params}, y, encoded, deterministic, rngs=rngs, **inputs
          ),
          None,
        ),
        *looped.layer_inputs(self, cfg.num_decoder_layers),
        x=y,
        remat=cfg.remat,
      )
    else:
      for i in range(cfg.num_decoder_layers):
        y = _remat(DecoderLayer, cfg)(cfg, name=f"layers_{i}")(
          y, encoded, deterministic, decode, **inputs
        )

    y = layers.RMSNorm(dtype=cfg.dtype, name="decoder_norm")(y)
    y = _dropout(cfg)(y, deterministic=deterministic)

    # [batch, length, emb_dim] -> [batch, length, vocab_size]
    if cfg.logits_via_embedding:
      return self.shared_embedding.attend(y) / cfg.emb_dim**0.5
    return layers.DenseGeneral(
      cfg.vocab_size,
      ("embed", "vocab"),
      dtype=jnp.float32,
      name="logits_dense",
    )(y)


def _remat(layer: type[nn.Module], cfg: T5Config) -> Any:
  """The layer class, recomputed in the backward pass if the config says so."""
  if not cfg.remat:
    return layer
  # Python's booleans are static: `deterministic`, and the decoder's `decode`.
  static = (3, 4) if layer is DecoderLayer else (3,)
  return nn.remat(layer, prevent_cse=True, static_argnums=static)


class Transformer(nn.Module):
  """T5, dense or conditional."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.token_embedder = layers.Embed(
      cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype
    )
    self.encoder = Encoder(cfg, self.token_embedder)
    self.decoder = Decoder(cfg, self.token_embedder)

  def encode(
    self,
    encoder_input_tokens: Array,
    encoder_segment_ids: Array | None = None,
    enable_dropout: bool = True,
    *,
    return_routing: bool = False,
  ) -> Array | tuple[Array, Routing]:
    """Applies the encoder.

    Args:
      encoder_input_tokens: int32 [batch, length]; 0 is padding.
      encoder_segment_ids: int32 [batch, length], for packed examples.
      enable_dropout: turns dropout on; needs a "dropout" rng.
      return_routing: also return what was routed.

    Returns:
      [batch, length, emb_dim] in the config's dtype; with `return_routing`,
      that and each layer's `Selection`, None for dense layers.

    Raises:
      ValueError: packed examples in a model that routes; or, outside of
        compiled code, a token that the model has no embedding for.
    """
    encoder_input_tokens = token_ids.checked(
      "encoder_input_tokens", encoder_input_tokens, self.config.vocab_size
    )
    real = encoder_input_tokens > 0
    mask = real[:, None, :, None] & real[:, None, None, :]
    if encoder_segment_ids is not None:
      if self.config.is_routed:
        raise ValueError(
          "encoder_segment_ids: CoDA selects tokens per sequence, and packing "
          "puts several sequences into a row that would compete for its "
          "budget; use pack=False, or reduction=1"
        )
      mask &= _same(encoder_segment_ids, encoder_segment_ids)
    encoded, routing = self.encoder(
      encoder_input_tokens, mask, deterministic=not enable_dropout
    )
    return (encoded, routing) if return_routing else encoded

  def decode(
    self,
    encoded: Array,
    encoder_input_tokens: Array,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    encoder_segment_ids: Array | None = None,
    decoder_segment_ids: Array | None = None,
    decoder_positions: Array | None = None,
    enable_dropout: bool = True,
    decode: bool = False,
    max_decode_length: int | None = None,
  ) -> Array:
    """Applies the decoder.

    Args:
      encoded: [batch, length, emb_dim], from `encode`.
      encoder_input_tokens: int32 [batch, length]; its padding is masked.
      decoder_input_tokens: int32 [batch, target_length]; targets moved right.
      decoder_target_tokens: int32 [batch, target_length]; 0 is padding.
      encoder_segment_ids: int32 [batch, length], for packed examples.
      decoder_segment_ids: int32 [batch, target_length], for packed examples.
      decoder_positions: not used: T5's positions are relative.
      enable_dropout: turns dropout on; needs a "dropout" rng.
      decode: keep a cache, in the mutable collection "cache".
      max_decode_length: length of that cache, when steps bring one token.

    Returns:
      float32 logits [batch, target_length, vocab_size].

    Raises:
      ValueError: packed examples with `decode`, or segment ids of one side; or,
        outside of compiled code, a token that the model has no embedding for.
    """
    del decoder_positions
    encoder_input_tokens = token_ids.as_array(
      "encoder_input_tokens", encoder_input_tokens
    )
    decoder_input_tokens = token_ids.checked(
      "decoder_input_tokens", decoder_input_tokens, self.config.vocab_size
    )
    decoder_target_tokens = token_ids.as_array(
      "decoder_target_tokens", decoder_target_tokens
    )
    source = (encoder_input_tokens > 0)[:, None, None, :]
    if decode:
      # While decoding, the targets are not known yet: nothing is padding.
      decoder_mask, encoder_decoder_mask = None, source
    else:
      target = (decoder_target_tokens > 0)[:, None, :, None]
      causal = jnp.tril(jnp.ones((target.shape[2],) * 2, bool))
      # Padding targets are masked; their loss weight is 0.
      decoder_mask = causal[None, None] & target & jnp.swapaxes(target, 2, 3)
      encoder_decoder_mask = target & source
    packed = [x is not None for x in (encoder_segment_ids, decoder_segment_ids)]
    if any(packed):
      if decode:
        raise ValueError(
          "segment ids: packed examples can't be decoded step by step; give "
          "one example a row"
        )
      if not all(packed):
        raise ValueError(
          "packed examples need both encoder_segment_ids and "
          "decoder_segment_ids; one of them is None"
        )
      decoder_mask &= _same(decoder_segment_ids, decoder_segment_ids)
      encoder_decoder_mask &= _same(decoder_segment_ids, encoder_segment_ids)
    return self.decoder(
      encoded,
      decoder_input_tokens,
      decoder_mask=decoder_mask,
      encoder_decoder_mask=encoder_decoder_mask,
      deterministic=not enable_dropout,
      decode=decode,
      max_decode_length=max_decode_length,
    )

  def __call__(
    self,
    encoder_input_tokens: Array,
    decoder_input_tokens: Array,
    decoder_target_tokens: Array,
    encoder_segment_ids: Array | None = None,
    decoder_segment_ids: Array | None = None,
    encoder_positions: Array | None = None,
    decoder_positions: Array | None = None,
    *,
    enable_dropout: bool = True,
    decode: bool = False,
    return_routing: bool = False,
  ) -> Array | tuple[Array, Routing]:
    """Encodes and decodes; arguments as in `encode` and `decode`."""
    del encoder_positions  # T5's positions are relative.
    encoded, routing = self.encode(
      encoder_input_tokens,
      encoder_segment_ids,
      enable_dropout,
      return_routing=True,
    )
    logits = self.decode(
      encoded,
      encoder_input_tokens,
      decoder_input_tokens,
      decoder_target_tokens,
      encoder_segment_ids,
      decoder_segment_ids,
      decoder_positions,
      enable_dropout,
      decode,
    )
    return (logits, routing) if return_routing else logits


def _same(query_ids: Array, key_ids: Array) -> Array:
  """bool [batch, 1, q, k]: whether query and key are of one segment."""
  return query_ids[:, None, :, None] == key_ids[:, None, None, :]
