"""BERT's embeddings, encoder and heads, dense or conditional."""

import functools

import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning
from jax import Array

from coda_jax.bert.config import ACTIVATIONS, BertConfig
from coda_jax.nn import attention, coda, layers, sharding, stack


def _norm(cfg: BertConfig, name: str | None = None) -> layers.LayerNorm:
  return layers.LayerNorm(cfg.norm_epsilon, cfg.dtype, name=name)


class TokenEmbedder(nn.Module):
  """The sum of the embeddings of tokens, positions and token types."""

  config: BertConfig

  @nn.compact
  def __call__(self, tokens: Array, token_types: Array | None) -> Array:
    """Embeds.

    Args:
      tokens: int32 [batch, n], n at most `max_length`.
      token_types: int32 [batch, n]; None for 0.

    Returns:
      float32 [batch, n, emb_dim].
    """
    cfg = self.config
    embedding, position, token_type = (
      partitioning.param_with_axes(
        name,
        nn.initializers.normal(stddev=0.02),
        (rows, cfg.emb_dim),
        jnp.float32,
        axes=(axis, "embed"),
      )
      for name, rows, axis in (
        ("embedding", cfg.vocab_size, "vocab"),
        ("position", cfg.first_position + cfg.max_length, "positions"),
        ("token_type", cfg.num_token_types, "token_types"),
      )
    )
    if token_types is None:
      token_types = jnp.zeros_like(tokens)
    x = sum(
      jnp.take(table, rows, axis=0, mode="clip").astype(jnp.float32)
      for table, rows in (
        (embedding, tokens),
        (token_type, token_types),
        (position, self._positions(tokens)),
      )
    )
    return sharding.constrain(x, "embed")

  def _positions(self, tokens: Array) -> Array:
    """int32 [batch, n], rows of the position embeddings."""
    cfg = self.config
    if cfg.family == "bert":
      positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
      return jnp.broadcast_to(positions[None, :], tokens.shape)
    # transformers counts the tokens, whatever the attention mask says.
    real = (tokens != cfg.pad_id).astype(jnp.int32)
    return jnp.cumsum(real, axis=1) * real + cfg.pad_id


class EncoderLayer(nn.Module):
  """The pretrained encoder layer, as a block that `CodaLayer` can wrap.

  Post-norm: each sublayer's norm follows its residual, so that the block has no
  norm to begin with.
  """

  config: BertConfig

  def setup(self):
    cfg = self.config
    self.attention = attention.MultiHeadDotProductAttention(
      num_heads=cfg.num_heads,
      head_dim=cfg.head_dim,
      scale=cfg.head_dim**-0.5,
      use_bias=True,
      dropout_rate=cfg.attention_dropout_rate,
      broadcast_dropout=False,
      lora=cfg.lora,
      dtype=cfg.dtype,
    )
    self.attention_norm = _norm(cfg)
    self.mlp = layers.MlpBlock(
      cfg.mlp_dim,
      (ACTIVATIONS[cfg.activation],),
      use_bias=True,
      lora=cfg.lora,
      dtype=cfg.dtype,
    )
    self.mlp_norm = _norm(cfg)
    self.dropout = nn.Dropout(cfg.dropout_rate)

  def normalize(self, x: Array) -> Array:
    """See `coda.Block.normalize`."""
    return x

  def delta(
    self,
    tokens: coda.Tokens,
    context: coda.Tokens,
    *,
    everything: coda.Tokens,
    deterministic: bool,
  ) -> Array:
    """See `coda.Block.delta`."""
    del everything  # BERT has no convolution.
    # [batch, k, emb_dim] -> [batch, k, emb_dim]
    z = self.attention(
      tokens.x,
      context.x,
      context.mask[:, None, None, :],
      deterministic=deterministic,
    )
    z = self.dropout(z, deterministic=deterministic)
    x = self.attention_norm(tokens.x + z)
    # [batch, k, emb_dim] -> [batch, k, emb_dim]
    z = self.mlp(x, deterministic)
    z = self.dropout(z, deterministic=deterministic)
    return self.mlp_norm(x + z) - tokens.x


class Head(nn.Module):
  """Logits of labels, of whole rows or of each token, computed in float32."""

  config: BertConfig

  @nn.compact
  def __call__(
    self, encoded: Array, mask: Array, deterministic: bool = True
  ) -> Array:
    """Classifies.

    Args:
      encoded: [batch, n, emb_dim].
      mask: bool [batch, n], True for real tokens.
      deterministic: turns dropout off.

    Returns:
      float32 [batch, num_labels], by the first real token of each row; for
      "token_classification" [batch, n, num_labels].
    """
    cfg = self.config
    rate = cfg.head_dropout_rate
    dropout = nn.Dropout(
      cfg.dropout_rate if rate is None else rate, deterministic=deterministic
    )
    x = encoded.astype(jnp.float32)
    if cfg.head == "classification":
      first = jnp.argmax(mask, axis=1)
      x = jnp.take_along_axis(x, first[:, None, None], axis=1)[:, 0]
      if cfg.family != "bert":
        x = dropout(x)
      x = layers.DenseGeneral(
        cfg.emb_dim, ("embed", "pooled"), use_bias=True, name="dense"
      )(x)
      x = jnp.tanh(x)
      axes = ("pooled", "labels")
    else:
      axes = ("embed", "labels")
    return layers.DenseGeneral(
      cfg.num_labels, axes, use_bias=True, name="logits_dense"
    )(dropout(x))


class Encoder(nn.Module):
  """The encoder layers, and the head if there is one."""

  config: BertConfig

  def setup(self):
    if self.config.head is not None:
      self.head = Head(self.config)

  @nn.compact
  def __call__(
    self, x: Array, mask: Array, deterministic: bool = True
  ) -> tuple[Array, stack.Routing]:
    """Encodes.

    Args:
      x: [batch, n, emb_dim], embedded tokens.
      mask: bool [batch, n], True for real tokens.
      deterministic: turns dropout off.

    Returns:
      [batch, n, emb_dim], and each layer's `Selection` (None if dense).
    """
    return stack.encode(
      self,
      functools.partial(EncoderLayer, self.config),
      self.config,
      x,
      mask,
      deterministic=deterministic,
    )

  def classify(
    self, encoded: Array, mask: Array, deterministic: bool = True
  ) -> Array:
    """Logits of the head, see `Head`."""
    return self.head(encoded, mask, deterministic)
