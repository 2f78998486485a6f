import dataclasses
import math

import jax
import numpy as np
import pytest

from coda_jax import analysis, initialise, testing
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer

ENCODED, DECODED = 11, 7


def layer_by_hand(config, queries, keys):
  """{projection: FLOPs} of attention and MLP, two a multiply-add."""
  d, inner = config.emb_dim, config.num_heads * config.head_dim
  branches = len(config.mlp_activations)
  sizes = {
    "query": (queries, d, inner),
    "key": (keys, d, inner),
    "value": (keys, d, inner),
    "out": (queries, inner, d),
    "wo": (queries, config.mlp_dim, d),
  }
  for i in range(branches):
    name = f"wi_{i}" if branches > 1 else "wi"
    sizes[name] = (queries, d, config.mlp_dim)
  lora = config.lora
  total = 2 * 2 * queries * keys * inner  # Logits, and the values' sum.
  for name, (tokens, inputs, features) in sizes.items():
    total += 2 * tokens * inputs * features
    if lora and name in lora.targets:
      total += 2 * tokens * lora.rank * (inputs + features)
  return total


def adapter_by_hand(config, tokens):
  width = config.coda.bottleneck_dim if config.coda else 0
  return 2 * 2 * tokens * config.emb_dim * width


def encoder_by_hand(config):
  total = 0
  for i in range(config.num_encoder_layers):
    r = config.layer_reduction(i)
    k = math.ceil(ENCODED / r)
    k_to_all = config.coda and config.coda.attention == "k_to_all"
    total += layer_by_hand(config, k, ENCODED if k_to_all else k)
    total += adapter_by_hand(config, ENCODED)
    if r > 1 and config.coda.router in ("soft_top_k", "sigmoid"):
      total += 2 * ENCODED * config.emb_dim
  return total


def decoder_by_hand(config):
  d = config.emb_dim
  # Attention to the encoded tokens has no MLP of its own.
  mlp_free = dataclasses.replace(config, mlp_dim=1)
  cross = layer_by_hand(mlp_free, DECODED, ENCODED)
  cross -= sum(2 * DECODED * d for _ in range(len(config.mlp_activations) + 1))
  if config.lora:
    names = ("wi", "wi_0", "wi_1", "wo")
    cross -= sum(
      2 * DECODED * config.lora.rank * (d + 1)
      for name in config.lora.targets
      if name in names
    )
  layer = layer_by_hand(config, DECODED, DECODED) + cross
  layer += adapter_by_hand(config, DECODED)
  logits = 2 * DECODED * d * config.vocab_size
  return config.num_decoder_layers * layer + logits


def traced(config, part):
  """(the part's function of params, abstract params), for one sequence."""
  model = Transformer(config)
  tokens = np.ones((1, ENCODED), np.int32)
  targets = np.ones((1, DECODED), np.int32)
  encoded = np.zeros((1, ENCODED, config.emb_dim), np.float32)
  arguments = {
    "encode": (tokens,),
    "decode": (encoded, tokens, targets, targets),
  }[part]

  def function(params):
    return model.apply(
      {"params": params}, *arguments, enable_dropout=False, method=part
    )

  return function, initialise.abstract_params(model)


def coda(**fields):
  return CodaConfig(**{"bottleneck_dim": 6, "dispatch": "gather", **fields})


