"""The parts that encoder and decoder layers of T5 have in common."""

from flax import linen as nn
from jax import Array

from coda_jax.nn import attention, layers, position_bias
from coda_jax.t5.config import T5Config


def make_attention(
  cfg: T5Config, name: str | None = None
) -> attention.MultiHeadDotProductAttention:
  """Self-attention, or attention to the encoded input."""
  return attention.MultiHeadDotProductAttention(
    num_heads=cfg.num_heads,
    head_dim=cfg.head_dim,
    dropout_rate=cfg.dropout_rate,
    lora=cfg.lora,
    dtype=cfg.dtype,
    name=name,
  )


def make_mlp(cfg: T5Config, name: str | None = None) -> layers.MlpBlock:
  """The feed-forward block."""
  return layers.MlpBlock(
    intermediate_dim=cfg.mlp_dim,
    activations=cfg.mlp_activations,
    dropout_rate=cfg.dropout_rate,
    lora=cfg.lora,
    dtype=cfg.dtype,
    name=name,
  )


def make_dropout(cfg: T5Config) -> nn.Dropout:
  """Dropout of tokens, the same along the sequence."""
  return nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))


def make_position_bias(
  cfg: T5Config,
) -> position_bias.RelativePositionBiases:
  """The bias of a stack, or of each layer of it (UMT5)."""
  return position_bias.RelativePositionBiases(cfg.num_heads, name="relpos_bias")


def bias_inputs(
  cfg: T5Config, length: int, *, bidirectional: bool
) -> dict[str, Array]:
  """The inputs of a stack's layers for their position bias.

  Returns:
    {"bias_table": see `position_bias.from_table`}, the bias of the stack; or
    {"bias_buckets": see `position_bias.distance_buckets`}, for the bias of each
    layer.
  """
  buckets = position_bias.distance_buckets(length, bidirectional=bidirectional)
  if cfg.relpos_bias_per_layer:
    return {"bias_buckets": buckets}
  return {"bias_table": make_position_bias(cfg)(buckets)}
