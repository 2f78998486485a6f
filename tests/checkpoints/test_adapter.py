import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import coda_jax
from coda_jax import backbones, initialise, testing
from coda_jax import params as params_lib
from coda_jax.checkpoints import assemble
from coda_jax.checkpoints.leaves import leaves_of

CODA = coda_jax.CodaConfig(reduction=3, bottleneck_dim=4)


def backbone():
  model = coda_jax.Transformer(testing.tiny_config())
  return model, initialise.init_params(model, jax.random.key(0))


def trained_on(params):
  """A CoDA model on the backbone `params`, its task leaves all moved."""
  model = coda_jax.Transformer(testing.tiny_config(coda=CODA))
  leaves = leaves_of(params)
  key = jax.random.key(1)
  params = assemble.from_leaves(model, leaves, key, "backbone")
  trained, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  trained = jax.tree.map(lambda x: x + 0.25, trained)
  return model, params_lib.merge(trained, frozen)


def logits(model, params):
  batch = testing.token_batch(model.config.vocab_size)
  return model.apply({"params": params}, **batch, enable_dropout=False)


def test_an_adapter_turns_its_backbone_into_the_trained_model(tmp_path):
  dense, dense_params = backbone()
  model, params = trained_on(dense_params)
  coda_jax.save_adapter(tmp_path, model, params)
  loaded, loaded_params = coda_jax.load_adapter(tmp_path, dense, dense_params)
  assert loaded.config == model.config
  np.testing.assert_array_equal(
    logits(loaded, loaded_params), logits(model, params)
  )


def test_a_head_comes_with_its_adapter(tmp_path):
  def bert(**fields):
    return backbones.build(testing.tiny_bert_config(**fields))

  plain = bert()
  model = bert(
    coda=CODA, head="classification", num_labels=2, labels=("no", "yes")
  )
  params = testing.random_params(model)
  leaves = params_lib.flatten(params)
  frozen = params_lib.unflatten(
    {p: x for p, x in leaves.items() if not params_lib.is_added(p)}
  )
  coda_jax.save_adapter(tmp_path, model, params)
  # Also on a backbone with a head of another task.
  other = bert(head="classification", num_labels=3)
  for base, its in ((plain, frozen), (other, params)):
    loaded, found = coda_jax.load_adapter(tmp_path, base, its)
    assert loaded.config == model.config
    found = params_lib.flatten(found)
    assert found.keys() == leaves.keys()
    for path, leaf in leaves.items():
      np.testing.assert_array_equal(found[path], leaf)
  # An adapter without a head, such as an older one, brings none.
  without = bert(coda=CODA)
  theirs = {p: x for p, x in leaves.items() if "/head/" not in p}
  coda_jax.save_adapter(tmp_path, without, params_lib.unflatten(theirs))
  file = tmp_path / "adapter_config.json"
  assert "head" not in json.loads(file.read_text())
  loaded, _ = coda_jax.load_adapter(tmp_path, other, params)
  assert loaded.config == without.config


def test_a_damaged_head_is_named(tmp_path):
  model = backbones.build(
    testing.tiny_bert_config(coda=CODA, head="classification", num_labels=2)
  )
  params = testing.random_params(model)
  coda_jax.save_adapter(tmp_path, model, params)
  file = tmp_path / "adapter_config.json"
  fields = json.loads(file.read_text())
  fields["head"]["num_labels"] = 0
  file.write_text(json.dumps(fields))
  with pytest.raises(ValueError, match="adapter_config.json: .*num_labels=0"):
    coda_jax.load_adapter(tmp_path, model, params)


def test_the_folder_holds_only_what_was_trained(tmp_path):
  _, dense_params = backbone()
  model, params = trained_on(dense_params)
  coda_jax.save_adapter(tmp_path, model, params)
  leaves = safetensors_numpy.load_file(tmp_path / "adapter_model.safetensors")
  expected = {
    path: leaf
    for path, leaf in params_lib.flatten(params).items()
    if "/adapter/" in path or "/router/" in path or "_norm/" in path
  }
  assert leaves.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(leaves[path], leaf)
  fields = json.loads((tmp_path / "adapter_config.json").read_text())
  assert fields["coda"]["reduction"] == 3


def test_the_adapter_says_how_it_routes(tmp_path):
  _, dense_params = backbone()
  model, params = trained_on(dense_params)
  coda_jax.save_adapter(tmp_path, model, params)
  coda = dataclasses.replace(CODA, reduction=2, epsilon=1.0)
  other = coda_jax.Transformer(testing.tiny_config(coda=coda))
  loaded, _ = coda_jax.load_adapter(tmp_path, other, params)
  assert loaded.config == model.config


def test_another_backbone_is_refused(tmp_path):
  dense, dense_params = backbone()
  coda_jax.save_adapter(tmp_path, *trained_on(dense_params))
  kernel = dense_params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
  dense_params["encoder"]["layers_0"]["mlp"]["wo"]["kernel"] = kernel * 2
  with pytest.raises(ValueError, match="another backbone"):
    coda_jax.load_adapter(tmp_path, dense, dense_params)


def test_a_backbone_stored_in_bfloat16_is_the_same(tmp_path):
  dense, dense_params = backbone()
  coda_jax.save_adapter(tmp_path, *trained_on(dense_params))
  rounded = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), dense_params
  )
  coda_jax.load_adapter(tmp_path, dense, rounded)


def test_leaves_that_do_not_fit_are_named(tmp_path):
  dense, dense_params = backbone()
  coda_jax.save_adapter(tmp_path, *trained_on(dense_params))
  config = json.loads((tmp_path / "adapter_config.json").read_text())
  config["coda"]["bottleneck_dim"] = 8
  (tmp_path / "adapter_config.json").write_text(json.dumps(config))
  with pytest.raises(
    ValueError, match=r"adapter/down/kernel: \(16, 4\) in the file, \(16, 8\)"
  ):
    coda_jax.load_adapter(tmp_path, dense, dense_params)


def test_a_flipped_bit_is_named(tmp_path):
  dense, dense_params = backbone()
  coda_jax.save_adapter(tmp_path, *trained_on(dense_params))
  file = tmp_path / "adapter_model.safetensors"
  data = bytearray(file.read_bytes())
  data[-1] ^= 1
  file.write_bytes(data)
  damaged = r"adapter_model\.safetensors: encoder/.* is damaged: .*again"
  with pytest.raises(ValueError, match=damaged):
    coda_jax.load_adapter(tmp_path, dense, dense_params)
  with pytest.raises(ValueError, match=damaged):
    coda_jax.load_bank(dense, dense_params, {"a": tmp_path})


def test_a_plain_t5_has_no_adapter(tmp_path):
  with pytest.raises(ValueError, match=r"T5Config\.coda is None"):
    coda_jax.save_adapter(tmp_path, *backbone())


def test_a_missing_folder_says_what_was_expected(tmp_path):
  with pytest.raises(FileNotFoundError, match="expected an adapter folder"):
    coda_jax.load_adapter(tmp_path / "nowhere", *backbone())
