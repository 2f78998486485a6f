import pytest

from coda_jax import analysis, testing
from coda_jax.benchmarking import models, shapes
from coda_jax.t5.config import CodaConfig

LENGTH, BATCH = 12, 2


def calls(part, methods=models.METHODS, reductions=(2.0, 4.0), **coda):
  config = testing.tiny_config(num_encoder_layers=1, num_decoder_layers=1)
  subjects = models.subjects(
    config,
    part=part,
    coda=CodaConfig(bottleneck_dim=4, **coda),
    reductions=reductions,
    methods=methods,
    tokens=shapes.random_tokens(config, BATCH, LENGTH),
    decode_length=3,
  )
  return [(subject.columns, subject.build()) for subject in subjects]


@pytest.mark.parametrize("part", models.PARTS)
def test_what_is_timed(part):
  found = calls(part, attention="k_to_all", router="sigmoid", dispatch="gather")
  assert [(c["method"], c["reduction"], c["attention"]) for c, _ in found] == [
    ("adapter", 1, None),
    ("coda", 2, "k_to_all"),
    ("coda", 4, "k_to_all"),
    ("dense", None, None),
  ]
  assert found[1][0]["router"] == "sigmoid"
  assert found[1][0]["dispatch"] == "gather"
  adapter, half, quarter, dense = (call.flops for _, call in found)
  assert half > quarter
  # The teacher runs too.
  assert (adapter > half) == (part != "distil")
  assert dense < adapter
  for _, call in found:
    call.run()


def test_shapes_of_the_results():
  ((_, encode),) = calls("encoder", ["adapter"])
  assert encode.run().shape[:2] == (BATCH, LENGTH)
  ((_, generate),) = calls("generate", ["dense"])
  assert generate.run().shape == (BATCH, 3)


def test_flops_are_those_of_the_batch():
  config = testing.tiny_config(num_encoder_layers=1, num_decoder_layers=1)
  ((_, encode),) = calls("encoder", ["dense"])
  assert encode.flops == BATCH * analysis.encoder_flops(config, LENGTH)


def test_the_memory_of_a_step():
  config = testing.tiny_config(num_encoder_layers=2, num_decoder_layers=1)
  subjects = models.subjects(
    config,
    part="train",
    coda=CodaConfig(),
    reductions=(5.0,),
    methods=("adapter", "coda"),
    tokens=shapes.random_tokens(config, 2, 100),
    decode_length=4,
  )
  adapter, coda = (subject.build() for subject in subjects)
  # A layer keeps the attention of all pairs for its gradient, in float32.
  kept = 2 * 2 * config.num_heads * 100**2 * 4
  assert coda.peak_bytes < adapter.peak_bytes - kept / 2
