import jax.numpy as jnp
import numpy as np
import pytest

import coda_jax
from coda_jax import convert, inspect, testing
from coda_jax import params as params_lib
from coda_jax.checkpoints import model_folder
from coda_jax.checkpoints.adapter import backbone_fingerprint
from coda_jax.checkpoints.leaves import leaves_of
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.network import Transformer

CODA = CodaConfig(reduction=2, bottleneck_dim=4)


@pytest.fixture
def model():
  return Transformer(testing.tiny_config(coda=CODA))


@pytest.fixture
def params(model):
  return testing.random_params(model)


def report(capsys, *arguments, code=0):
  assert inspect.main([str(a) for a in arguments]) == code
  return capsys.readouterr().out


def test_a_model(tmp_path, capsys, model, params):
  model_folder.save_model(tmp_path, model.config, params, dtype=jnp.bfloat16)
  out = report(capsys, tmp_path)
  assert "format" in out and "coda_jax" in out and "method" in out
  assert f"{params_lib.count(params):,} in" in out
  assert backbone_fingerprint(params) in out
  lines = {line.split()[0]: line.split() for line in out.splitlines() if line}
  row = lines["encoder/layers_1/adapter/up/kernel"]
  assert row[1:] == ["4", "x", "16", "bfloat16", "64", "yes"]
  row = lines["encoder/layers_1/mlp/wo/kernel"]
  assert row[1:] == ["24", "x", "16", "bfloat16", "384"]


def test_an_adapter_names_its_backbone(tmp_path, capsys, model, params):
  coda_jax.save_adapter(tmp_path, model, params)
  out = report(capsys, tmp_path)
  assert backbone_fingerprint(params) in out and "(100.00%)" in out
  assert "encoder/layers_0/router/kernel" in out
  assert "encoder/layers_0/mlp/wo/kernel" not in out


@pytest.mark.parametrize(
  ("coda", "name"),
  [
    (None, "none: a plain T5"),
    (CodaConfig(reduction=1), "adapter"),
    (CodaConfig(reduction=1, layer_reductions=((0, 2),)), "coda"),
    (CodaConfig(reduction=1, bottleneck_dim=0, lora=LoraConfig()), "lora"),
    (CodaConfig(reduction=1, lora=LoraConfig()), "coda_lora"),
    (CodaConfig(reduction=2, lora=LoraConfig()), "coda_lora"),
  ],
)
def test_methods(tmp_path, coda, name):
  model = Transformer(testing.tiny_config(coda=coda))
  model_folder.save_model(tmp_path, model.config, testing.random_params(model))
  assert inspect.open_checkpoint(tmp_path).method == name


def test_differences(tmp_path, capsys, model, params):
  model_folder.save_model(tmp_path / "a", model.config, params)
  model_folder.save_model(
    tmp_path / "b", model.config, params, dtype=jnp.bfloat16
  )
  convert.convert(tmp_path / "a", tmp_path / "same", "coda_jax")
  out = report(capsys, tmp_path / "a", tmp_path / "same")
  assert out == "no difference in 46 leaves\n"

  leaves = params_lib.flatten(params)
  scale = np.array(leaves["encoder/encoder_norm/scale"])
  scale[:4] += 0.5
  leaves["encoder/encoder_norm/scale"] = scale
  model_folder.save_model(
    tmp_path / "c", model.config, params_lib.unflatten(leaves)
  )
  out = report(capsys, tmp_path / "a", tmp_path / "c", code=1)
  assert out == (
    "encoder/encoder_norm/scale: 25.0% of the values, by 0.5 at most\n"
  )

  other = Transformer(testing.tiny_config(num_encoder_layers=1, mlp_dim=20))
  model_folder.save_model(
    tmp_path / "d", other.config, testing.random_params(other)
  )
  lines = report(capsys, tmp_path / "a", tmp_path / "d", code=1).splitlines()
  assert "config mlp_dim: 24 and 20" in lines
  assert "encoder/layers_0/mlp/wo/kernel: (24, 16) and (20, 16)" in lines
  norm = "encoder/layers_1/pre_mlp_layer_norm/scale"
  assert f"{norm}: only in {tmp_path / 'a'}" in lines


def test_a_model_unlike_its_configuration(tmp_path, capsys, model, params):
  leaves = leaves_of(params)
  del leaves["encoder/layers_0/router/kernel"]
  model_folder.write(tmp_path, model.config, leaves)
  assert inspect.main([str(tmp_path)]) == 2
  assert "router/kernel: not in the file" in capsys.readouterr().err


def test_adapters_of_two_backbones_differ(tmp_path, capsys):
  coda = Transformer(testing.tiny_config(coda=CodaConfig(bottleneck_dim=4)))
  params = testing.random_params(coda)
  coda_jax.save_adapter(tmp_path / "a", coda, params)
  kernel = params["encoder"]["layers_0"]["mlp"]["wo"]
  kernel["kernel"] = kernel["kernel"] * 2
  coda_jax.save_adapter(tmp_path / "b", coda, params)
  out = report(capsys, str(tmp_path / "a"), str(tmp_path / "b"), code=1)
  assert out.startswith("backbone: ") and out.count("\n") == 1


def test_dtypes_alone(tmp_path, capsys, model, params):
  model_folder.save_model(
    tmp_path / "a", model.config, params, dtype=jnp.bfloat16
  )
  convert.convert(tmp_path / "a", tmp_path / "b", "coda_jax", dtype="float32")
  out = report(capsys, tmp_path / "a", tmp_path / "b", code=1)
  assert {line.split(": ")[1] for line in out.splitlines()} == {
    "the same values as bfloat16 and float32"
  }


def test_no_checkpoint(tmp_path, capsys):
  assert inspect.main([str(tmp_path / "nowhere")]) == 2
  assert "no checkpoint found in" in capsys.readouterr().err
