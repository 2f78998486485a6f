"""The names of parameters in Hugging Face's T5 and UMT5, both ways."""

from coda_jax.checkpoints import name_table

# See `name_table`; {i} is a layer.
_WORDS = {
  "p": {"q": "query", "k": "key", "v": "value", "o": "out"},
  "w": {"wi": "wi", "wi_0": "wi_0", "wi_1": "wi_1", "wo": "wo"},
}
_ENCODER, _DECODER = "encoder.block.{i}.layer", "decoder.block.{i}.layer"
_TABLE = (
  ("shared.weight", "token_embedder/embedding", False),
  ("lm_head.weight", "decoder/logits_dense/kernel", True),
  (
    f"{_ENCODER}.0.SelfAttention.{{p}}.weight",
    "encoder/layers_{i}/attention/{p}/kernel",
    True,
  ),
  (
    f"{_ENCODER}.0.layer_norm.weight",
    "encoder/layers_{i}/pre_attention_layer_norm/scale",
    False,
  ),
  (
    f"{_ENCODER}.1.DenseReluDense.{{w}}.weight",
    "encoder/layers_{i}/mlp/{w}/kernel",
    True,
  ),
  (
    f"{_ENCODER}.1.layer_norm.weight",
    "encoder/layers_{i}/pre_mlp_layer_norm/scale",
    False,
  ),
  ("encoder.final_layer_norm.weight", "encoder/encoder_norm/scale", False),
  (
    f"{_DECODER}.0.SelfAttention.{{p}}.weight",
    "decoder/layers_{i}/self_attention/{p}/kernel",
    True,
  ),
  (
    f"{_DECODER}.0.layer_norm.weight",
    "decoder/layers_{i}/pre_self_attention_layer_norm/scale",
    False,
  ),
  (
    f"{_DECODER}.1.EncDecAttention.{{p}}.weight",
    "decoder/layers_{i}/encoder_decoder_attention/{p}/kernel",
    True,
  ),
  (
    f"{_DECODER}.1.layer_norm.weight",
    "decoder/layers_{i}/pre_cross_attention_layer_norm/scale",
    False,
  ),
  (
    f"{_DECODER}.2.DenseReluDense.{{w}}.weight",
    "decoder/layers_{i}/mlp/{w}/kernel",
    True,
  ),
  (
    f"{_DECODER}.2.layer_norm.weight",
    "decoder/layers_{i}/pre_mlp_layer_norm/scale",
    False,
  ),
  ("decoder.final_layer_norm.weight", "decoder/decoder_norm/scale", False),
)
# The position bias: T5's, which its first layer holds for the whole stack, and
# UMT5's, of each layer.
_BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
_STACK_BIAS = (
  (f"encoder.block.0.{_BIAS}", "encoder/relpos_bias/rel_embedding", True),
  (f"decoder.block.0.{_BIAS}", "decoder/relpos_bias/rel_embedding", True),
)
_LAYER_BIAS = (
  (
    f"encoder.block.{{i}}.{_BIAS}",
    "encoder/layers_{i}/relpos_bias/rel_embedding",
    True,
  ),
  (
    f"decoder.block.{{i}}.{_BIAS}",
    "decoder/layers_{i}/relpos_bias/rel_embedding",
    True,
  ),
)


def to_path(name: str, bias_per_layer: bool) -> tuple[str | None, bool]:
  """(parameter path, transposed) of a tensor's name; None if it has none.

  Args:
    name: of the tensor.
    bias_per_layer: whether the model is a UMT5.
  """
  biases = _LAYER_BIAS if bias_per_layer else _STACK_BIAS
  return name_table.to_path(name, (*_TABLE, *biases), _WORDS)


def to_name(path: str) -> tuple[str | None, bool]:
  """(tensor's name, transposed) of a parameter path; None if it has none."""
  return name_table.to_name(path, (*_TABLE, *_STACK_BIAS, *_LAYER_BIAS), _WORDS)
