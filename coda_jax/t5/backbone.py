"""T5 as one of the package's backbones."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from coda_jax import backbones
from coda_jax.t5 import hf, t5x
from coda_jax.t5.config import T5Config
from coda_jax.t5.network import Transformer


def _example(
  config: T5Config, batch_size: int, lengths: Mapping[str, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  del config
  inputs, targets = (
    jax.ShapeDtypeStruct((batch_size, lengths[name]), jnp.int32)
    for name in ("inputs", "targets")
  )
  return {
    "encoder_input_tokens": inputs,
    "decoder_input_tokens": targets,
    "decoder_target_tokens": targets,
  }


BACKBONE = backbones.Backbone(
  name="t5",
  title="T5",
  config=T5Config,
  model=Transformer,
  example=_example,
  encoder_inputs=("encoder_input_tokens",),
  hf=hf,
  config_of_leaves=t5x.config_of_leaves,
  assume=t5x.assume,
)
