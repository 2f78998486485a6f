"""What a user may hand in by mistake: one message that names it, exit code 2.

Through `python -m coda_jax.inspect`'s main, where a traceback would show.
"""

import functools
import json
import shutil
import struct

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import coda_jax
from coda_jax import CodaConfig, Transformer, convert, inspect, testing
from coda_jax.checkpoints import hf, model_folder, t5x
from coda_jax.checkpoints.leaves import leaves_of


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
  """A folder of each kind, to be copied and damaged."""
  root = tmp_path_factory.mktemp("sources")
  model = Transformer(testing.tiny_config(dropout_rate=0.1))
  params = testing.random_params(model)
  leaves = leaves_of(params)
  model_folder.save_model(root / "ours", model.config, params)
  hf.write(root / "hf", model.config, leaves)
  hf.write(root / "sharded", model.config, leaves, shard_bytes=4000)
  t5x.write(root / "orbax", leaves)
  t5x.write(root / "msgpack", leaves, layout="msgpack")
  coda = Transformer(testing.tiny_config(coda=CodaConfig(bottleneck_dim=4)))
  params = testing.random_params(coda)
  coda_jax.save_adapter(root / "adapter", coda, params)
  return root


def edit(file, **changes):
  """Sets values of a JSON file; None takes one out."""

  def change(folder):
    fields = json.loads((folder / file).read_text())
    fields.update(changes)
    kept = {k: v for k, v in fields.items() if v is not REMOVED}
    (folder / file).write_text(json.dumps(kept))

  return change


def rewrite(file, content):
  return lambda folder: (folder / file).write_bytes(content)


def cut(file, size):
  def change(folder):
    # All of them: tensorstore need not use every file that it wrote.
    for path in folder.glob(file):
      path.write_bytes(path.read_bytes()[:size])

  return change


