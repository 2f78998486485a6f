"""The shape of a T5, in t5x's field names."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from coda_jax.nn.config import CodaConfig, check_whole, compute_dtype

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

# Fields of `T5Config` and `CodaConfig` that say how a model computes, not what
# it is: the same parameters run with any of them, so files leave them out.
COMPUTE = ("dtype", "remat", "scan_layers", "dispatch")


@dataclasses.dataclass(frozen=True)
class T5Config:
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
    if not (
      isinstance(self.dropout_rate, int | float) and 0 <= self.dropout_rate < 1
    ):
      raise ValueError(
        f"T5Config.dropout_rate={self.dropout_rate!r}; expected 0 or more, "
        "below 1"
      )
    for layer, _ in self.coda.layer_reductions if self.coda else ():
      if not 0 <= layer < self.num_encoder_layers:
        raise ValueError(
          f"CodaConfig.layer_reductions names layer {layer}; the encoder has "
          f"layers 0 to {self.num_encoder_layers - 1}"
        )
    if self.scan_layers and self.coda:
      if self.coda.layer_reductions or self.coda.router == "random":
        raise ValueError(
          "T5Config.scan_layers needs layers that are alike, but CodaConfig "
          f"has layer_reductions={self.coda.layer_reductions} and router="
          f"{self.coda.router!r}; leave them out, or set scan_layers=False"
        )
    wi = [f"wi_{i}" for i in range(len(self.mlp_activations))]
    wi = wi if len(wi) > 1 else ["wi"]
    projections = ("query", "key", "value", "out", *wi, "wo")
    for target in self.lora.targets if self.lora else ():
      if target not in projections:
        raise ValueError(
          f"LoraConfig.targets has {target!r}; this model's projections are "
          f"{projections}"
        )

  @property
  def lora(self):
    """Low-rank factors on the projections, None without."""
    return self.coda.lora if self.coda else None

  def layer_reduction(self, layer: int) -> float:
    """r of encoder layer number `layer`; 1 is dense."""
    return self.coda.layer_reduction(layer) if self.coda else 1.0

  def with_reduction(self, reduction: float) -> "T5Config":
    """The same model at another r, in every encoder layer that routes.

    For serving one set of parameters at several r, and for training it so.
    Layers with an r of their own take this one, dense layers stay dense. At 1
    no token is left out, and the routers are not used: the model is
    dense, with its adapters.

    Raises:
      ValueError: no layer routes, or r is below 1.
    """
    if not self.is_routed:
      raise ValueError(
        f"r = {reduction:g} was asked of a model that does not route tokens; "
        "use methods/coda.gin or methods/coda_lora.gin, with REDUCTION above 1"
      )
    dense = [
      (i, 1.0)
      for i in range(self.num_encoder_layers)
      if self.layer_reduction(i) == 1
    ]
    coda = dataclasses.replace(
      self.coda, reduction=reduction, layer_reductions=tuple(dense)
    )
    return dataclasses.replace(self, coda=coda)

  @property
  def is_routed(self) -> bool:
    """Whether any encoder layer routes."""
    return any(
      self.layer_reduction(i) > 1 for i in range(self.num_encoder_layers)
    )
