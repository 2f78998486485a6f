"""BertConfig: what it derives, and what it refuses."""

import dataclasses

import jax.numpy as jnp
import pytest

from coda_jax import testing
from coda_jax.bert.config import BertConfig
from coda_jax.nn.config import CodaConfig, LoraConfig


def test_defaults_are_bert_base():
  config = BertConfig(vocab_size=30522)
  assert config.head_dim == 64
  assert config.dtype == jnp.float32
  assert not config.is_routed
  assert hash(config) == hash(dataclasses.replace(config))


@pytest.mark.parametrize(
  ("family", "pad_id", "first"),
  [("bert", 0, 0), ("bert", 3, 0), ("roberta", 1, 2), ("xlm-roberta", 3, 4)],
)
def test_first_position(family, pad_id, first):
  config = testing.tiny_bert_config(family=family, pad_id=pad_id)
  assert config.first_position == first


def test_reductions_are_those_of_coda():
  coda = CodaConfig(reduction=3, layer_reductions=((0, 1),))
  config = testing.tiny_bert_config(coda=coda)
  assert [config.layer_reduction(i) for i in range(2)] == [1, 3]
  assert config.with_reduction(2).layer_reduction(1) == 2


@pytest.mark.parametrize("dtype", ["float16", jnp.float16])
def test_float16_is_refused(dtype):
  with pytest.raises(ValueError, match="float16.*bfloat16 or float32"):
    testing.tiny_bert_config(dtype=dtype)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"vocab_size": 0}, "vocab_size=0; expected a whole number, 1 or more"),
    ({"max_length": -1}, "max_length=-1; expected a whole number"),
    ({"num_token_types": 0}, "num_token_types=0; expected a whole number"),
    ({"mlp_dim": 2.0}, "mlp_dim=2.0; expected a whole number"),
    ({"family": "albert"}, "family='albert'; expected one of .*'roberta'"),
    ({"activation": "tanh"}, "activation='tanh'; expected one of .*'gelu_new'"),
    ({"pad_id": -1}, "pad_id=-1; expected a whole number, 0 or more"),
    ({"pad_id": 48}, "pad_id=48; expected below vocab_size, 48"),
    ({"num_heads": 4}, "emb_dim=15; expected a multiple of num_heads, 4"),
    ({"norm_epsilon": 0}, "norm_epsilon=0; expected above 0"),
    ({"dropout_rate": 1.0}, "dropout_rate=1.0; expected 0 or more, below 1"),
    ({"attention_dropout_rate": None}, "attention_dropout_rate=None; expected"),
    ({"head_dropout_rate": 2}, "head_dropout_rate=2; expected 0 or more"),
    ({"head": "lm"}, "head='lm'; expected one of .*'token_classification'"),
    ({"head": "classification"}, "num_labels=0; expected a whole number, 1"),
    ({"num_labels": 2}, "num_labels=2, but head=None.*set num_labels=0, or"),
  ],
)
def test_bad_value_names_field_value_and_remedy(fields, message):
  with pytest.raises(ValueError, match=rf"BertConfig\.{message}"):
    testing.tiny_bert_config(**fields)


def test_bad_coda_is_refused():
  with pytest.raises(ValueError, match="names layer 2;.*layers 0 to 1"):
    testing.tiny_bert_config(coda=CodaConfig(layer_reductions=((2, 2),)))
  coda = CodaConfig(lora=LoraConfig(targets=("wi_0",)))
  with pytest.raises(ValueError, match="'wi_0'; this model's.*'wi', 'wo'"):
    testing.tiny_bert_config(coda=coda)
  with pytest.raises(ValueError, match=r"BertConfig.scan_layers needs layers"):
    testing.tiny_bert_config(scan_layers=True, coda=CodaConfig(router="random"))
