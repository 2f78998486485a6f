"""T5 with conditional encoder layers, in the signatures of t5x's minimal T5.

`Transformer` can stand wherever `t5x.examples.t5.network.Transformer` stands;
its parameter paths are the same, plus what `T5Config.coda` adds.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax import token_ids
from coda_jax.nn import layers, stack
from coda_jax.t5 import decoder, encoder
from coda_jax.t5.config import T5Config


class Transformer(nn.Module):
  """T5, dense or conditional."""

  config: T5Config

  def setup(self):
    cfg = self.config
    self.token_embedder = layers.Embed(
      cfg.vocab_size, cfg.emb_dim, dtype=cfg.dtype
    )
    self.encoder = encoder.Encoder(cfg, self.token_embedder)
    self.decoder = decoder.Decoder(cfg, self.token_embedder)

  def encode(
    self,
    encoder_input_tokens: Array,
    encoder_segment_ids: Array | None = None,
    enable_dropout: bool = True,
    *,
    return_routing: bool = False,
  ) -> Array | tuple[Array, stack.Routing]:
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
    attention_mask = None
    if encoder_segment_ids is not None:
      if self.config.is_routed:
        raise ValueError(
          "encoder_segment_ids: CoDA selects tokens per sequence, and packing "
          "puts several sequences into a row that would compete for its "
          "budget; use pack=False, or reduction=1"
        )
      attention_mask = _same(encoder_segment_ids, encoder_segment_ids)
    encoded, routing = self.encoder(
      encoder_input_tokens, attention_mask, deterministic=not enable_dropout
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
  ) -> Array | tuple[Array, stack.Routing]:
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
