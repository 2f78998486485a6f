import json

import jax
import numpy as np
import pytest

import coda_jax
from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.checkpoints import assemble, folders, formats, model_folder
from coda_jax.checkpoints.leaves import leaves_of

CODA = coda_jax.CodaConfig(reduction=3, bottleneck_dim=4)


@pytest.fixture
def backbone(tmp_path):
  """The folder of a dense model."""
  model = coda_jax.Transformer(testing.tiny_config())
  params = testing.random_params(model)
  model_folder.save_model(tmp_path / "backbone", model.config, params)
  return tmp_path / "backbone"


def save_adapter(folder, backbone, seed):
  """An adapter with parameters of its own; returns (model, params)."""
  _, params = coda_jax.load_pretrained(backbone)
  model = coda_jax.Transformer(testing.tiny_config(coda=CODA))
  params = assemble.from_leaves(
    model, leaves_of(params), jax.random.key(seed), "backbone"
  )
  coda_jax.save_adapter(folder, model, params)
  return model, params


def test_one_checkpoint_is_itself(tmp_path, backbone):
  save_adapter(tmp_path / "adapter", backbone, 1)
  assert folders.find(backbone) == [str(backbone)]
  assert folders.find(tmp_path / "adapter") == [str(tmp_path / "adapter")]
  assert folders.find("tiny_coda") == ["tiny_coda"]


def test_a_folder_is_its_checkpoints_in_natural_order(tmp_path, backbone):
  for name in ("step_1000", "step_900", "a10", "a9"):
    save_adapter(tmp_path / "all" / name, backbone, 1)
  (tmp_path / "all" / "checkpoints" / "7").mkdir(parents=True)
  (tmp_path / "all" / "metrics.jsonl").write_text("{}")
  found = [path.rsplit("/", 1)[1] for path in folders.find(tmp_path / "all")]
  assert found == ["a9", "a10", "step_900", "step_1000"]


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_nothing_there(tmp_path, name):
  (tmp_path / "empty" / "inner").mkdir(parents=True)
  with pytest.raises(
    FileNotFoundError, match=f"no checkpoint found in .*{name}"
  ):
    folders.find(tmp_path / name)


def test_models_and_adapters_are_loaded_in_turn(tmp_path, backbone):
  saved = [
    save_adapter(tmp_path / str(seed), backbone, seed) for seed in (1, 2)
  ]
  paths = [str(tmp_path / "1"), str(backbone), str(tmp_path / "2")]
  loaded = list(folders.load_each(paths, backbone))
  assert [path for path, _, _ in loaded] == paths
  assert loaded[1][1].config.coda is None
  batch = testing.token_batch(48)
  for (model, params), (_, found, found_params) in zip(
    saved, loaded[::2], strict=True
  ):
    assert found.config == model.config
    np.testing.assert_array_equal(
      found.apply({"params": found_params}, **batch, enable_dropout=False),
      model.apply({"params": params}, **batch, enable_dropout=False),
    )
  # One backbone in memory.
  first, second = (
    params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
    for _, _, params in loaded[::2]
  )
  assert first is second


def test_an_adapter_of_another_backbone(tmp_path, backbone):
  save_adapter(tmp_path / "a", backbone, 1)
  model = coda_jax.Transformer(testing.tiny_config())
  other = testing.random_params(model, seed=5)
  model_folder.save_model(tmp_path / "other", model.config, other)
  with pytest.raises(ValueError, match="trained on another backbone"):
    list(folders.load_each([str(tmp_path / "a")], tmp_path / "other"))


def test_an_adapter_alone(tmp_path, backbone):
  save_adapter(tmp_path / "a", backbone, 1)
  with pytest.raises(ValueError, match="set INITIAL_CHECKPOINT_PATH"):
    folders.check([str(tmp_path / "a")], None)


def cut_weights(folder):
  file = folder / "adapter_model.safetensors"
  file.write_bytes(file.read_bytes()[:-10])


def cut_config(folder):
  (folder / "adapter_config.json").write_text('{"format": "coda_jax", "co')


def foreign_config(folder):
  (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (cut_weights, "b/adapter_model.safetensors is incomplete"),
    (cut_config, "b/adapter_config.json is not valid JSON"),
    (foreign_config, "b/adapter_config.json has peft_type 'LORA'"),
  ],
)
def test_damage_is_found_before_anything_is_loaded(
  tmp_path, backbone, damage, message
):
  for name in ("a", "b"):
    save_adapter(tmp_path / "all" / name, backbone, 1)
  damage(tmp_path / "all" / "b")
  paths = folders.find(tmp_path / "all")
  with pytest.raises(ValueError, match=message):
    next(folders.load_each(paths, backbone))


def test_a_damaged_model_in_a_folder_is_not_passed_over(tmp_path, backbone):
  (backbone / "config.json").write_text("{")
  assert folders.find(tmp_path) == [str(backbone)]
  with pytest.raises(ValueError, match=r"config.json is not valid JSON"):
    folders.check([str(backbone)], None)


def test_an_adapter_that_names_its_model_is_a_model(tmp_path, backbone):
  model, params = save_adapter(tmp_path / "unnamed", backbone, 1)
  coda_jax.save_adapter(
    tmp_path / "named", model, params, base_model=str(backbone)
  )
  loaded = coda_jax.load_pretrained(tmp_path / "named")
  ((_, *in_turn),) = folders.load_each([tmp_path / "named"], None)
  for found, found_params in (loaded, in_turn):
    assert found.config == model.config
    jax.tree.map(np.testing.assert_array_equal, found_params, params)
  config, leaves = folders.read(tmp_path / "named", None)
  assert config == folders.read_config(tmp_path / "named", None)
  assert config == formats.read_config(tmp_path / "named") == model.config
  assert leaves.keys() == params_lib.flatten(params).keys()
  # An adapter may stand on what another one names.
  coda_jax.save_adapter(
    tmp_path / "next", model, params, base_model=tmp_path / "named"
  )
  jax.tree.map(
    np.testing.assert_array_equal,
    coda_jax.load_pretrained(tmp_path / "next")[1],
    params,
  )
  with pytest.raises(FileNotFoundError, match="does not name its model"):
    coda_jax.load_pretrained(tmp_path / "unnamed")
  backbone.rename(tmp_path / "elsewhere")
  with pytest.raises(
    FileNotFoundError, match=r"named is an adapter of '.*', which is not there"
  ):
    coda_jax.load_pretrained(tmp_path / "named")


def test_another_model_in_the_place_of_the_named_one(tmp_path, backbone):
  model, params = save_adapter(tmp_path / "old", backbone, 1)
  coda_jax.save_adapter(
    tmp_path / "named", model, params, base_model=str(backbone)
  )
  _, params = coda_jax.load_pretrained(backbone)
  params["token_embedder"]["embedding"] += 1
  config = testing.tiny_config()
  model_folder.save_model(backbone, config, params)
  with pytest.raises(ValueError, match="was trained on another backbone"):
    coda_jax.load_pretrained(tmp_path / "named")
