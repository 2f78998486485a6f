"""The shape of a BERT, in the field names of `T5Config` where both have one."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from coda_jax.nn.checks import (
  check_choice,
  check_rate,
  check_whole,
  compute_dtype,
)
from coda_jax.nn.config import CodaConfig, Conditional

FAMILIES = ("bert", "roberta", "xlm-roberta")
# {activation: its name in `layers.MlpBlock`}.
ACTIVATIONS = {
  "gelu": "gelu_erf",
  "gelu_new": "gelu",
  "relu": "relu",
  "silu": "silu",
}
HEADS = ("classification", "token_classification")

_SIZES = (
  "vocab_size",
  "emb_dim",
  "num_heads",
  "num_encoder_layers",
  "mlp_dim",
  "max_length",
  "num_token_types",
)
_RATES = ("dropout_rate", "attention_dropout_rate")


@dataclasses.dataclass(frozen=True)
class BertConfig(Conditional):
  """Hyperparameters of a BERT, RoBERTa or XLM-RoBERTa.

  Attributes:
    vocab_size: rows of the embedding, padding included (BERT: 30522).
    dtype: dtype of the computation, bfloat16 or float32; parameters are
      float32, and so are norms, softmax, routing and logits.
    family: "bert", "roberta" or "xlm-roberta". BERT counts positions from the
      start of a row. The two others count the tokens that are not padding, from
      `pad_id` + 1, and have one dropout more in the head for classification.
    emb_dim: width of the residual stream, a multiple of `num_heads`.
    num_heads: attention heads.
    num_encoder_layers: depth.
    mlp_dim: inner width of the feed-forward block.
    activation: "gelu", the exact one; "gelu_new", approximated by tanh; "relu"
      or "silu".
    max_length: the most tokens that a row may have, padding included.
    num_token_types: kinds of tokens, such as first and second sentence.
    pad_id: of padding tokens (BERT: 0; RoBERTa: 1).
    norm_epsilon: of the layer norms (BERT: 1e-12; RoBERTa: 1e-5).
    dropout_rate: dropout of embeddings and sublayers.
    attention_dropout_rate: dropout of attention weights.
    head: None, for hidden states; "classification", of a whole row, by its
      first token; or "token_classification".
    num_labels: what the head tells apart; 1 for a number. 0 without a head.
    labels: their names, in the order of the logits; () if they have none.
    head_dropout_rate: dropout before the labels' logits; None for
      `dropout_rate`.
    remat: recompute each layer in the backward pass to save memory.
    scan_layers: run the layers as a loop over one, which compiles much sooner
      and costs a copy of their parameters; they must be alike.
    coda: what is added to the backbone; None is the plain model.
  """

  task_fields: ClassVar[tuple[str, ...]] = (
    "head",
    "num_labels",
    "labels",
    "head_dropout_rate",
  )

  vocab_size: int
  dtype: Any = jnp.float32
  family: str = "bert"
  emb_dim: int = 768
  num_heads: int = 12
  num_encoder_layers: int = 12
  mlp_dim: int = 3072
  activation: str = "gelu"
  max_length: int = 512
  num_token_types: int = 2
  pad_id: int = 0
  norm_epsilon: float = 1e-12
  dropout_rate: float = 0.1
  attention_dropout_rate: float = 0.1
  head: str | None = None
  num_labels: int = 0
  labels: tuple[str, ...] = ()
  head_dropout_rate: float | None = None
  remat: bool = False
  scan_layers: bool = False
  coda: CodaConfig | None = None

  def __post_init__(self):
    object.__setattr__(self, "dtype", compute_dtype(self.dtype))
    for name in _SIZES:
      check_whole(f"BertConfig.{name}", getattr(self, name), 1)
    check_choice("BertConfig.family", self.family, FAMILIES)
    check_choice("BertConfig.activation", self.activation, tuple(ACTIVATIONS))
    check_choice("BertConfig.head", self.head, (None, *HEADS))
    check_whole("BertConfig.pad_id", self.pad_id, 0)
    if self.pad_id >= self.vocab_size:
      raise ValueError(
        f"BertConfig.pad_id={self.pad_id}; expected below vocab_size, "
        f"{self.vocab_size}"
      )
    if self.emb_dim % self.num_heads:
      raise ValueError(
        f"BertConfig.emb_dim={self.emb_dim}; expected a multiple of num_heads, "
        f"{self.num_heads}"
      )
    epsilon = self.norm_epsilon
    if not (isinstance(epsilon, int | float) and epsilon > 0):
      raise ValueError(f"BertConfig.norm_epsilon={epsilon!r}; expected above 0")
    for name in _RATES:
      check_rate(f"BertConfig.{name}", getattr(self, name))
    if self.head_dropout_rate is not None:
      check_rate("BertConfig.head_dropout_rate", self.head_dropout_rate)
    if self.head is not None:
      check_whole("BertConfig.num_labels", self.num_labels, 1)
    elif self.num_labels != 0:
      raise ValueError(
        f"BertConfig.num_labels={self.num_labels!r}, but head=None has no "
        f"labels; set num_labels=0, or head to one of {HEADS}"
      )
    self._check_labels()
    self.check_coda(("query", "key", "value", "out", "wi", "wo"))

  def _check_labels(self) -> None:
    labels = self.labels
    if not isinstance(labels, list | tuple) or not all(
      isinstance(label, str) for label in labels
    ):
      raise ValueError(
        f"BertConfig.labels={labels!r}; expected texts in brackets, such as "
        "('no', 'yes')"
      )
    object.__setattr__(self, "labels", tuple(labels))
    if len(set(labels)) < len(labels):
      raise ValueError(f"BertConfig.labels={labels} has a label twice")
    if labels and len(labels) != self.num_labels:
      raise ValueError(
        f"BertConfig.labels={labels} are {len(labels)}; expected num_labels, "
        f"{self.num_labels}, or none"
      )

  @property
  def head_dim(self) -> int:
    """Size of an attention head."""
    return self.emb_dim // self.num_heads

  @property
  def first_position(self) -> int:
    """The row of the position embeddings that a row's first token takes."""
    return 0 if self.family == "bert" else self.pad_id + 1
