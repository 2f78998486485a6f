"""BERT, RoBERTa and XLM-RoBERTa as one of the package's backbones."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from coda_jax import backbones
from coda_jax.bert import hf
from coda_jax.bert.config import BertConfig
from coda_jax.bert.network import Bert


def _example(
  config: BertConfig, batch_size: int, lengths: Mapping[str, int]
) -> dict[str, jax.ShapeDtypeStruct]:
  shape = (batch_size, min(lengths["inputs"], config.max_length))
  return {
    "encoder_input_tokens": jax.ShapeDtypeStruct(shape, jnp.int32),
    "encoder_token_types": jax.ShapeDtypeStruct(shape, jnp.int32),
    "encoder_mask": jax.ShapeDtypeStruct(shape, jnp.int32),
  }


BACKBONE = backbones.Backbone(
  name="bert",
  title="BERT",
  config=BertConfig,
  model=Bert,
  example=_example,
  encoder_inputs=(
    "encoder_input_tokens",
    "encoder_token_types",
    "encoder_mask",
  ),
  hf=hf,
)
