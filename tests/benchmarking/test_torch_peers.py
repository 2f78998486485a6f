"""Peers do the work that they are timed for; needs the extra `bench`."""

import numpy as np
import pytest

from coda_jax import testing
from coda_jax.benchmarking import shapes, torch_peers

pytestmark = pytest.mark.filterwarnings("ignore")  # Of torch and its friends.
LENGTH, BATCH, DECODED = 12, 2, 3


def needs(method):
  if method not in torch_peers.installed():
    pytest.skip(f"{torch_peers.METHODS[method]} or torch is not installed")


def build(part, method, dtype="float32", reductions=(3.0,)):
  needs(method)
  config = testing.tiny_config(dtype=dtype)
  subjects = torch_peers.subjects(
    config,
    part=part,
    reductions=reductions,
    methods=[method],
    tokens=shapes.random_tokens(config, BATCH, LENGTH),
    decode_length=DECODED,
  )
  return config, subjects


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_encoder_of_transformers(dtype):
  config, (subject,) = build("encoder", "torch", dtype)
  encoded = subject.build().run()
  assert encoded.shape == (BATCH, LENGTH, config.emb_dim)
  assert str(encoded.dtype) == f"torch.{dtype}"


def test_generate_of_transformers_decodes_to_the_end():
  _, (subject,) = build("generate", "torch")
  # With the token that it starts from.
  assert subject.build().run().shape == (BATCH, 1 + DECODED)


def test_routed_blocks_are_as_deep_and_wide_as_the_encoder():
  config, subjects = build("encoder", "colt5", reductions=(2.0, 3.0))
  assert [s.columns["reduction"] for s in subjects] == [2, 3]
  assert subjects[1].build().run().shape == (BATCH, LENGTH, config.emb_dim)


@pytest.mark.parametrize("part", ["soft_top_k", "soft_top_k_gradient"])
def test_coordinate_descent(part):
  _, (subject,) = build(part, "colt5")
  found = subject.build().run().numpy()
  assert np.isfinite(found).all() and np.abs(found).max() > 0
  assert found.shape == (BATCH, 4 if part == "soft_top_k" else LENGTH)


@pytest.mark.parametrize("method", torch_peers.METHODS)
def test_there_is_no_training(method):
  assert build("train", method)[1] == []
