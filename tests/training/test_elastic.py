import collections
import functools

import jax
import numpy as np
import pytest

from coda_jax import initialise, testing
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer
from coda_jax.training import elastic


def model(**coda):
  config = CodaConfig(bottleneck_dim=4, **{"reduction": 2, **coda})
  return Transformer(testing.tiny_config(coda=config))


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, batch):
  return model.apply({"params": params}, **batch, enable_dropout=False)


@pytest.mark.parametrize("r", [1, 3, 8])
def test_one_set_of_parameters_serves_every_r(r):
  base = model(layer_reductions=((1, 4),))
  params = testing.random_params(base)
  batch = testing.token_batch(base.config.vocab_size)
  other = Transformer(base.config.with_reduction(r))
  logits = apply(other, params, batch)
  assert np.isfinite(logits).all()
  expected = params_lib.flatten(initialise.abstract_params(other))
  assert expected.keys() <= params_lib.flatten(params).keys()
  own = apply(base, params, batch)
  assert np.abs(np.asarray(own) - np.asarray(logits)).max() > 1e-3


def test_choice_depends_on_seed_and_step_alone():
  reductions = (2, 3, 5)
  draws = [elastic.choose(reductions, seed=1, step=step) for step in range(600)]
  assert draws == [
    elastic.choose(reductions, seed=1, step=step) for step in range(600)
  ]
  assert draws != [
    elastic.choose(reductions, seed=2, step=step) for step in range(600)
  ]
  counts = collections.Counter(draws)
  assert all(150 < counts[r] < 250 for r in reductions)
