import numpy as np
import pytest

from coda_jax import backbones, initialise, testing


@pytest.mark.parametrize(
  "make", [testing.tiny_config, testing.tiny_bert_config]
)
def test_ones_are_arguments_of_a_call(make):
  config = make()
  found = initialise.ones(config)
  expected = backbones.example(config)
  assert found.keys() == expected.keys()
  for name, x in found.items():
    assert (x.shape, x.dtype) == (expected[name].shape, expected[name].dtype)
    np.testing.assert_array_equal(x, 1)
  model = backbones.build(config)
  params = testing.random_params(model)
  y = model.apply({"params": params}, **found, enable_dropout=False)
  assert np.isfinite(y).all()
