import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from coda_jax import (
  CodaConfig,
  Transformer,
  initialise,
  load_pretrained,
  testing,
)
from coda_jax import params as params_lib
from coda_jax.checkpoints import assemble, formats, hf, model_folder
from coda_jax.checkpoints.leaves import leaves_of
from coda_jax.nn.config import LoraConfig

CODA = CodaConfig(
  reduction=3,
  layer_reductions=((0, 1),),
  bottleneck_dim=4,
  lora=LoraConfig(rank=2, targets=("query", "wo")),
)


def tiny_model(**fields):
  model = Transformer(testing.tiny_config(**fields))
  return model, initialise.init_params(model, jax.random.key(0))


def load(folder):
  config, leaves = model_folder.read(folder)
  return config, params_lib.unflatten({p: x.read() for p, x in leaves.items()})


def from_tree(model, params):
  leaves = leaves_of(params)
  return assemble.from_leaves(model, leaves, jax.random.key(0), "file")


def assert_trees_equal(actual, expected):
  actual, expected = map(params_lib.flatten, (actual, expected))
  assert actual.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(actual[path], leaf, err_msg=path)


@pytest.mark.parametrize("coda", [None, CODA])
def test_a_saved_model_comes_back_exactly(tmp_path, coda):
  model, params = tiny_model(coda=coda)
  model_folder.save_model(tmp_path, model.config, params)
  config, loaded = load(tmp_path)
  assert config == model.config
  assert_trees_equal(loaded, params)


def test_how_a_model_computes_is_not_saved(tmp_path):
  """It is the machine's; files of older versions, which have it, load."""
  plain = testing.tiny_config(coda=CodaConfig(bottleneck_dim=4))
  config = dataclasses.replace(
    plain,
    dtype="bfloat16",
    remat=True,
    scan_layers=True,
    coda=CodaConfig(bottleneck_dim=4, dispatch="gather"),
  )
  params = testing.random_params(Transformer(plain))
  model_folder.save_model(tmp_path, config, params)
  fields = json.loads((tmp_path / "config.json").read_text())["t5"]
  assert not {"dtype", "remat", "scan_layers"} & fields.keys()
  assert "dispatch" not in fields["coda"]
  assert model_folder.read(tmp_path)[0] == plain
  older = {**dataclasses.asdict(config), "dtype": "bfloat16"}
  assert model_folder.config_from_dict(type(plain), older) == plain


def test_the_file_is_plain_safetensors_with_t5x_paths(tmp_path):
  model, params = tiny_model()
  model_folder.save_model(tmp_path, model.config, params)
  leaves = safetensors_numpy.load_file(tmp_path / "model.safetensors")
  np.testing.assert_array_equal(
    leaves["encoder/layers_1/attention/query/kernel"],
    params["encoder"]["layers_1"]["attention"]["query"]["kernel"],
  )
  assert {p.name for p in tmp_path.iterdir()} == {
    "config.json",
    "model.safetensors",
  }


def test_a_file_without_checksums_is_read_as_before(tmp_path):
  """Of an earlier version, or of another library."""
  model, params = tiny_model()
  model_folder.save_model(tmp_path, model.config, params)
  file = tmp_path / "model.safetensors"
  safetensors_numpy.save_file(safetensors_numpy.load_file(file), file)
  _, leaves = model_folder.read(tmp_path)
  assert not any(leaf.check for leaf in leaves.values())
  _, loaded = load(tmp_path)
  assert_trees_equal(loaded, params)


def test_a_flipped_bit_is_named_when_the_model_is_loaded(tmp_path):
  model, params = tiny_model()
  model_folder.save_model(tmp_path, model.config, params)
  file = tmp_path / "model.safetensors"
  data = bytearray(file.read_bytes())
  data[-1] ^= 64
  file.write_bytes(data)
  with pytest.raises(ValueError, match=r"model\.safetensors: .* is damaged: "):
    load_pretrained(tmp_path)


def test_bfloat16_rounds_each_leaf_once(tmp_path):
  model, params = tiny_model()
  model_folder.save_model(tmp_path, model.config, params, dtype="bfloat16")
  _, loaded = load(tmp_path)
  rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  assert_trees_equal(loaded, rounded)


def test_a_dense_file_becomes_a_coda_model(tmp_path):
  model, params = tiny_model()
  model_folder.save_model(tmp_path, model.config, params)
  coda_model, coda_params = load_pretrained(tmp_path, coda=CODA)
  assert coda_model.config == dataclasses.replace(model.config, coda=CODA)
  loaded = params_lib.flatten(coda_params)
  for path, leaf in params_lib.flatten(params).items():
    np.testing.assert_array_equal(loaded.pop(path), leaf)
  assert loaded
  assert all(
    "/adapter/" in p or "/router/" in p or "/lora/" in p for p in loaded
  )


def test_adapters_of_a_file_are_left_behind_by_a_dense_model():
  model, params = tiny_model()
  _, with_coda = tiny_model(coda=CODA)
  loaded = from_tree(model, with_coda)
  assert params_lib.flatten(loaded).keys() == params_lib.flatten(params).keys()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda p: p["decoder"].pop("decoder_norm"), "decoder_norm/scale: not in"),
    (lambda p: p.update(extra={"kernel": jnp.ones(2)}), "extra/kernel: not in"),
    (
      lambda p: p["encoder"]["encoder_norm"].update(scale=jnp.ones(3)),
      r"encoder_norm/scale: \(3,\) in the file",
    ),
  ],
)
def test_leaves_that_do_not_fit_are_named(change, message):
  model, pretrained = tiny_model()
  change(pretrained)
  with pytest.raises(ValueError, match=message):
    from_tree(model, pretrained)


def test_a_missing_folder_says_what_was_expected(tmp_path):
  with pytest.raises(FileNotFoundError, match="no checkpoint found in"):
    load_pretrained(tmp_path / "nowhere")


def test_another_format_is_refused(tmp_path):
  model, params = tiny_model()
  hf.write(tmp_path, model.config, leaves_of(params))
  with pytest.raises(ValueError, match="format None"):
    model_folder.read(tmp_path)


def test_a_file_cut_off_is_named(tmp_path):
  model, params = tiny_model()
  model_folder.save_model(tmp_path, model.config, params)
  weights = tmp_path / "model.safetensors"
  weights.write_bytes(weights.read_bytes()[:-100])
  with pytest.raises(ValueError, match=r"model\.safetensors is incomplete"):
    load_pretrained(tmp_path)


@pytest.mark.parametrize("name", formats.SHIPPED)
def test_the_shipped_models_load_by_name(name):
  model, params = load_pretrained(name)
  assert (model.config.coda is not None) == (name == "tiny_coda")
  assert 4.5e6 < params_lib.count(params) < 13e6
