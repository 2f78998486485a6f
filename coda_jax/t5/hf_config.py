"""`config.json` of Hugging Face's T5, both ways."""

from collections.abc import Mapping
from typing import Any

from coda_jax.checkpoints import files
from coda_jax.t5.config import T5Config

# mT5, ByT5 and MADLAD-400 are T5s; the last two call themselves t5. UMT5 has a
# position bias in every layer.
MODEL_TYPES = ("t5", "mt5", "umt5")

_ACTIVATIONS = {
  "relu": ("relu",),
  "gated-gelu": ("gelu", "linear"),
  "gated-silu": ("silu", "linear"),
}


def read(
  fields: Mapping[str, Any], *, logits_via_embedding: bool, source: Any
) -> T5Config:
  """Turns the values of a T5's `config.json` into a `T5Config`.

  Args:
    fields: the file's values; absent ones have transformers' defaults.
    logits_via_embedding: whether the logits share the embedding.
    source: the file's name, for messages.

  Raises:
    ValueError: a model that `Transformer` can't be.
  """
  fixed = {
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
  }
  model_type = fields["model_type"]
  for name, value in fixed.items():
    if fields.get(name, value) != value:
      raise ValueError(
        f"{source}: {name} is {fields[name]}; only {value}, every published "
        "T5's, is supported"
      )
  default = "relu" if model_type == "t5" else "gated-gelu"
  projection = fields.get("feed_forward_proj", default)
  if projection not in tuple(_ACTIVATIONS):  # Which may be a list.
    raise ValueError(
      f"{source}: feed_forward_proj is {projection!r}; expected one of "
      f"{tuple(_ACTIVATIONS)}"
    )
  names = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
  if missing := [name for name in names if name not in fields]:
    raise ValueError(f"{source} lacks {', '.join(missing)}")
  depth = fields.get("num_decoder_layers")
  with files.naming(source):
    return T5Config(
      vocab_size=fields["vocab_size"],
      emb_dim=fields["d_model"],
      num_heads=fields["num_heads"],
      num_encoder_layers=fields["num_layers"],
      num_decoder_layers=fields["num_layers"] if depth is None else depth,
      head_dim=fields["d_kv"],
      mlp_dim=fields["d_ff"],
      mlp_activations=_ACTIVATIONS[projection],
      dropout_rate=fields.get("dropout_rate", 0.1),
      logits_via_embedding=logits_via_embedding,
      relpos_bias_per_layer=model_type == "umt5",
    )


def write(config: T5Config, dtype: str) -> dict[str, Any]:
  """The values of `config.json`, for transformers 4 and 5.

  Args:
    config: the model's shape.
    dtype: of the file, "float32" or "bfloat16".

  Raises:
    ValueError: activations that Hugging Face's T5 does not have.
  """
  projections = {value: name for name, value in _ACTIVATIONS.items()}
  if config.mlp_activations not in projections:
    raise ValueError(
      f"mlp_activations={config.mlp_activations} has no name in Hugging Face's "
      f"T5; expected one of {tuple(projections)}"
    )
  umt5 = config.relpos_bias_per_layer
  return {
    "architectures": [f"{'UMT5' if umt5 else 'T5'}ForConditionalGeneration"],
    "model_type": "umt5" if umt5 else "t5",
    "vocab_size": config.vocab_size,
    "d_model": config.emb_dim,
    "d_kv": config.head_dim,
    "d_ff": config.mlp_dim,
    "num_layers": config.num_encoder_layers,
    "num_decoder_layers": config.num_decoder_layers,
    "num_heads": config.num_heads,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": config.dropout_rate,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": projections[config.mlp_activations],
    "is_encoder_decoder": True,
    # The second is how transformers 5 says the first, of T5. It takes both as
    # true of a UMT5, but to write so makes transformers 4 drop lm_head.weight.
    "tie_word_embeddings": config.logits_via_embedding,
    "scale_decoder_outputs": config.logits_via_embedding,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": dtype,
  }


def scales_outputs(fields: Mapping[str, Any]) -> bool:
  """Whether the decoder's output is divided by sqrt(d_model) before logits.

  transformers 4 did so where embeddings were tied, 5 has a field for it; and
  its mT5 never does.

  Raises:
    ValueError: a value that is neither true nor false.
  """
  tied = fields.get("tie_word_embeddings", True)
  scaled = fields.get("scale_decoder_outputs", tied)
  for name, value in (
    ("tie_word_embeddings", tied),
    ("scale_decoder_outputs", scaled),
  ):
    if not isinstance(value, bool):
      raise ValueError(f"{name} is {value!r}; expected true or false")
  return scaled and fields.get("model_type") != "mt5"


def may_be_tied(fields: Mapping[str, Any]) -> bool:
  """Whether transformers 4 would share the embedding with the logits.

  Files of transformers 5 always have `tie_word_embeddings: true`, also where
  the logits have a matrix of their own.
  """
  version = str(fields.get("transformers_version", "4"))
  is_old = version.partition(".")[0] in ("2", "3", "4")
  tied = fields.get("tie_word_embeddings", fields.get("model_type") != "mt5")
  return bool(tied) and is_old and "scale_decoder_outputs" not in fields
