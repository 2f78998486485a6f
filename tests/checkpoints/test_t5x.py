"""t5x's layouts: read back here, and by orbax itself."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from orbax import checkpoint as ocp

from coda_jax import load_pretrained, testing
from coda_jax import params as params_lib
from coda_jax.checkpoints import arrays, t5x
from coda_jax.checkpoints.leaves import leaf_of
from coda_jax.t5.network import Transformer

CONFIGS = {
  "v1.0": {"mlp_activations": ("relu",), "logits_via_embedding": True},
  "v1.1": {"mlp_activations": ("gelu", "linear")},
}


def random_leaves(name="v1.1"):
  # A t5x checkpoint does not tell its dropout rate: T5's is assumed.
  config = testing.tiny_config(**CONFIGS[name], dropout_rate=0.1)
  return config, params_lib.flatten(testing.random_params(Transformer(config)))


def write(folder, leaves, **options):
  t5x.write(folder, {p: leaf_of(x) for p, x in leaves.items()}, **options)


def assert_loads(folder, config, expected):
  model, params = load_pretrained(folder)
  assert model.config == config
  leaves = params_lib.flatten(params)
  assert leaves.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(leaves[path], leaf, err_msg=path)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layout", t5x.LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_written_comes_back(tmp_path, name, layout, dtype):
  config, leaves = random_leaves(name)
  leaves = {p: jnp.asarray(x, dtype) for p, x in leaves.items()}
  write(tmp_path / "checkpoint_7", leaves, layout=layout, step=7)
  assert t5x.find_layout(tmp_path / "checkpoint_7") == layout
  expected = {p: np.asarray(x, np.float32) for p, x in leaves.items()}
  assert_loads(tmp_path / "checkpoint_7", config, expected)


def test_orbax_reads_what_was_written(tmp_path):
  _, leaves = random_leaves()
  write(tmp_path / "checkpoint_7", leaves, step=7)
  restored = ocp.PyTreeCheckpointer().restore(tmp_path / "checkpoint_7/state")
  assert restored["state"]["step"] == 7
  found = params_lib.flatten(restored["target"])
  assert found.keys() == leaves.keys()
  for path, leaf in leaves.items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_what_orbax_wrote_is_read(tmp_path):
  config, leaves = random_leaves()
  ocp.PyTreeCheckpointer().save(
    tmp_path / "checkpoint_7/state",
    {"target": params_lib.unflatten(leaves), "state": {"step": np.int32(7)}},
  )
  assert_loads(tmp_path / "checkpoint_7", config, leaves)


def scanned(config, leaves):
  """The tree of t5x's scalable network: layers of a stack on axis 1."""
  tree = {}
  for path, leaf in leaves.items():
    parts = path.split("/")
    if len(parts) < 3 or parts[1] == f"{parts[0]}_norm":
      tree[path] = leaf
    elif parts[1] == "relpos_bias":
      depth = getattr(config, f"num_{parts[0]}_layers")
      tree[f"{parts[0]}/{path}"] = np.stack([leaf] * depth, 1)
    elif parts[1] == "layers_0":
      stack = [
        np.asarray(leaves[f"{parts[0]}/layers_{i}/{'/'.join(parts[2:])}"])
        for i in range(getattr(config, f"num_{parts[0]}_layers"))
      ]
      if "attention" in parts[2] and parts[-1] == "kernel":
        heads = (config.num_heads, config.head_dim)
        stack = [
          x.reshape(*heads, -1) if parts[3] == "out" else x.reshape(-1, *heads)
          for x in stack
        ]
      rest = "/".join(parts[2:])
      tree[f"{parts[0]}/{parts[0]}/{rest}"] = np.stack(stack, axis=1)
    elif not parts[1].startswith("layers_"):
      tree[path] = leaf
  return tree


