import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.benchmarking import train_step
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.config import CodaConfig
from coda_jax.t5.network import Transformer


@pytest.mark.parametrize("reduction", [1, 2])
def test_a_step_trains_what_a_task_owns(reduction, monkeypatch):
  config = testing.tiny_config(
    num_encoder_layers=1,
    num_decoder_layers=1,
    coda=CodaConfig(reduction=reduction, bottleneck_dim=4),
  )
  routed = dataclasses.replace(config, coda=CodaConfig(bottleneck_dim=4))
  params = testing.random_params(Transformer(routed))
  model = Transformer(config)
  tokens, targets = (
    testing.random_tokens([n] * 2, n, config.vocab_size) for n in (64, 8)
  )
  batch = train_step.train_batch(jnp.asarray(tokens), jnp.asarray(targets))
  step = train_step.train_step(model, params, batch, Seq2Seq())
  before = jax.tree.map(np.array, params)
  losses = [float(step.run()["loss"]) for _ in range(9)]
  assert losses[-1] < losses[0]
  # The parameters given are still there, for the next model.
  jax.tree.map(np.testing.assert_array_equal, params, before)
  # Nothing is computed for frozen leaves.
  monkeypatch.setattr(params_lib, "TASK_PATTERNS", params_lib.ALL_PATTERNS)
  everything = train_step.train_step(model, params, batch, Seq2Seq())
  assert everything.flops > 1.2 * step.flops
