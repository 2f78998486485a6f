"""int8 weights for the frozen backbone, through qwix (the `int8` extra)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from coda_jax import backbones

# The kinds of weights that a model can be evaluated with.
WEIGHTS = ("float", "int8")

# The backbone's projections, by the path of their module. Adapters, routers and
# LoRA stay float: they are small, and trained for a task. Embeddings stay float
# because they are looked up, logits because they decide close calls.
PROJECTIONS = (
  r"(encoder|decoder)/layers_\d+/"
  r"(attention|self_attention|encoder_decoder_attention|mlp)/"
  r"(query|key|value|out|wi|wi_0|wi_1|wo)"
)


def int8(model: nn.Module, params: Any) -> tuple[nn.Module, dict[str, Any]]:
  """Rounds the projections' kernels to int8, one scale an output feature.

  Activations stay float: a kernel is multiplied by its scale where it is used.
  The model is for `apply` and `generate`, not for training.

  Args:
    model: a float model.
    params: its parameters.

  Returns:
    (model, params); the parameters' tree has qwix's arrays for the kernels.

  Raises:
    ModuleNotFoundError: qwix is not installed.
  """
  try:
    import qwix
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "int8 weights need qwix: pip install 'coda_jax[int8]'", name="qwix"
    ) from error

  rule = qwix.QuantizationRule(module_path=PROJECTIONS, weight_qtype=jnp.int8)
  methods = ("__call__", "encode", "decode")
  quantized = qwix.quantize_model(
    model,
    qwix.PtqProvider([rule]),
    methods=[name for name in methods if hasattr(model, name)],
  )
  variables = jax.eval_shape(
    lambda key, inputs: quantized.init(key, **inputs, enable_dropout=False),
    jax.random.key(0),
    backbones.example(model.config),
  )
  return quantized, qwix.quantize_params(params, variables["params"])
