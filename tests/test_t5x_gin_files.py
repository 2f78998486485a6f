"""Parses the gin files for t5x, without t5x: every name of ours is resolved.

t5x's modules are replaced by ones that have any name, and its own run files by
empty ones; tests/t5x runs the real thing.
"""

import functools
import importlib
import io
import os
import re
import sys
import types

import flax
import gin
import jax
import jax.numpy as jnp
import optax
import pytest

from coda_jax import cli, params
from coda_jax.t5.network import Transformer
from coda_jax.training import optimizers
from coda_jax.under_t5x import optimizer

ROOT = cli.configs_dir()
FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "t5x").rglob("*.gin"))
T5X_MODULES = (
  "adafactor",
  "checkpoints",
  "decoding",
  "export_lib",
  "losses",
  "metrics",
  "models",
  "optimizers",
  "partitioning",
  "trainer",
  "utils",
)
TRAINING = ("pretrain", "coda_pretrain", "finetune")
# Stacks whose numbers of parameters tests/test_gin_files.py checks.
SIZES = {
  "t5_1_0": "t5_1_0_small",
  "t5_1_1": "xl",
  "mt5": "base",
  "umt5": "small",
  "byt5": "byt5_large",
}
# What t5x's own files set, which are empty here.
SET_BY_T5X = {"DROPOUT_RATE"}
GIVEN = {
  "MODEL_DIR",
  "CHECKPOINT_PATH",
  "EVAL_OUTPUT_DIR",
  "INFER_OUTPUT_DIR",
  "INITIAL_CHECKPOINT_PATH",
  "TASK_FEATURE_LENGTHS",
  "MIXTURE_OR_TASK_NAME",
}


class Any:
  """An object of t5x's: keeps what it was made of."""

  def __init__(self, **kwargs):
    self.kwargs = kwargs


@functools.cache
def stand_in(module, name):
  """The same object each time: gin knows it by its module and name."""
  if name[0].isupper():
    return type(name, (Any,), {"__module__": module})

  def function(**kwargs):
    return {"name": name, **kwargs}

  function.__name__ = function.__qualname__ = name
  function.__module__ = module
  return function


class StandIn(types.ModuleType):
  def __getattr__(self, name):
    if name.startswith("_"):
      raise AttributeError(name)
    return stand_in(self.__name__, name)


@pytest.fixture(autouse=True)
def t5x(monkeypatch):
  """t5x's modules and programs, each with every name that is asked for."""
  package = StandIn("t5x")
  package.__path__ = []
  monkeypatch.setitem(sys.modules, "t5x", package)
  for name in T5X_MODULES:
    module = StandIn(f"t5x.{name}")
    monkeypatch.setitem(sys.modules, f"t5x.{name}", module)
    monkeypatch.setattr(package, name, module, raising=False)
  for name in ("train", "infer", "evaluate"):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, name, stand_in("t5x", name), raising=False)
  readers = [
    (open, os.path.isfile),
    (lambda _: io.StringIO(), lambda path: "t5x/configs/runs/" in path),
  ]
  monkeypatch.setattr(gin.config, "_FILE_READERS", readers)
  monkeypatch.setattr(gin.config, "_LOCATION_PREFIXES", [str(ROOT)])
  gin.clear_config()
  yield
  gin.clear_config()


def parse(*files, **macros):
  for file in files:
    gin.parse_config_file(f"{file}.gin")
  for name, value in macros.items():
    gin.parse_config(f"{name} = {value!r}")


def stack(run, model="t5_1_1", size="tiny", method="coda", **macros):
  parse(
    f"t5x/runs/{run}",
    f"t5x/models/{model}",
    f"sizes/{size}",
    f"methods/{method}",
    "tasks/bbc_topic",
    *(["schedules/adapter"] if run in TRAINING else []),
    **macros,
  )


def model(**macros):
  for name, value in {"DROPOUT_RATE": 0.0, **macros}.items():
    gin.parse_config(f"{name} = {value!r}")
  return gin.get_configurable(stand_in("t5x.models", "EncoderDecoderModel"))()


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_parsed(file):
  """gin refuses functions, classes and parameters that are not there."""
  parse(file.removesuffix(".gin"))
  text = (ROOT / file).read_text()
  assert text.startswith("# "), "a gin file says first what it is"
  if file.startswith("t5x/runs/"):
    assert "# Required to be set" in text and "# Commonly overridden" in text
  # What a name of ours stands for is checked here again, and not by gin.
  for module in re.findall(r"^from (coda_jax\S* import \w+)", text, re.M):
    package, name = module.split(" import ")
    importlib.import_module(f"{package}.{name}")


def test_every_file_of_runs_includes_t5x_s_own():
  for run in (*TRAINING, "eval", "infer", "export"):
    text = (ROOT / f"t5x/runs/{run}.gin").read_text()
    includes = re.findall(r"^include '(.*)'", text, re.M)
    own = {"coda_pretrain": "t5x/runs/pretrain.gin"}
    assert includes[0] == own.get(run, f"t5x/configs/runs/{run}.gin")


@pytest.mark.parametrize("run", [*TRAINING, "eval", "infer", "export"])
def test_what_a_run_leaves_open_is_what_it_requires(run):
  stack(run)
  text = re.sub(r"'[^'\n]*'", "''", gin.config_str())
  used = set(re.findall(r"%([A-Za-z_]\w*)(?![\w.])", text))
  bound = set(re.findall(r"^(\w+) = (?!%gin\.REQUIRED)", text, re.M))
  assert used - bound <= SET_BY_T5X | GIVEN
  if run == "finetune":
    assert "INITIAL_CHECKPOINT_PATH" in used - bound


