"""The shape of a T5, in t5x's field names."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from coda_jax.nn.checks import check_rate, check_whole, compute_dtype
from coda_jax.nn.config import CodaConfig, Conditional

# T5 1.0; T5 1.1 and later; SwiGLU variants.
MLP_ACTIVATIONS = (("relu",), ("gelu", "linear"), ("silu", "linear"))

_SIZES = (
  "vocab_size",
  "emb_dim",
  "num_heads",
  "num_encoder_layers",
  "num_decoder_layers",
  "head_dim",
  "mlp_dim",
)


@dataclasses.dataclass(frozen=True)
class T5Config(Conditional):
  """Hyperparameters of a T5 encoder-decoder.

  Attributes:
    vocab_size: rows of the embedding, padding included (T5: 32128).
    dtype: dtype of the computation, bfloat16 or float32; parameters are
      float32, and so are norms, softmax, routing and logits.
    emb_dim: width of the residual stream, d_model.
    num_heads: attention heads.
    num_encoder_layers: depth of the encoder.
    num_decoder_layers: depth of the decoder.
    head_dim: size of a head, d_kv.
    mlp_dim: inner width of the feed-forward block, d_ff.
    mlp_activations: ("relu",) for T5 1.0, ("gelu", "linear") for 1.1 and its
      descendants.
    dropout_rate: dropout of embeddings, sublayers and attention weights.
    logits_via_embedding: logits by the transposed embedding (T5 1.0) instead
      of a matrix of their own.
    relpos_bias_per_layer: a position bias in every layer (UMT5) instead of one
      in each stack.
    remat: recompute each layer in the backward pass to save memory.
    scan_layers: run the layers as a loop over one, which compiles much sooner
      and costs a copy of their parameters; they must be alike.
    coda: what is added to the backbone; None is the plain T5.
  """

  vocab_size: int
  dtype: Any = jnp.float32
  emb_dim: int = 512
  num_heads: int = 8
  num_encoder_layers: int = 6
  num_decoder_layers: int = 6
  head_dim: int = 64
  mlp_dim: int = 2048
  mlp_activations: tuple[str, ...] = ("relu",)
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  relpos_bias_per_layer: bool = False
  remat: bool = False
  scan_layers: bool = False
  coda: CodaConfig | None = None

  def __post_init__(self):
    object.__setattr__(self, "dtype", compute_dtype(self.dtype))
    if isinstance(self.mlp_activations, list):  # From JSON.
      object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
    for name in _SIZES:
      check_whole(f"T5Config.{name}", getattr(self, name), 1)
    if self.mlp_activations not in MLP_ACTIVATIONS:
      raise ValueError(
        f"T5Config.mlp_activations={self.mlp_activations}; expected one of "
        f"{MLP_ACTIVATIONS}"
      )
    check_rate("T5Config.dropout_rate", self.dropout_rate)
    wi = [f"wi_{i}" for i in range(len(self.mlp_activations))]
    wi = wi if len(wi) > 1 else ["wi"]
    self.check_coda(("query", "key", "value", "out", *wi, "wo"))
