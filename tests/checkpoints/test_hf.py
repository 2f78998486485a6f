"""Hugging Face folders, without torch: names, shards, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from coda_jax import convert, load_pretrained, testing
from coda_jax import params as params_lib
from coda_jax.checkpoints import hf
from coda_jax.checkpoints.leaves import leaf_of, leaves_of
from coda_jax.t5 import hf_names
from coda_jax.t5.network import Transformer

CONFIGS = {
  "v1.0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
  "v1.1": {"mlp_activations": ("gelu", "linear")},
  "umt5": {"relpos_bias_per_layer": True},
  "umt5, tied": {"relpos_bias_per_layer": True, "logits_via_embedding": True},
}


def written(folder, name="v1.1", **options):
  """A folder of random weights, and the tree that it was written from."""
  model = Transformer(testing.tiny_config(**CONFIGS[name]))
  params = testing.random_params(model)
  hf.write(folder, model.config, leaves_of(params), **options)
  return model, params_lib.flatten(params)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shard_bytes", [hf.SHARD_BYTES, 4000])
def test_what_was_written_comes_back(tmp_path, name, shard_bytes):
  model, expected = written(tmp_path, name, shard_bytes=shard_bytes)
  assert (tmp_path / hf.INDEX_FILE).exists() == (shard_bytes == 4000)
  loaded, params = load_pretrained(tmp_path)
  assert loaded.config == model.config
  leaves = params_lib.flatten(params)
  assert leaves.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)
  # Or transformers 4 would take the embedding for the logits.
  fields = json.loads((tmp_path / "config.json").read_text())
  assert fields["tie_word_embeddings"] == model.config.logits_via_embedding


def test_names_by_hand():
  for name, path in {
    "shared.weight": "token_embedder/embedding",
    "encoder.block.3.layer.0.SelfAttention.q.weight": (
      "encoder/layers_3/attention/query/kernel"
    ),
    "decoder.block.11.layer.1.EncDecAttention.o.weight": (
      "decoder/layers_11/encoder_decoder_attention/out/kernel"
    ),
    "decoder.block.0.layer.2.DenseReluDense.wi_1.weight": (
      "decoder/layers_0/mlp/wi_1/kernel"
    ),
    "decoder.block.2.layer.2.layer_norm.weight": (
      "decoder/layers_2/pre_mlp_layer_norm/scale"
    ),
    "encoder.final_layer_norm.weight": "encoder/encoder_norm/scale",
  }.items():
    for per_layer in (False, True):
      assert hf_names.to_path(name, per_layer)[0] == path
    assert hf_names.to_name(path)[0] == name


@pytest.mark.parametrize(
  ("name", "stack", "layer"),
  [
    ("encoder.block.0", "encoder", "encoder/layers_0"),
    ("decoder.block.7", None, "decoder/layers_7"),
  ],
)
def test_names_of_position_biases_by_hand(name, stack, layer):
  name += ".layer.0.SelfAttention.relative_attention_bias.weight"
  for per_layer, place in ((False, stack), (True, layer)):
    path = place and f"{place}/relpos_bias/rel_embedding"
    assert hf_names.to_path(name, per_layer)[0] == path
    if path:
      assert hf_names.to_name(path) == (name, True)


def change_json(path, change):
  fields = json.loads(path.read_text())
  change(fields)
  path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "t5gemma"}, "model_type is 't5gemma'; expected one of"),
    (
      {"model_type": "umt5"},
      "layers_1/relpos_bias/rel_embedding: not in the f",
    ),
    ({"relative_attention_num_buckets": 64}, "num_buckets is 64; only 32"),
    ({"feed_forward_proj": "gelu"}, "feed_forward_proj is 'gelu'"),
    ({"num_heads": 7}, r"relpos_bias/rel_embedding: \(3, 32\) in the file"),
  ],
)
def test_other_models_are_refused(tmp_path, change, message):
  written(tmp_path)
  change_json(tmp_path / "config.json", lambda fields: fields.update(change))
  with pytest.raises(ValueError, match=message):
    load_pretrained(tmp_path)


def sharded(folder):
  written(folder, shard_bytes=4000)
  return folder / hf.INDEX_FILE


def test_a_missing_shard_is_named(tmp_path):
  sharded(tmp_path)
  next(tmp_path.glob("model-00001-of-*")).rename(tmp_path / "gone")
  with pytest.raises(
    FileNotFoundError, match="model-00001-of.* does not exist"
  ):
    load_pretrained(tmp_path)


def test_an_index_reaches_nothing_outside_its_folder(tmp_path):
  index = sharded(tmp_path)
  change_json(
    index, lambda x: x["weight_map"].update({"shared.weight": "../x"})
  )
  with pytest.raises(ValueError, match=r"'\.\./x'"):
    load_pretrained(tmp_path)


def test_an_index_that_names_absent_tensors(tmp_path):
  index = sharded(tmp_path)
  change_json(
    index,
    lambda x: x["weight_map"].update(
      {"nothing.weight": x["weight_map"]["shared.weight"]}
    ),
  )
  with pytest.raises(ValueError, match="not in the files.*nothing.weight"):
    load_pretrained(tmp_path)


def test_a_pickle_is_never_opened(tmp_path):
  written(tmp_path)
  (tmp_path / hf.WEIGHTS_FILE).unlink()
  (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
  with pytest.raises(FileNotFoundError, match="pickle.*save_pretrained"):
    load_pretrained(tmp_path)


def test_adapters_have_no_place_in_the_format(tmp_path):
  model, leaves = written(tmp_path / "dense")
  leaves["encoder/layers_0/adapter/up/kernel"] = np.zeros((2, 2), np.float32)
  with pytest.raises(ValueError, match="layers_0/adapter/up/kernel"):
    hf.write(
      tmp_path / "x", model.config, {p: leaf_of(x) for p, x in leaves.items()}
    )
  assert not (tmp_path / "x").exists()


def rewrite(folder, change):
  """Changes {name: tensor} of a folder's weights."""
  path = folder / hf.WEIGHTS_FILE
  found = load_file(path)
  change(found)
  save_file(found, path, metadata={"format": "pt"})


EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@pytest.mark.parametrize("names", [EMBEDDINGS[1:], EMBEDDINGS])
def test_an_embedding_under_another_name(tmp_path, names):
  """As in MADLAD-400, which has no shared.weight."""
  _, expected = written(tmp_path)

  def move(tensors):
    shared = tensors.pop("shared.weight")
    tensors |= {name: shared.copy() for name in names}

  rewrite(tmp_path, move)
  _, params = load_pretrained(tmp_path)
  leaves = params_lib.flatten(params)
  np.testing.assert_array_equal(
    leaves["token_embedder/embedding"], expected["token_embedder/embedding"]
  )
  convert.convert(tmp_path, tmp_path / "back", "hf")
  assert "shared.weight" in load_file(tmp_path / "back" / hf.WEIGHTS_FILE)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_embeddings_that_differ_are_refused(tmp_path, name):
  written(tmp_path)
  rewrite(tmp_path, lambda x: x.update({name: x["shared.weight"] + 1}))
  with pytest.raises(ValueError, match=f"{name} differs from shared.weight"):
    load_pretrained(tmp_path)


def test_no_embedding(tmp_path):
  written(tmp_path)
  rewrite(tmp_path, lambda x: x.pop("shared.weight"))
  with pytest.raises(ValueError, match="has no embedding; expected shared.wei"):
    load_pretrained(tmp_path)


@pytest.mark.parametrize(
  "name",
  [
    "base_model.model.shared.weight",
    "encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight",
  ],
)
def test_a_model_that_peft_wraps(tmp_path, name):
  written(tmp_path)
  rewrite(tmp_path, lambda x: x.update({name: x["shared.weight"]}))
  with pytest.raises(ValueError, match=rf"PEFT wraps \({name}.*merge_and_unl"):
    load_pretrained(tmp_path)


def test_an_adapter_of_peft(tmp_path):
  (tmp_path / "adapter_model.safetensors").write_bytes(b"")
  fields = {"peft_type": "LORA", "base_model_name_or_path": "some/t5"}
  (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
  with pytest.raises(ValueError, match=r"'LORA'.*'some/t5'.*merge_and_unload"):
    load_pretrained(tmp_path)


def test_tied_logits_with_a_matrix_of_their_own(tmp_path):
  """The file wins, with a warning, where transformers 4 would have tied it."""
  _, expected = written(tmp_path)
  config = tmp_path / "config.json"
  change_json(config, lambda x: x.pop("scale_decoder_outputs"))
  change_json(config, lambda x: x.update({"tie_word_embeddings": True}))
  with pytest.warns(UserWarning, match="lm_head.weight differs from shared"):
    model, params = load_pretrained(tmp_path)
  leaves, logits = params_lib.flatten(params), "decoder/logits_dense/kernel"
  np.testing.assert_allclose(
    leaves[logits], expected[logits] * model.config.emb_dim**-0.5, rtol=1e-6
  )
  # transformers 5 writes the same for every model, which is no contradiction.
  change_json(config, lambda x: x.update({"transformers_version": "5.1.0"}))
  load_pretrained(tmp_path)
