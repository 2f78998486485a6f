"""Fitted routers against NumPy, with the layers' outputs read one by one."""

import dataclasses

import numpy as np
import pytest

from coda_jax import backbones, testing
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer
from coda_jax.training import router_start

LENGTHS = (9, 6, 10, 8, 0, 10, 7, 10)
CODA = CodaConfig(
  reduction=2.0, bottleneck_dim=4, layer_reductions=((0, 1),), convolution=3
)


def make(coda):
  config = testing.tiny_bert_config(num_encoder_layers=3, coda=coda)
  model = backbones.build(config)
  tokens = testing.random_tokens(LENGTHS, 10, 40)
  mask = np.arange(10)[None, :] < np.array(LENGTHS)[:, None]
  batches = [
    {"encoder_input_tokens": t, "encoder_mask": m.astype(np.int32)}
    for t, m in zip(np.split(tokens, 2), np.split(mask, 2), strict=True)
  ]
  return model, testing.random_params(model), batches


def hidden(model, params, batch, layers):
  """float64 [tokens, emb_dim] after the first layers, without CoDA."""
  config = dataclasses.replace(
    model.config, coda=None, num_encoder_layers=layers
  )
  kept = {
    path: leaf
    for path, leaf in params_lib.flatten(params).items()
    if not params_lib.is_added(path)
  }
  found = backbones.build(config).apply(
    {"params": params_lib.unflatten(kept)},
    **batch,
    enable_dropout=False,
    method="encode",
  )
  return np.float64(found)[batch["encoder_mask"].astype(bool)]


def ridge(x, y):
  x, y = x - x.mean(axis=0), y - y.mean(axis=0)
  covariance = x.T @ x / len(x)
  ridge = 0.01 * np.trace(covariance) / len(covariance)
  covariance += ridge * np.eye(len(covariance))
  kernel = np.linalg.solve(covariance, x.T @ y / len(x))
  return kernel, x @ kernel, y


@pytest.mark.parametrize("shared", [False, True])
def test_scores_are_the_regression_of_what_a_linear_map_misses(shared):
  model, params, batches = make(dataclasses.replace(CODA, shared_router=shared))
  found = router_start.kernels(model, params, batches)
  states = {
    layers: np.concatenate([hidden(model, params, b, layers) for b in batches])
    for layers in (1, 2, 3)
  }
  ends = {1: 3} if shared else {1: 2, 2: 3}
  assert found.keys() == {f"encoder/layers_{i}/router/kernel" for i in ends}
  for layer, end in ends.items():
    x, change = states[layer], states[end] - states[layer]
    _, linear, change = ridge(x, change)
    loss = np.log(((change - linear) ** 2).sum(axis=1, keepdims=True))
    _, scores, _ = ridge(x, loss)
    kernel = np.float64(found[f"encoder/layers_{layer}/router/kernel"])
    # The log of a small loss shows float32's rounding.
    assert np.corrcoef(x @ kernel, scores[:, 0])[0, 1] > 0.998
    assert abs((x @ kernel).std() - 1) < 1e-3


def test_it_fits_t5():
  model = Transformer(testing.tiny_config(coda=CODA))
  params = testing.random_params(model)
  batch = testing.token_batch(model.config.vocab_size)
  found = router_start.kernels(model, params, [batch])
  (kernel,) = found.values()
  old = params_lib.flatten(params)["encoder/layers_1/router/kernel"]
  assert kernel.shape == old.shape and np.isfinite(kernel).all()


@pytest.mark.parametrize(
  "coda",
  [
    None,
    dataclasses.replace(CODA, router="random"),
    dataclasses.replace(CODA, reduction=1),
  ],
)
def test_nothing_to_start(coda):
  assert router_start.places(testing.tiny_bert_config(coda=coda)) == []
