"""A tiny byte-level model, dense and routed, saved as a checkpoint."""

import pytest

from coda_jax import testing
from coda_jax.checkpoints import model_folder
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer

CODA = CodaConfig(reduction=2, bottleneck_dim=4, epsilon=0.5)


def make(coda=CODA, seed=0):
  model = Transformer(testing.tiny_config(vocab_size=384, coda=coda))
  return model, testing.random_params(model, seed)


@pytest.fixture(params=["dense", "routed"])
def either(request):
  """(model, params), of a dense T5 and of one that routes."""
  return make(CODA if request.param == "routed" else None)


@pytest.fixture
def checkpoint(tmp_path):
  """The folder of the routed model."""
  model, params = make()
  model_folder.save_model(tmp_path / "model", model.config, params)
  return tmp_path / "model"
