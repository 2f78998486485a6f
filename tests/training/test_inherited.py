"""What a run takes from the checkpoint that it starts from."""

import dataclasses

import pytest

from coda_jax import testing
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.network import Transformer
from coda_jax.training import inherited, setup

SAVED = CodaConfig(
  reduction=5,
  layer_reductions=((0, 1),),
  attention="k_to_all",
  router="sigmoid",
  epsilon=0.1,
  soft_top_k_method="iterative",
  bottleneck_dim=8,
  lora=LoraConfig(rank=2, alpha=3.0),
)
UNSET = dict.fromkeys(
  (
    "reduction",
    "layer_reductions",
    "attention",
    "router",
    "epsilon",
    "soft_top_k_method",
    "bottleneck_dim",
    "adapter_scale",
    "convolution",
    "shared_router",
    "always_ends",
  )
)


def inherit(coda, saved=SAVED):
  config, lines = inherited.inherit(
    testing.tiny_config(coda=coda), testing.tiny_config(coda=saved), "it"
  )
  return config.coda, lines


def test_unset_fields_are_the_defaults():
  assert CodaConfig(**UNSET) == CodaConfig()
  assert CodaConfig(**UNSET).unset == UNSET.keys()
  assert not CodaConfig().unset


def test_unset_fields_are_the_checkpoints():
  coda = CodaConfig(**UNSET, lora=LoraConfig(rank=None, alpha=None))
  assert inherit(coda) == (SAVED, [])
  # Nothing is unset any more, so that what was taken is never lost.
  assert not inherit(coda)[0].unset


def test_set_fields_hold_and_are_named():
  coda, lines = inherit(CodaConfig(**{**UNSET, "epsilon": 0.3, "reduction": 2}))
  assert coda == dataclasses.replace(SAVED, epsilon=0.3, reduction=2, lora=None)
  assert lines == [
    "REDUCTION = 2; it was trained with 5",
    "EPSILON = 0.3; it was trained with 0.1",
  ]


@pytest.mark.parametrize(
  ("coda", "macro"),
  [
    (CodaConfig(**{**UNSET, "bottleneck_dim": 9}), "BOTTLENECK_DIM = 9"),
    (CodaConfig(**UNSET, lora=LoraConfig(rank=7)), "LORA_RANK = 7"),
  ],
)
def test_other_shapes_are_refused(coda, macro):
  with pytest.raises(
    ValueError, match=rf"{macro}, .* of it .* leave {macro[:4]}"
  ):
    inherit(coda)


@pytest.mark.parametrize("saved", [None, CodaConfig(bottleneck_dim=0)])
def test_a_checkpoint_without_adapters_sets_nothing(saved):
  coda = CodaConfig(reduction=2, bottleneck_dim=4)
  assert inherit(coda, saved)[0] == coda


def test_another_backbone_is_named():
  with pytest.raises(ValueError, match=r"sizes/(.|\n)*mlp_dim = 8, it has 24"):
    inherited.inherit(
      testing.tiny_config(mlp_dim=8), testing.tiny_config(), "it"
    )


def test_a_shipped_model_is_read():
  config = setup.formats.read("tiny_coda")[0]
  plain = dataclasses.replace(config, coda=CodaConfig(**UNSET))
  model, lines = setup.inherit(Transformer(plain), "tiny_coda")
  assert (model.config, lines) == (config, [])
  assert config.coda.epsilon != CodaConfig.epsilon