def flip(file, bit=0):
  """Flips one bit in the middle of a file, after its header."""

  def change(folder):
    path = folder / file
    data = bytearray(path.read_bytes())
    (header,) = struct.unpack("<Q", data[:8])
    data[(8 + header + len(data)) // 2] ^= 1 << bit
    path.write_bytes(data)

  return change


def retype(name, dtype):
  def change(folder):
    leaves = safetensors_numpy.load_file(folder / hf.WEIGHTS_FILE)
    leaves[name] = leaves[name].astype(dtype)
    safetensors_numpy.save_file(leaves, folder / hf.WEIGHTS_FILE)

  return change


def drop(name):
  def change(folder):
    leaves = safetensors_numpy.load_file(folder / hf.WEIGHTS_FILE)
    del leaves[name]
    safetensors_numpy.save_file(leaves, folder / hf.WEIGHTS_FILE)

  return change


def edit_part(file, part, **changes):
  def change(folder):
    fields = json.loads((folder / file).read_text())
    fields[part].update(changes)
    (folder / file).write_text(json.dumps(fields))

  return change


edit_t5 = functools.partial(edit_part, "config.json", "t5")
edit_coda = functools.partial(edit_part, "adapter_config.json", "coda")


def add_tensor(name, array):
  def change(folder):
    leaves = safetensors_numpy.load_file(folder / hf.WEIGHTS_FILE)
    leaves[name] = array
    safetensors_numpy.save_file(leaves, folder / hf.WEIGHTS_FILE)

  return change


def beside(other, *files):
  """Puts files of another source into the folder."""

  def change(folder):
    for file in files:
      source = folder.parent / "sources" / other / file
      if source.is_dir():
        shutil.copytree(source, folder / file)
      else:
        shutil.copyfile(source, folder / file)

  return change


REMOVED = object()
INDEX = hf.INDEX_FILE
CASES = {
  # Hugging Face's configuration.
  "text": ("hf", edit("config.json", num_heads="3"), "num_heads='3'"),
  "null": ("hf", edit("config.json", num_heads=None), "num_heads=None"),
  "float": ("hf", edit("config.json", d_model=16.0), "emb_dim=16.0"),
  "zero": ("hf", edit("config.json", d_kv=0), "head_dim=0"),
  "negative": ("hf", edit("config.json", vocab_size=-1), "vocab_size=-1"),
  "digits": (
    "hf",
    rewrite("config.json", b'{"a": ' + b"9" * 5000 + b"}"),
    "not valid JSON",
  ),
  "deep": ("hf", rewrite("config.json", b"[" * 100_000), "is not valid JSON"),
  "no flag": (
    "hf",
    edit("config.json", scale_decoder_outputs="false"),
    "true or",
  ),
  "lost logits": ("hf", drop("lm_head.weight"), "no lm_head.weight"),
  "lost leaf": (
    "hf",
    drop("encoder.final_layer_norm.weight"),
    "encoder/encoder_norm/scale: not in the file",
  ),
  "no depth": ("hf", edit("config.json", num_decoder_layers=0), "layers=0"),
  "list": ("hf", edit("config.json", feed_forward_proj=["relu"]), "['relu']"),
  "absent": ("hf", edit("config.json", d_ff=REMOVED), "lacks d_ff"),
  "dropout": ("hf", edit("config.json", dropout_rate="x"), "config.json: "),
  "no object": ("hf", rewrite("config.json", b"[]"), "expected a JSON object"),
  "no json": ("hf", rewrite("config.json", b"{"), "is not valid JSON"),
  "both kinds": ("hf", edit("config.json", format="coda_jax"), "'model_type'"),
  # safetensors.
  "empty": ("hf", rewrite("model.safetensors", b""), "is incomplete"),
  "header": (
    "hf",
    rewrite("model.safetensors", b"\x10" + bytes(7) + b"{" * 16),
    "is incomplete",
  ),
  "header size": (
    "hf",
    rewrite("model.safetensors", b"\xff" * 16),
    "incomplete",
  ),
  "half": ("hf", cut("model.safetensors", 4000), "is incomplete"),
  "integers": ("hf", retype("shared.weight", np.int32), "has dtype int32"),
  "extra": ("hf", add_tensor("x.weight", np.ones(2, "f")), "x.weight"),
  "other copy": (
    "hf",
    add_tensor("encoder.embed_tokens.weight", np.ones((2, 2), "f")),
    "encoder.embed_tokens.weight differs from shared.weight",
  ),
  # Shards.
  "map null": ("sharded", edit(INDEX, weight_map=None), "has no weight_map"),
  "map list": ("sharded", edit(INDEX, weight_map=["a"]), "has no weight_map"),
  "map values": (
    "sharded",
    edit(INDEX, weight_map={"shared.weight": 3}),
    "should map tensors",
  ),
  "index cut": ("sharded", cut(INDEX, 100), "is not valid JSON"),
  "shard cut": ("sharded", cut("model-00002-of-*", 300), "model-00002-of"),
  "single and index": (
    "sharded",
    beside("hf", "model.safetensors"),
    "has both",
  ),
  # Ours.
  "no t5": (
    "ours",
    edit("config.json", t5=REMOVED),
    "expected one of ('t5', 'bert')",
  ),
  "t5 text": ("ours", edit("config.json", t5="x"), "config.json: "),
  "t5 unknown": ("ours", edit("config.json", t5={"coda": None, "a": 1}), "'a'"),
  "t5 bare": ("ours", edit("config.json", t5={}), "lacks 'coda'"),
  "activations": (
    "ours",
    edit_t5(mlp_activations="relu"),
    "mlp_activations=relu",
  ),
  "low bit": ("ours", flip("model.safetensors"), "is damaged: its checksum"),
  "high bit": ("ours", flip("model.safetensors", 7), "safetensors: encoder/"),
  "lost norm": ("ours", drop("encoder/encoder_norm/scale"), "not in the file"),
  # Adapters.
  "fraction": ("adapter", edit_coda(bottleneck_dim=4.5), "bottleneck_dim=4.5"),
  "infinity": (
    "adapter",
    edit_coda(layer_reductions=[[float("inf"), 2]]),
    "layer_reductions: layer=inf",
  ),
  "twice": (
    "adapter",
    edit_coda(layer_reductions=[[0, 2], [0, 3]]),
    "names a layer twice",
  ),
  "alpha": (
    "adapter",
    edit_coda(lora={"rank": 2, "alpha": "x", "targets": []}),
    "alpha='x'",
  ),
  "peft": (
    "adapter",
    edit("adapter_config.json", peft_type="LORA"),
    "has peft_type 'LORA'",
  ),
  "no coda": ("adapter", edit("adapter_config.json", coda=REMOVED), "'coda'"),
  "coda list": ("adapter", edit("adapter_config.json", coda=[1]), "_config"),
  "no lora": ("adapter", edit("adapter_config.json", coda={}), "lacks 'lora'"),
  "no backbone": (
    "adapter",
    edit("adapter_config.json", backbone=REMOVED),
    "lacks 'backbone'",
  ),
  "adapter bit": (
    "adapter",
    flip("adapter_model.safetensors"),
    "get the file again, or make it again",
  ),
  "backbone": (
    "adapter",
    edit("adapter_config.json", backbone=3),
    "backbone is 3",
  ),
  # t5x's.
  "metadata cut": (
    "orbax",
    cut("state/_METADATA", 50),
    "_METADATA is not valid JSON",
  ),
  "metadata list": ("orbax", rewrite("state/_METADATA", b"[]"), "_METADATA"),
  "metadata bare": (
    "orbax",
    rewrite("state/_METADATA", b"{}"),
    "_METADATA lacks 'tree_metadata'",
  ),
  "orbax data": ("orbax", cut("state/d/*", 10), "is damaged or incomplete"),
  "orbax manifest": (
    "orbax",
    cut("state/manifest.ocdbt", 10),
    "is damaged or incomplete",
  ),
  "msgpack no map": ("msgpack", rewrite("checkpoint", b"\x01"), "checkpoint"),
  "zarr cut": (
    "msgpack",
    cut("target.encoder.layers_0.mlp.wo.kernel/0.0", 20),
    "layers_0.mlp.wo.kernel is damaged",
  ),
  # Several at once.
  "hf and t5x": (
    "orbax",
    beside("hf", "config.json", "model.safetensors"),
    "hf and t5x",
  ),
  "both layouts": (
    "orbax",
    beside("msgpack", "checkpoint"),
    "contains more than one checkpoint",
  ),
  "adapter and model": (
    "adapter",
    beside("ours", "config.json", "model.safetensors"),
    "coda_jax and adapter",
  ),
  "adapter and t5x": (
    "adapter",
    beside("msgpack", "checkpoint"),
    "t5x and adapter",
  ),
  "ours and an index": (
    "ours",
    beside("sharded", INDEX),
    "coda_jax and hf",
  ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named(tmp_path, capsys, sources, case):
  name, damage, message = CASES[case]
  (tmp_path / "sources").symlink_to(sources)
  folder = tmp_path / "folder"
  shutil.copytree(sources / name, folder)
  assert inspect.main([str(folder)]) == 0
  capsys.readouterr()
  damage(folder)
  assert inspect.main([str(folder)]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert str(folder) in error
  if name == "adapter":
    return
  target = tmp_path / "target"
  assert convert.main([str(folder), str(target), "--to", "coda_jax"]) == 2
  assert not target.exists()
  assert not list(tmp_path.glob(".target*"))


def with_kernel(sources, folder, change):
  """A copy whose `checkpoint` says something else of one kernel."""
  from flax import serialization

  shutil.copytree(sources / "msgpack", folder)
  file = folder / "checkpoint"
  tree = serialization.msgpack_restore(file.read_bytes())
  kernel = tree["optimizer"]["target"]["encoder"]["layers_0"]["mlp"]["wo"]
  kernel["kernel"] = change(kernel["kernel"])
  file.write_bytes(serialization.msgpack_serialize(tree))


@pytest.mark.parametrize(
  "spec",
  ["text", {"driver": "zarr"}, {"driver": "zarr", "kvstore": {}}, None],
)
def test_a_strange_place_of_an_array(tmp_path, capsys, sources, spec):
  folder = tmp_path / "folder"
  with_kernel(sources, folder, lambda _: spec)
  assert inspect.main([str(folder)]) == 2
  assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize("name", ["..", "../../x", "a/b"])
def test_an_array_outside_the_folder(tmp_path, capsys, sources, name):
  folder = tmp_path / "folder"
  kvstore = {"driver": "file", "path": name}
  with_kernel(sources, folder, lambda spec: {**spec, "kvstore": kvstore})
  assert inspect.main([str(folder)]) == 2
  assert "expected a folder next to the file" in capsys.readouterr().err


def test_weights_of_another_adapter_bring_their_own_backbone(tmp_path):
  """A file that was swapped does not pass for one of this backbone."""
  model = Transformer(testing.tiny_config(coda=CodaConfig(bottleneck_dim=4)))
  params = testing.random_params(model)
  other = jax.tree.map(lambda x: x * 2, params)
  coda_jax.save_adapter(tmp_path / "a", model, params)
  coda_jax.save_adapter(tmp_path / "b", model, other)
  weights = "adapter_model.safetensors"
  shutil.copyfile(tmp_path / "b" / weights, tmp_path / "a" / weights)
  with (
    pytest.warns(UserWarning, match="a save was interrupted"),
    pytest.raises(ValueError, match="another backbone"),
  ):
    coda_jax.load_adapter(tmp_path / "a", model, params)


def contents(folder):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("held", ["ours", "hf", "orbax", "msgpack", "adapter"])
def test_a_save_beside_another_kind_is_refused(tmp_path, sources, held):
  folder = tmp_path / "folder"
  shutil.copytree(sources / held, folder)
  before = contents(folder)
  coda = Transformer(testing.tiny_config(coda=CodaConfig(bottleneck_dim=4)))
  params = testing.random_params(coda)
  saves = {
    "adapter": lambda: coda_jax.save_adapter(folder, coda, params),
    "ours": lambda: model_folder.save_model(folder, coda.config, params),
    "orbax": lambda: t5x.write(folder, leaves_of(params)),
    "hf": lambda: hf.write(folder, coda.config, leaves_of(params)),
  }
  for kind, save in saves.items():
    if kind != held or kind in ("orbax", "hf"):
      with pytest.raises(FileExistsError, match=str(folder)):
        save()
  assert contents(folder) == before


def test_parameters_of_another_model_are_not_saved(tmp_path):
  """An adapter that is there is not replaced by half of one."""
  dense = Transformer(testing.tiny_config())
  coda = Transformer(testing.tiny_config(coda=CodaConfig(bottleneck_dim=4)))
  params = testing.random_params(dense)
  with pytest.raises(ValueError, match="adapter/down/kernel: not in the file"):
    coda_jax.save_adapter(tmp_path / "a", coda, params)
  with pytest.raises(ValueError, match="adapter/down/kernel: not in the file"):
    model_folder.save_model(tmp_path / "b", coda.config, params)
  assert not list(tmp_path.iterdir())