CONFIGS = {
  "dense": {},
  "t5_1_0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
  "adapter": {"coda": coda(reduction=1)},
  "k_to_k": {"coda": coda(reduction=3)},
  "k_to_all": {"coda": coda(reduction=3, attention="k_to_all")},
  "truncation": {"coda": coda(reduction=2, router="truncation")},
  "sigmoid": {"coda": coda(reduction=2.5, router="sigmoid")},
  "by_layer": {"coda": coda(layer_reductions=((0, 1), (1, 5)))},
  "lora": {
    "coda": coda(
      reduction=3,
      bottleneck_dim=0,
      lora=LoraConfig(rank=2, targets=("query", "out", "wi_1", "wo")),
    )
  },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_flops_are_those_counted_by_hand(name):
  config = testing.tiny_config(**CONFIGS[name])
  assert analysis.encoder_flops(config, ENCODED) == encoder_by_hand(config)
  found = analysis.decoder_flops(config, ENCODED, DECODED)
  assert found == decoder_by_hand(config)


@pytest.mark.parametrize("dispatch", ["auto", "one_hot"])
def test_flops_do_not_count_the_moving_of_tokens(dispatch):
  chosen = coda(reduction=3, dispatch=dispatch)
  for length in (ENCODED, 300):  # Many keys are averaged in another way.
    flops = analysis.encoder_flops(testing.tiny_config(coda=chosen), length)
    expected = analysis.encoder_flops(
      testing.tiny_config(coda=coda(reduction=3)), length
    )
    assert flops == expected


@pytest.mark.parametrize("name", ["dense", "k_to_k"])
def test_flops_are_near_the_compilers(name):
  # Wide enough for matrix products to dominate, as they do in real models.
  config = testing.tiny_config(
    emb_dim=256, head_dim=64, mlp_dim=512, num_encoder_layers=2, **CONFIGS[name]
  )
  function, params = traced(config, "encode")
  compiled = jax.jit(function).lower(params).compile()
  assert analysis.encoder_flops(config, ENCODED) == pytest.approx(
    compiled.cost_analysis()["flops"], rel=0.04
  )


def test_parameter_counts_and_trained_share():
  config = testing.tiny_config(coda=coda(reduction=3))
  params = initialise.abstract_params(Transformer(config))
  trained, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  counts = analysis.parameter_counts(trained, frozen)
  d, layers = config.emb_dim, config.num_encoder_layers
  decoder = config.num_decoder_layers
  assert counts["routers"] == (layers * d, 0)
  assert counts["adapters"] == ((layers + decoder) * 2 * 6 * d, 0)
  assert counts["norms"] == ((2 * layers + 3 * decoder + 2) * d, 0)
  assert counts["embedding, logits"] == (0, 2 * config.vocab_size * d)
  assert "LoRA" not in counts and "other" not in counts
  assert sum(map(sum, counts.values())) == params_lib.count(params)
  assert analysis.trained_share(params) == pytest.approx(
    params_lib.count(trained) / params_lib.count(params)
  )
  assert analysis.trained_share(params, params_lib.ALL_PATTERNS) == 1


def test_alternatives_are_timed_in_turn():
  calls = []
  functions = {name: lambda name=name: calls.append(name) for name in "ab"}
  times = analysis.paired_times(functions, 3)
  assert "".join(calls) == "ab" + "ababab"
  assert {name: len(values) for name, values in times.items()} == {
    "a": 3,
    "b": 3,
  }
  assert analysis.paired_medians(functions, 1).keys() == {"a", "b"}
  with pytest.raises(ValueError, match="repeats=0"):
    analysis.paired_times(functions, 0)


def test_inference_costs_compare_with_the_first(monkeypatch):
  tokens = testing.token_batch(48)["encoder_input_tokens"]
  models = {}
  for reduction in (1.0, 3.0):
    config = testing.tiny_config(coda=CodaConfig(reduction=reduction))
    model = Transformer(config)
    models[config] = (model, testing.random_params(model))
  called = []
  milliseconds = iter([[8.0, 2.0], [30.0, 10.0]])

  def paired_medians(functions, repeats):
    assert repeats == 4
    called.extend(jax.block_until_ready(f()) for f in functions.values())
    return dict(zip(functions, next(milliseconds), strict=True))

  monkeypatch.setattr(analysis, "paired_medians", paired_medians)
  costs = analysis.inference_costs(
    models,
    {"encoder_input_tokens": tokens},
    max_length=3,
    repeats=4,
    objective=Seq2Seq(generate={"eos_id": -1}),
  )
  dense, routed = models
  assert list(costs) == [dense, routed]
  assert costs[dense]["encoder_speedup"] == 1
  assert costs[routed] == {
    "encoder_flops": analysis.encoder_flops(routed, tokens.shape[1]),
    "encoder_ms": 2.0,
    "inference_ms": 10.0,
    "encoder_speedup": 4.0,
    "inference_speedup": 3.0,
  }
  # What was timed is each model's own encoder, then its own answers.
  for (model, params), encoded, decoded in zip(
    models.values(), called[:2], called[2:], strict=True
  ):
    expected = model.apply(
      {"params": params}, tokens, enable_dropout=False, method="encode"
    )
    np.testing.assert_allclose(encoded, expected, rtol=1e-4, atol=1e-5)
    assert decoded.shape == (2, 3) and (decoded > 0).all()
