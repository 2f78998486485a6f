"""Training on the 8 CPU devices of conftest.py."""

import json

import jax
import numpy as np
import pytest

import coda_jax
from coda_jax import params as params_lib
from coda_jax import partitioning, testing
from coda_jax.checkpoints import assemble, leaves, model_folder, tensors
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer
from coda_jax.training import loop, optimizers

CONFIG = testing.tiny_config(
  num_encoder_layers=1, num_decoder_layers=1, dropout_rate=0.1
)


def train(task, model_dir, **overrides):
  arguments = {
    "model": Transformer(CONFIG),
    "model_dir": str(model_dir),
    "mixture_or_task_name": task,
    "task_feature_lengths": {"inputs": 8, "targets": 3},
    "batch_size": 16,
    "microbatches": 2,
    "train_steps": 6,
    "learning_rate": optimizers.constant(0.01),
    "eval_period": 0,
    "log_period": 1,
    "predict": False,
  }
  return loop.train(**{**arguments, **overrides})


def losses(model_dir):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  return [r["train/loss"] for r in map(json.loads, lines) if "train/loss" in r]


def test_a_run_goes_on_on_another_mesh(task, tmp_path, capsys):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  expected = train(task, whole)
  assert "7 of 8 devices are idle" in capsys.readouterr().out
  train(task, parts, train_steps=3, mesh={"data": 2, "fsdp": -1})
  assert "mesh: data 2, fsdp 4, model 1\n" in capsys.readouterr().out
  results = train(task, parts, mesh={"fsdp": 2})
  assert results == pytest.approx(expected, rel=1e-3)
  np.testing.assert_allclose(losses(parts), losses(whole), rtol=1e-4)
  _, saved = coda_jax.load_pretrained(whole / "model")
  mesh = partitioning.make_mesh(fsdp=8)
  _, found = coda_jax.load_pretrained(parts / "model", mesh=mesh)
  kernel = found["encoder"]["layers_0"]["mlp"]["wo"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (24, 2)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), found, saved
  )


def test_a_checkpoint_is_read_in_parts(tmp_path, monkeypatch):
  """And an adapter on top of it is made in parts."""
  model = Transformer(CONFIG)
  params = testing.random_params(model)
  model_folder.save_model(tmp_path, CONFIG, params)
  _, found = model_folder.read(tmp_path)
  read = []

  def read_part(path, name, index):
    part = whole(path, name)[index]
    read.append((name, part.shape))
    return part

  def read_whole(path, name):
    read.append((name, "whole"))
    return whole(path, name)

  whole = tensors._read_one
  monkeypatch.setattr(tensors, "_read_part", read_part)
  monkeypatch.setattr(tensors, "_read_one", read_whole)
  mesh = partitioning.make_mesh(data=2, fsdp=4)
  coda = testing.tiny_config(
    num_encoder_layers=1,
    num_decoder_layers=1,
    coda=CodaConfig(reduction=2, bottleneck_dim=4),
  )
  placed = params_lib.flatten(
    assemble.from_leaves(
      Transformer(coda),
      found,
      jax.random.key(0),
      "file",
      shardings=partitioning.shardings(Transformer(coda), mesh),
    )
  )
  for path, leaf in params_lib.flatten(params).items():
    np.testing.assert_array_equal(placed[path], leaf)
  # Four parts of each, though two devices hold each part.
  name = "encoder/layers_0/mlp/wi_0/kernel"
  assert [shape for n, shape in read if n == name] == [(4, 24)] * 4
  # Small, and on every device.
  assert {n for n, shape in read if shape == "whole"} == {
    "decoder/relpos_bias/rel_embedding",
    "encoder/relpos_bias/rel_embedding",
  }
  router = placed["encoder/layers_0/router/kernel"]
  assert router.addressable_shards[0].data.shape == (4,)


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_parts_are_checked_when_all_are_there(tmp_path, stored):
  """By the devices, since no process reads a whole leaf."""
  params = testing.random_params(Transformer(CONFIG))
  model_folder.save_model(tmp_path, CONFIG, params, dtype=stored)
  mesh = partitioning.make_mesh(data=2, fsdp=4)
  _, loaded = coda_jax.load_pretrained(tmp_path, mesh=mesh)
  for path, leaf in params_lib.flatten(params).items():
    np.testing.assert_array_equal(
      params_lib.flatten(loaded)[path], leaf.astype(stored).astype("float32")
    )
  name = "encoder/layers_0/mlp/wi_0/kernel"
  file = tmp_path / "model.safetensors"
  kernel = params_lib.flatten(params)[name].astype(stored)
  data = bytearray(file.read_bytes())
  data[data.index(np.asarray(kernel).tobytes()) + 5] ^= 1
  file.write_bytes(data)
  with pytest.raises(ValueError, match=f"safetensors: {name} is damaged"):
    coda_jax.load_pretrained(tmp_path, mesh=mesh)


@pytest.mark.parametrize(
  "change",
  [
    lambda leaf: leaf,
    lambda leaf: leaf.transposed(),
    lambda leaf: leaf.astype("bfloat16").times(0.5).transposed(),
  ],
)
def test_parts_of_leaves_are_those_of_the_whole(tmp_path, change):
  x = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
  tensors.write(
    tmp_path / "x.safetensors", {"x": leaves.leaf_of(x)}, metadata={}
  )
  leaf = change(tensors.read(tmp_path / "x.safetensors")["x"])
  index = (slice(2, 4), slice(0, 6))
  np.testing.assert_array_equal(leaf.read_at(index), leaf.read()[index])


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"mesh": {"tensor": 2}}, "the axis 'tensor'; expected some of"),
    ({"mesh": {2: 2, "a": 2}}, "the axis 2; expected some of"),
    ({"mesh": {"data": 5}}, "data=5.*and there are 8"),
    ({"mesh": {"data": -1}, "batch_size": 12}, "batch_size / microbatches=6"),
    (
      {"mesh": {"data": -1}, "eval_batch_size": 3},
      "eval_batch_size=3 does not divide.*multiple of 8, such as 8",
    ),
    (
      {"mesh": {"model": 2}},
      r"model=2 does not divide .*, 3 of .*from \[1, 3\]",
    ),
  ],
)
def test_bad_meshes_stop_a_run_before_it_reads(
  task, tmp_path, overrides, message
):
  """What it would read is damaged, and would be the error."""
  params = testing.random_params(Transformer(CONFIG))
  model_folder.save_model(tmp_path, CONFIG, params)
  file = tmp_path / "model.safetensors"
  content = file.read_bytes()
  file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  with pytest.raises(ValueError, match=message):
    train(task, "none", initial_checkpoint_path=tmp_path, **overrides)