def test_distillation_trains_what_coda_adds_alone():
  stack("finetune", VOCABULARY="byt5", DROPOUT_RATE=0.0)
  parse("t5x/objectives/distil_seq2seq", TARGETS=0.5)
  from coda_jax.under_t5x import distilled

  made = gin.get_configurable(distilled.DistilledModel)()
  assert made._objective.targets == 0.5
  assert made.kwargs["module"].config.coda.reduction == 3
  assert made.kwargs["optimizer_def"].patterns == params.ADDED_PATTERNS


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_models_are_those_of_our_own_engine(name, size):
  stack("eval", name, size)
  made = model(VOCABULARY="byt5").kwargs
  assert isinstance(made["module"], Transformer)
  cli.parse_gin(
    [
      f"models/{name}.gin",
      f"sizes/{size}.gin",
      "methods/coda.gin",
      "schedules/adapter.gin",
      "runs/pretrain.gin",
    ],
    [
      (name, "'x'")
      for name in ("MODEL_DIR", "MIXTURE_OR_TASK_NAME", "TASK_FEATURE_LENGTHS")
    ],
  )
  ours = gin.get_configurable(Transformer)()
  assert made["module"].config == ours.config
  assert made["input_vocabulary"].vocab_size == 259


@pytest.mark.parametrize("method", ["adapter", "lora", "coda", "coda_lora"])
def test_methods(method):
  stack("finetune", method=method)
  made = model().kwargs
  assert made["z_loss"] == 0.0
  config = made["module"].config
  assert config.is_routed == ("coda" in method)
  assert (config.lora is not None) == ("lora" in method)
  trained = made["optimizer_def"]
  assert isinstance(trained, optimizer.TrainedOnly)
  assert trained.patterns == params.TASK_PATTERNS
  wrapped = trained.optimizer.kwargs["optax_optimizer"]
  assert isinstance(wrapped, optax.GradientTransformation)


def test_optimizers():
  stack("finetune")
  parse("t5x/optimizers/adafactor", MULTIPLY_BY_PARAMETER_SCALE=False)
  made = model().kwargs["optimizer_def"]
  assert made.patterns == params.TASK_PATTERNS
  assert made.optimizer.kwargs["multiply_by_parameter_scale"] is False
  rules = made.optimizer.kwargs["logical_factor_rules"]
  assert rules["lora_rank"] == "none"
  trainer = gin.get_configurable(stand_in("t5x.trainer", "Trainer"))()
  assert trainer.kwargs["learning_rate_fn"](500) == pytest.approx(1e-3)


@pytest.mark.parametrize(
  ("run", "trained"),
  [
    ("pretrain", params.ALL_PATTERNS),
    ("coda_pretrain", params.TASK_PATTERNS),
  ],
)
def test_what_pretraining_trains(run, trained):
  stack(run)
  made = model().kwargs
  assert made["optimizer_def"].patterns == trained
  assert made["z_loss"] == 1e-4


def test_what_is_restored():
  """Every leaf of the backbone is assigned, of the rest only what is there."""
  stack("coda_pretrain", method="coda_lora", INITIAL_CHECKPOINT_PATH="x")
  cls = stand_in("t5x.utils", "RestoreCheckpointConfig")
  restored = gin.get_configurable(cls)().kwargs
  assert restored["path"] == "x" and restored["fallback_to_scratch"]
  (state, none), (backbone, same) = restored["assignment_map"]
  assert re.fullmatch(state, "state/step") and none is None
  network = model().kwargs["module"]
  tokens = jnp.ones((1, 8), jnp.int32)
  tree = jax.eval_shape(network.init, jax.random.key(0), *[tokens] * 3)
  assigned = set()
  for path in params.flatten(flax.core.unfreeze(tree["params"])):
    if match := re.fullmatch(backbone, f"target/{path}"):
      assert match.expand(same) == f"target/{path}"
      assigned.add(path)
  stack("eval", method="full")
  network = model().kwargs["module"]
  dense = jax.eval_shape(network.init, jax.random.key(0), *[tokens] * 3)
  assert assigned == params.flatten(dense["params"]).keys()


def test_axes_have_rules():
  """t5x replicates an axis that it does not know in silence."""
  stack("pretrain", method="coda_lora")
  rules = gin.get_configurable(
    stand_in("t5x.partitioning", "standard_logical_axis_rules")
  )()["additional_rules"]
  # Those of t5x's own rules.
  known = {"vocab", "embed", "mlp", "heads", "joined_kv", "relpos_buckets"}
  known |= {axis for axis, _ in rules}
  network = model().kwargs["module"]
  tokens = jnp.ones((1, 8), jnp.int32)
  tree = jax.eval_shape(network.init, jax.random.key(0), *[tokens] * 3)
  names = flax.linen.partitioning.get_axis_names(tree["params_axes"])
  axes = params.flatten(flax.core.unfreeze(names))
  leaves = params.flatten(tree["params"])
  assert {p: len(x) for p, x in axes.items()} == {
    p: len(x.shape) for p, x in leaves.items()
  }
  assert {axis for spec in axes.values() for axis in spec} == known


def test_a_schedule_that_t5x_cannot_use():
  stack("finetune")
  parse("schedules/constant")
  with pytest.raises(ValueError, match="t5x/optimizers/adafactor.gin"):
    model()
  assert optimizers.adafactor(optimizers.constant())
