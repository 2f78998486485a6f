"""The names of parameters in Hugging Face's T5 and UMT5, both ways."""

import re
from typing import Any

# (name in the file, parameter path, whether the matrix is transposed). {i} is a
# layer; {p} one of q k v o, which we spell out; {w} one of wi wi_0 wi_1 wo.
_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
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
  for theirs, ours, transposed in (*_TABLE, *biases):
    if match := re.fullmatch(_pattern(theirs, "qkvo"), name):
      values = match.groupdict()
      if "p" in values:
        values["p"] = _ATTENTION[values["p"]]
      return ours.format(**values), transposed
  return None, False


def to_name(path: str) -> tuple[str | None, bool]:
  """(tensor's name, transposed) of a parameter path; None if it has none."""
  letters = {ours: letter for letter, ours in _ATTENTION.items()}
  for theirs, ours, transposed in (*_TABLE, *_STACK_BIAS, *_LAYER_BIAS):
    if match := re.fullmatch(_pattern(ours, letters), path):
      values = match.groupdict()
      if "p" in values:
        values["p"] = letters[values["p"]]
      return theirs.format(**values), transposed
  return None, False


def _pattern(template: str, projections: Any) -> str:
  """The regular expression of a name with {i}, {p} and {w}."""
  pattern = re.escape(template)
  for field, values in (
    ("i", r"\d+"),
    ("p", "|".join(projections)),
    ("w", "wi|wi_0|wi_1|wo"),
  ):
    pattern = pattern.replace(rf"\{{{field}\}}", f"(?P<{field}>{values})")
  return pattern
