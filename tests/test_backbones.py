"""The families of models, and the one that docs/backbones.md adds."""

import dataclasses
import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import coda_jax
from coda_jax import (
  CodaConfig,
  analysis,
  backbones,
  initialise,
  inspect,
  partitioning,
  quantization,
  testing,
)
from coda_jax import params as params_lib
from coda_jax.checkpoints import model_folder

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "backbones.md"


@pytest.mark.parametrize("name", backbones.names())
def test_families_are_found_by_name_and_by_configuration(name):
  family = backbones.named(name)
  assert family.name == name
  assert family.encoder_inputs
  assert [f.name for f in backbones.families()].count(name) == 1


def test_another_configuration():
  with pytest.raises(
    TypeError, match=r"CodaConfig is not .*'T5Config', 'BertConfig'"
  ):
    backbones.build(CodaConfig())


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """The module of the page, as a family of the package."""
  blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
  (code,) = (block for block in blocks if "BACKBONE" in block)
  assert len(code.splitlines()) < 150
  (tmp_path / "toy_backbone.py").write_text(code)
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(backbones._MODULES, "toy", "toy_backbone")
  yield importlib.import_module("toy_backbone")
  importlib.sys.modules.pop("toy_backbone")


TOKENS = jnp.asarray([[5, 3, 8, 2, 9, 4, 0, 0], [7, 2, 0, 0, 0, 0, 0, 0]])


def encode(model, params, tokens=TOKENS):
  return model.apply(
    {"params": params}, tokens, enable_dropout=False, method="encode"
  )


def test_the_family_of_the_page_is_saved_loaded_and_routed(toy, tmp_path):
  coda = CodaConfig(reduction=2.0, bottleneck_dim=4)
  plain = backbones.build(toy.ToyConfig(20))
  params = testing.random_params(plain)
  model_folder.save_model(tmp_path / "model", plain.config, params)
  model, loaded = coda_jax.load_pretrained(tmp_path / "model", coda=coda)
  assert model.config == dataclasses.replace(plain.config, coda=coda)
  params = testing.random_params(model)
  model_folder.save_model(tmp_path / "trained", model.config, params)
  coda_jax.save_adapter(tmp_path / "adapter", model, params)
  base, frozen = coda_jax.load_pretrained(tmp_path / "trained")
  routed, adapted = coda_jax.load_adapter(tmp_path / "adapter", base, frozen)
  y = encode(routed, adapted)
  assert np.isfinite(y).all()
  # Padding changes nothing.
  longer = encode(routed, adapted, jnp.pad(TOKENS, ((0, 0), (0, 5))))
  real = np.asarray(TOKENS > 0)
  np.testing.assert_allclose(y[real], longer[:, :8][real], atol=1e-5)
  # Adapters of zeros, and no routing: the backbone itself.
  dense = backbones.build(model.config.with_reduction(1))
  np.testing.assert_allclose(
    encode(dense, loaded)[real],
    encode(plain, testing.random_params(plain))[real],
    atol=1e-5,
  )
  assert inspect.main([str(tmp_path / "trained")]) == 0


@pytest.mark.filterwarnings("ignore")  # Of qwix.
def test_the_family_of_the_page_has_costs_axes_and_int8(toy):
  config = toy.ToyConfig(20)
  # Four projections, two of the MLP, and attention itself.
  length, d = 6, 32
  layer = 2 * length * (4 * d * d + 2 * 4 * d * d) + 4 * length * length * d
  assert analysis.encoder_flops(config, length) == 2 * layer
  assert analysis.decoder_flops(config, length, 3) == 0
  model = backbones.build(config)
  mesh = partitioning.make_mesh(data=2, fsdp=2, model=2)
  placed = params_lib.flatten(partitioning.shardings(model, mesh))
  where = placed["encoder/layers_0/mlp/wi/kernel"].spec
  assert where == PartitionSpec("fsdp", "model")
  params = testing.random_params(model)
  rounded, small = quantization.int8(model, params)
  np.testing.assert_allclose(
    encode(rounded, small), encode(model, params), atol=0.2
  )


def test_routing_needs_no_more_than_the_layer(toy):
  coda = CodaConfig(reduction=3.0, bottleneck_dim=4)
  model = backbones.build(toy.ToyConfig(20, coda=coda, scan_layers=True))
  names = params_lib.flatten(initialise.abstract_params(model))
  assert "encoder/layers_1/router/kernel" in names
  params = testing.random_params(model)
  gradient = jax.grad(lambda p: encode(model, p).sum())(params)
  assert np.abs(gradient["encoder"]["layers_1"]["router"]["kernel"]).max() > 0
