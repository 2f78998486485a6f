"""Configs: what they normalise, and what they refuse."""

import dataclasses
import math

import jax.numpy as jnp
import pytest

from coda_jax import testing
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.config import T5Config


def test_t5x_field_names():
  """A gin file of t5x's binds these."""
  fields = {field.name for field in dataclasses.fields(T5Config)}
  assert fields >= {
    "vocab_size",
    "dtype",
    "emb_dim",
    "num_heads",
    "num_encoder_layers",
    "num_decoder_layers",
    "head_dim",
    "mlp_dim",
    "mlp_activations",
    "dropout_rate",
    "logits_via_embedding",
  }


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, "float32"])
def test_dtype_may_be_a_name(dtype):
  config = testing.tiny_config(dtype=dtype)
  assert config.dtype == jnp.dtype(dtype)


def test_configs_are_hashable_even_from_lists():
  """gin and JSON have lists; modules and jit need hashable values."""
  config = testing.tiny_config(
    mlp_activations=["gelu", "linear"],
    coda=CodaConfig(
      layer_reductions=[[0, 1], [1, 5]], lora=LoraConfig(targets=["query"])
    ),
  )
  assert config.mlp_activations == ("gelu", "linear")
  assert config.coda.layer_reductions == ((0, 1.0), (1, 5.0))
  assert hash(config) == hash(dataclasses.replace(config))


def test_dtype_must_be_given():
  with pytest.raises(ValueError, match="dtype=None"):
    T5Config(vocab_size=8, dtype=None)


@pytest.mark.parametrize("dtype", ["float16", jnp.float16])
def test_float16_is_refused(dtype):
  with pytest.raises(ValueError, match="float16.*bfloat16 or float32"):
    testing.tiny_config(dtype=dtype)


def test_integer_dtype_is_refused():
  with pytest.raises(ValueError, match="int32 is not floating-point"):
    testing.tiny_config(dtype="int32")


def test_layers_may_have_a_reduction_of_their_own():
  coda = CodaConfig(reduction=3, layer_reductions=((0, 1), (2, 5.5)))
  config = testing.tiny_config(num_encoder_layers=4, coda=coda)
  assert [config.layer_reduction(i) for i in range(4)] == [1, 3, 5.5, 3]
  assert config.is_routed


def test_layers_may_be_counted_from_the_end():
  coda = CodaConfig(reduction=6, layer_reductions=((0, 1), (-1, 1), (-2, 2)))
  config = testing.tiny_config(num_encoder_layers=4, coda=coda)
  assert [config.layer_reduction(i) for i in range(4)] == [1, 6, 2, 1]
  # A deeper encoder has another last layer.
  config = testing.tiny_config(num_encoder_layers=5, coda=coda)
  assert [config.layer_reduction(i) for i in range(5)] == [1, 6, 6, 2, 1]


def test_what_is_routed():
  assert not testing.tiny_config().is_routed
  assert not testing.tiny_config(coda=CodaConfig(reduction=1)).is_routed
  assert testing.tiny_config(coda=CodaConfig(reduction=1.5)).is_routed
  dense = CodaConfig(reduction=1)
  one = dataclasses.replace(dense, layer_reductions=((3, 2),))
  assert testing.tiny_config(num_encoder_layers=4, coda=one).is_routed
  none = CodaConfig(layer_reductions=tuple((i, 1) for i in range(4)))
  assert not testing.tiny_config(num_encoder_layers=4, coda=none).is_routed


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"reduction": 0.5}, "reduction is 0.5; expected 1"),
    ({"reduction": -3}, "reduction is -3; expected 1"),
    ({"reduction": math.nan}, "reduction is nan; expected 1"),
    ({"reduction": math.inf}, "reduction is inf; expected 1"),
    ({"layer_reductions": ((2, 0.9),)}, "of layer 2 is 0.9; expected 1"),
    ({"epsilon": 0.0}, "epsilon=0.0; expected above 0"),
    ({"epsilon": -1.0}, "epsilon=-1.0; expected above 0"),
    ({"bottleneck_dim": -1}, "bottleneck_dim=-1; expected a whole number, 0"),
    ({"attention": "all"}, "attention='all'; expected one of .*k_to_k"),
    ({"router": "top_k"}, "router='top_k'; expected one of .*soft_top_k"),
    ({"dispatch": "scan"}, "dispatch='scan'; expected one of .*one_hot"),
    ({"soft_top_k_method": "newton"}, "'newton'; expected one of .*exact"),
  ],
)
def test_bad_coda_config_names_field_value_and_remedy(fields, message):
  with pytest.raises(ValueError, match=f"CodaConfig.*{message}"):
    CodaConfig(**fields)


@pytest.mark.parametrize(
  ("layers", "message"),
  [
    ((4,), "names layer 4;.*layers 0 to 3, or -4 to -1"),
    ((-5,), "names layer -5;.*layers 0 to 3, or -4 to -1"),
    ((3, -1), "names a layer twice, from both ends of 4 layers"),
  ],
)
def test_layers_that_do_not_exist_are_refused(layers, message):
  coda = CodaConfig(layer_reductions=tuple((i, 2) for i in layers))
  with pytest.raises(ValueError, match=message):
    testing.tiny_config(num_encoder_layers=4, coda=coda)


def test_bad_lora_config():
  with pytest.raises(ValueError, match="rank=0; expected a whole number"):
    LoraConfig(rank=0)
  # Names of another library would adapt nothing, in silence.
  for target in ("q", "wi"):
    coda = CodaConfig(lora=LoraConfig(targets=("query", target)))
    with pytest.raises(ValueError, match=f"'{target}'; this model's.*wi_0"):
      testing.tiny_config(coda=coda)


def test_another_reduction_leaves_dense_layers_dense():
  coda = CodaConfig(reduction=3, layer_reductions=((0, 1), (2, 5)))
  config = testing.tiny_config(num_encoder_layers=4, coda=coda)
  other = config.with_reduction(2)
  reductions = [other.layer_reduction(i) for i in range(4)]
  assert reductions == [1, 2, 2, 2]
  assert dataclasses.replace(other, coda=coda) == config
  assert not config.with_reduction(1).is_routed


@pytest.mark.parametrize("coda", [None, CodaConfig(reduction=1)])
def test_another_reduction_of_what_does_not_route(coda):
  with pytest.raises(ValueError, match="r = 2 was asked of a model that does"):
    testing.tiny_config(coda=coda).with_reduction(2)
