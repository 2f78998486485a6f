import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import coda_jax
from coda_jax import inspect, testing
from coda_jax import params as params_lib
from coda_jax.checkpoints import checksums, folders, model_folder, run
from coda_jax.nn.config import LoraConfig
from coda_jax.training import setup
from coda_jax.training.state import Checkpoints, TrainState

CODA = coda_jax.CodaConfig(
  reduction=3, bottleneck_dim=4, lora=LoraConfig(rank=2)
)


@pytest.fixture
def backbone(tmp_path):
  model = coda_jax.Transformer(testing.tiny_config())
  model_folder.save_model(
    tmp_path / "backbone", model.config, testing.random_params(model)
  )
  return tmp_path / "backbone"


def save(folder, backbone, *, patterns, frozen_dtype="float32", steps=(2, 10)):
  """A run's checkpoints; returns its model and parameters."""
  _, dense = coda_jax.load_pretrained(backbone)
  model = coda_jax.Transformer(testing.tiny_config(coda=CODA))
  params = params_lib.flatten(testing.random_params(model, 5))
  params |= {
    name: leaf
    for name, leaf in params_lib.flatten(dense).items()
    if not params_lib.matches(name, params_lib.TASK_PATTERNS)
  }
  trained, frozen = params_lib.split(params_lib.unflatten(params), patterns)
  frozen = jax.tree.map(lambda x: x.astype(frozen_dtype), frozen)
  checkpoints = Checkpoints(
    folder,
    keep=len(steps),
    run=setup.describe_run(
      model.config, frozen, {"frozen_dtype": frozen_dtype}
    ),
  )
  for step in steps:
    current = TrainState.create(trained, optax.adam(1e-3))
    checkpoints.save(current.replace(step=jnp.int32(step)))
  checkpoints.close()
  return model, params_lib.merge(trained, frozen)


@pytest.mark.parametrize(
  "patterns, frozen_dtype",
  [
    (params_lib.TASK_PATTERNS, "bfloat16"),
    (params_lib.ALL_PATTERNS, "float32"),
  ],
)
def test_a_run_is_evaluated_as_it_is_trained(
  tmp_path, backbone, patterns, frozen_dtype
):
  model, params = save(
    tmp_path, backbone, patterns=patterns, frozen_dtype=frozen_dtype
  )
  paths = folders.find(tmp_path / "checkpoints")
  assert [path.rsplit("/", 1)[1] for path in paths] == ["2", "10"]
  whole = patterns == params_lib.ALL_PATTERNS
  assert [run.is_whole(path) for path in paths] == [whole, whole]
  for _, found, read in folders.load_each(paths, None if whole else backbone):
    assert found.config == model.config
    jax.tree.map(
      lambda x, y: np.testing.assert_array_equal(x, y.astype("float32")),
      read,
      params,
    )
  assert folders.read_config(paths[0], None) == model.config
  shown = inspect.open_checkpoint(paths[0])
  trained, frozen = params_lib.split(params, patterns)
  assert shown.format == "run" and shown.method == "coda_lora"
  assert shown.leaves.keys() == params_lib.flatten(trained).keys()
  assert shown.backbone == (
    None if whole else f"checksum {checksums.of_all(frozen):08x}"
  )
  assert f"match ({len(shown.leaves)} leaves)" in inspect.describe(shown)


def test_an_adapter_needs_the_backbone_it_was_trained_on(tmp_path, backbone):
  save(tmp_path, backbone, patterns=params_lib.TASK_PATTERNS)
  path = tmp_path / "checkpoints" / "10"
  with pytest.raises(ValueError, match="set INITIAL_CHECKPOINT_PATH"):
    folders.read(path, None)
  model = coda_jax.Transformer(testing.tiny_config())
  model_folder.save_model(
    tmp_path / "other", model.config, testing.random_params(model, 9)
  )
  with pytest.raises(ValueError, match="trained on another model than .*other"):
    folders.read(path, tmp_path / "other")
  with pytest.raises(FileNotFoundError, match="checkpoint of a training run"):
    coda_jax.load_pretrained(path)


def resume(folder, before, now):
  """Saves a run of the settings `before`, and resumes it with those of now."""
  state = TrainState.create({"a": jnp.ones(2)}, optax.sgd(0.1))
  for settings, act in ((before, Checkpoints.save), (now, Checkpoints.restore)):
    checkpoints = Checkpoints(folder, run=settings)
    act(checkpoints, state)
    checkpoints.close()


def test_a_run_resumes_however_it_computes(tmp_path):
  config = testing.tiny_config(coda=CODA)
  other = dataclasses.replace(
    config,
    dtype="bfloat16",
    remat=True,
    scan_layers=True,
    coda=dataclasses.replace(CODA, dispatch="gather"),
  )
  now = setup.describe_run(config, {}, {})
  resume(tmp_path / "now", setup.describe_run(other, {}, {}), now)
  # Runs of older versions have all of them but the first two.
  older = {
    f"T5Config.{name}": value
    for name, value in dataclasses.asdict(other).items()
    if name not in ("dtype", "remat")
  }
  resume(tmp_path / "older", {**now, **older}, now)
  del older["T5Config.coda"]["convolution"]
  resume(tmp_path / "oldest", {**now, **older}, now)
  older["T5Config.coda"]["epsilon"] = 0.5
  with pytest.raises(ValueError, match=r"T5Config\.coda = .*'epsilon': 0\.5"):
    resume(tmp_path / "another", {**now, **older}, now)


def test_what_is_not_as_it_was_saved_is_named(tmp_path, capsys, backbone):
  save(tmp_path, backbone, patterns=params_lib.TASK_PATTERNS)
  path = tmp_path / "checkpoints" / "10"
  file = path / "_CHECKPOINT_METADATA"
  about = json.loads(file.read_text())
  sums = about["custom_metadata"]["checksums"]
  key = next(key for key in sums if key.startswith("trained/encoder"))
  name = key.removeprefix("trained/")
  sums[key] ^= 1
  file.write_text(json.dumps(about))
  _, leaves = folders.read(path, backbone)
  damaged = f"{path}: {name} is damaged: .*take another checkpoint"
  with pytest.raises(ValueError, match=damaged):
    leaves[name].read()
  assert inspect.main([str(path)]) == 2
  assert f"{name} is damaged" in capsys.readouterr().err
  del about["custom_metadata"]["run"]
  file.write_text(json.dumps(about))
  with pytest.raises(ValueError, match="does not describe the trained leaves"):
    folders.check([str(path)], backbone)