@pytest.mark.parametrize("layout", t5x.LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scanned_layers_are_taken_apart(tmp_path, layout, dtype):
  config, leaves = random_leaves()
  leaves = {p: np.asarray(x).astype(dtype) for p, x in leaves.items()}
  tree = scanned(config, leaves)
  write(tmp_path / "checkpoint_7", tree, layout=layout)
  expected = {p: x.astype(np.float32) for p, x in leaves.items()}
  assert_loads(tmp_path / "checkpoint_7", config, expected)


def test_a_layer_of_a_stack_is_read_alone(tmp_path, monkeypatch):
  config, leaves = random_leaves()
  write(tmp_path / "checkpoint_7", scanned(config, leaves))
  _, found = t5x.read(tmp_path / "checkpoint_7")
  sizes = []
  monkeypatch.setattr(arrays.np, "asarray", lambda x: sizes.append(x.size))
  found["encoder/layers_1/pre_mlp_layer_norm/scale"].read()
  assert sizes == [config.emb_dim]


def test_a_stack_without_layers(tmp_path):
  config, leaves = random_leaves()
  tree = scanned(config, leaves)
  tree["encoder/encoder/pre_mlp_layer_norm/scale"] = np.ones(3, np.float32)
  write(tmp_path / "checkpoint_7", tree)
  with pytest.raises(ValueError, match="expected layers on axis 1"):
    load_pretrained(tmp_path / "checkpoint_7")


@pytest.mark.parametrize("layout", t5x.LAYOUTS)
def test_zeros_are_written_so_that_what_is_missing_got_lost(tmp_path, layout):
  config, leaves = random_leaves()
  path = "encoder/layers_0/mlp/wo/kernel"
  leaves[path] = np.zeros_like(leaves[path])
  write(tmp_path / "checkpoint_7", leaves, layout=layout)
  assert_loads(tmp_path / "checkpoint_7", config, leaves)


def test_a_chunk_that_is_missing_is_not_zeros(tmp_path):
  _, leaves = random_leaves()
  write(tmp_path / "checkpoint_7", leaves, layout="msgpack")
  name = "target.encoder.layers_0.mlp.wo.kernel"
  (tmp_path / "checkpoint_7" / name / "0.0").unlink()
  with pytest.raises(ValueError, match=f"{name} is damaged or incomplete"):
    load_pretrained(tmp_path / "checkpoint_7")


def test_arrays_of_orbax_in_files_stay_in_their_folder(tmp_path):
  config, leaves = random_leaves()
  state = tmp_path / "checkpoint_7/state"
  tree = {"target": params_lib.unflatten(leaves)}
  handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
  with ocp.Checkpointer(handler) as checkpointer:
    checkpointer.save(state, args=ocp.args.PyTreeSave(tree))
  assert_loads(tmp_path / "checkpoint_7", config, leaves)
  text = (state / "_METADATA").read_text()
  (state / "_METADATA").write_text(text.replace('"mlp"', '"../mlp"'))
  with pytest.raises(ValueError, match=r"_METADATA names an array .*\.\./mlp"):
    load_pretrained(tmp_path / "checkpoint_7")


def test_scanned_position_biases_that_differ_are_a_umt5s(tmp_path):
  config, leaves = random_leaves()
  tree = scanned(config, leaves)
  factors = np.arange(1, 1 + config.num_encoder_layers, dtype=np.float32)
  for stack in ("encoder", "decoder"):
    path = f"{stack}/{stack}/relpos_bias/rel_embedding"
    tree[path] = tree[path] * factors[None, : tree[path].shape[1], None]
    table = leaves.pop(f"{stack}/relpos_bias/rel_embedding")
    for i in range(tree[path].shape[1]):
      name = f"{stack}/layers_{i}/relpos_bias/rel_embedding"
      leaves[name] = table * factors[i]
  write(tmp_path / "checkpoint_7", tree)
  config = dataclasses.replace(config, relpos_bias_per_layer=True)
  assert_loads(tmp_path / "checkpoint_7", config, leaves)


def test_bad_folders(tmp_path):
  _, leaves = random_leaves()
  write(tmp_path / "checkpoint_7", leaves, layout="msgpack")
  with pytest.raises(FileNotFoundError, match="did you mean.*checkpoint_7"):
    load_pretrained(tmp_path)
  whole = (tmp_path / "checkpoint_7/checkpoint").read_bytes()
  (tmp_path / "checkpoint_7/checkpoint").write_bytes(whole[:-50])
  with pytest.raises(ValueError, match="checkpoint is incomplete"):
    load_pretrained(tmp_path / "checkpoint_7")
  (tmp_path / "checkpoint_7/checkpoint").write_bytes(whole)
  (tmp_path / "checkpoint_7/config.json").write_text(
    json.dumps({"model_type": "t5"})
  )
  with pytest.raises(ValueError, match="more than one checkpoint"):
    load_pretrained(tmp_path / "checkpoint_7")
