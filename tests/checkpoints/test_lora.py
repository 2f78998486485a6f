import dataclasses

import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.checkpoints.lora import merge_lora
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.network import Transformer

LORA = LoraConfig(rank=2, alpha=3.0, targets=("query", "out", "wi_1", "wo"))
METHODS = {
  "lora": CodaConfig(reduction=1, bottleneck_dim=0, lora=LORA),
  "coda_lora": CodaConfig(reduction=2, bottleneck_dim=4, lora=LORA),
}


def logits(model, params):
  batch = testing.token_batch(model.config.vocab_size)
  return model.apply({"params": params}, **batch, enable_dropout=False)


@pytest.mark.parametrize("method", METHODS)
def test_the_merged_model_is_the_same_function(method):
  model = Transformer(testing.tiny_config(coda=METHODS[method]))
  params = testing.random_params(model)
  merged_model, merged = merge_lora(model, params)
  np.testing.assert_allclose(
    logits(merged_model, merged), logits(model, params), rtol=1e-4, atol=1e-4
  )
  rest = dataclasses.replace(METHODS[method], lora=None)
  assert merged_model.config.coda == (rest if method == "coda_lora" else None)
  changed = {
    path
    for path, leaf in params_lib.flatten(merged).items()
    if (np.asarray(leaf) != params_lib.flatten(params)[path]).any()
  }
  assert {path.split("/")[-2] for path in changed} == set(LORA.targets)


def test_one_kernel_by_hand():
  model = Transformer(testing.tiny_config(coda=METHODS["lora"]))
  params = testing.random_params(model)
  leaves = params_lib.flatten(params)
  path = "decoder/layers_0/mlp/wo"
  a, b = (np.float64(leaves[f"{path}/lora/{f}/kernel"]) for f in "ab")
  expected = leaves[f"{path}/kernel"] + 1.5 * (a @ b)
  found = params_lib.flatten(merge_lora(model, params)[1])[f"{path}/kernel"]
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_factor_that_is_missing_is_named():
  model = Transformer(testing.tiny_config(coda=METHODS["lora"]))
  leaves = params_lib.flatten(testing.random_params(model))
  del leaves["decoder/layers_0/mlp/wo/lora/b/kernel"]
  with pytest.raises(ValueError, match="wo/lora/b/kernel: not in the file"):
    merge_lora(model, params_lib.unflatten(leaves))


def test_a_model_without_lora():
  model = Transformer(testing.tiny_config())
  with pytest.raises(ValueError, match="no LoRA to merge"):
    merge_lora(model, testing.random_params(model))
