"""`--compile_for` on stand-ins for slices, and on the real compiler."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import pytest

from coda_jax import eval as eval_lib
from coda_jax import infer, train
from coda_jax import params as params_lib
from coda_jax.compiling import command, estimate, topologies, variants
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.network import Transformer
from coda_jax.testing import tiny_config

TRAIN = (
  "--gin_file=experiments/bbc_topic_coda.gin",
  "--gin.MODEL_DIR=nowhere",
  "--gin.BATCH_SIZE=4",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.config.T5Config.num_encoder_layers=1",
  "--gin.config.T5Config.num_decoder_layers=1",
  "--gin.INITIAL_CHECKPOINT_PATH=nowhere",  # tiny_coda has more layers.
)
# The checkpoint's configuration is read, its parameters are not.
SERVE = (
  "--gin.MIXTURE_OR_TASK_NAME=any",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.BATCH_SIZE=4",
  "--gin.CHECKPOINT_PATH=tiny_coda",
)


@pytest.fixture
def slices(monkeypatch, tmp_path):
  """Slices of two of this machine's devices, v5e:4x4 of four."""
  monkeypatch.chdir(tmp_path)
  chip = topologies.CHIPS["v5e"]
  monkeypatch.setattr(
    topologies,
    "get",
    lambda name: (
      topologies.parse(name)
      and topologies.Slice(
        name, chip, jax.devices()[: 4 if name == "v5e:4x4" else 2]
      )
    ),
  )


@pytest.fixture
def traced(slices, monkeypatch):
  """The programs that would be compiled, and bytes of all their arguments.

  None fits the first slice.
  """
  programs = []

  def measure(traced, chip, devices):
    assert devices == 2
    size = sum(x.size * x.dtype.itemsize for x in leaves(traced))
    programs.append((traced, size))
    numbers = dict.fromkeys(("flops", "bytes_accessed", "compute_ms"), 1.0)
    return {
      "fits": len(programs) > 1,
      "peak_bytes": size,
      "hbm_bytes": chip.hbm_bytes,
      "compile_seconds": 0.0,
      "step_ms": [1.0, 2.0],
      "collectives": {},
      **numbers,
    }

  def leaves(traced):
    for one in jax.tree.leaves(traced.args_info):
      if jnp.issubdtype(one.dtype, jnp.number):  # The key is none.
        yield jax.ShapeDtypeStruct(one.shape, one.dtype)

  monkeypatch.setattr(estimate, "measure", measure)
  return programs


def test_training(slices, tmp_path, capsys):
  path = tmp_path / "rows.json"
  argv = [*TRAIN, "--compile_for=v5e:2x4", f"--compile_json={path}"]
  assert train.main(argv) == 0
  out = capsys.readouterr().out
  assert "coda, r = 3: fits v5e:2x4" in out and "nothing was run" in out
  assert re.search(r"train +coda +3 +v5e:2x4 +all-reduce +\d", out), out
  (row,) = json.loads(path.read_text())["rows"]
  assert row["method"] == "coda" and row["reduction"] == 3 and row["fits"]
  assert row["mesh"] == "data 2" and row["chips"] == 2
  assert row["flops"] > 0 and "all-reduce" in row["collectives"]
  # Nothing was trained, and nothing written but this.
  assert list(tmp_path.iterdir()) == [path]


def test_methods_and_dtypes_of_training(traced):
  # AdamW, with two moments of what is trained.
  argv = [*TRAIN, "--gin_file=schedules/adapter.gin"]
  argv.append("--compile_for=v5e:2x2,v5e:2x4")
  assert train.main([*argv, "--compile_methods=full,coda"]) == 0
  assert train.main([*argv, "--gin.FROZEN_DTYPE=bfloat16"]) == 0
  full, coda, full_again, rounded = (size for _, size in traced)
  assert full == full_again, "it did not fit the first slice"
  assert 2.5 * coda < full < 3 * coda
  assert 0.45 * coda < rounded < 0.6 * coda


def test_plan_goes_on_to_the_smallest_slice_that_fits(traced, capsys):
  assert train.main([*TRAIN, "--compile_for=v5e:4x4,v5e:2x2,v5e:2x4"]) == 0
  out = capsys.readouterr().out
  assert "fits v5e:2x4" in out and "4x4" not in out
  traced.clear()
  assert train.main([*TRAIN, "--compile_for=v5e:2x2"]) == 1
  assert "does not fit v5e:2x2" in capsys.readouterr().out


def test_evaluation_and_inference(traced, capsys):
  options = (
    "--gin_file=runs/eval.gin",
    "--gin.EVAL_OUTPUT_DIR=out",
    "--gin.REDUCTIONS=(1, 3)",
    "--compile_for=v5e:2x4",
  )
  # The first program does not fit.
  assert eval_lib.main([*SERVE, *options]) == 1
  lines = capsys.readouterr().out.splitlines()
  rows = [line for line in lines if "compiled in" not in line]
  for start in ("loss ", "predict "):
    assert len([row for row in rows if row.startswith(start)]) == 2
  argv = [*SERVE, "--gin_file=runs/infer.gin", "--gin.INFER_OUTPUT_DIR=out"]
  argv.append("--compile_for=v5e:2x4")
  assert infer.main(argv) == 0
  assert "predict " in capsys.readouterr().out
  assert infer.main([*argv, "--gin.MODE=score"]) == 0
  assert "score " in capsys.readouterr().out
  # One that generates has a loop more: over the tokens.
  predict, score = (
    one.lower().as_text().count("stablehlo.while") for one, _ in traced[-2:]
  )
  assert predict == score + 1


def test_a_classifier(traced, bert_folder, capsys):
  folder = bert_folder(
    head="classification", num_labels=2, labels=("no", "yes")
  )
  shared = (
    "--gin_file=objectives/classify.gin",
    "--gin.LABELS=('no', 'yes')",
    "--gin.MIXTURE_OR_TASK_NAME=any",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
    "--gin.BATCH_SIZE=4",
    "--compile_for=v5e:2x2,v5e:2x4",
  )
  argv = (
    "--gin_file=models/bert.gin",
    "--gin_file=methods/coda.gin",
    "--gin_file=schedules/adapter.gin",
    "--gin_file=runs/finetune.gin",
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    "--gin.MODEL_DIR=nowhere",
  )
  assert train.main([*argv, *shared]) == 0
  assert "coda, r = 3: fits v5e:2x4" in capsys.readouterr().out
  argv = (
    "--gin_file=runs/eval.gin",
    f"--gin.CHECKPOINT_PATH={folder}",
    "--gin.EVAL_OUTPUT_DIR=nowhere",
  )
  assert eval_lib.main([*argv, *shared]) == 0
  assert re.search("predict +full", capsys.readouterr().out)
  argv = (
    "--gin_file=runs/infer.gin",
    f"--gin.CHECKPOINT_PATH={folder}",
    "--gin.INFER_OUTPUT_DIR=nowhere",
    "--gin.MIXTURE_OR_TASK_NAME=any",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16}",
    "--gin.BATCH_SIZE=4",
    "--compile_for=v5e:2x4",
  )
  assert infer.main(argv) == 0
  assert "predict " in capsys.readouterr().out
  assert infer.main([*argv, "--gin.MODE=score"]) == 2
  assert "MODE='score'; expected one of ('predict',)" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (["--gin.MESH={'data': 3}"], "mesh data=3.*there are 2.*one of .1, 2."),
    (["--gin.MESH={'rows': 2}"], "axis 'rows'; expected some of"),
    (["--gin.BATCH_SIZE=5"], "=5 does not divide.*multiple of 2"),
    (
      ["--gin.MESH={'model': 2}", "--gin.config.T5Config.num_heads=3"],
      "model=2 does not divide.*choose model from .1.",
    ),
    (
      ["--compile_methods=adaptor"],
      "'adaptor'; expected some of full, adapter",
    ),
    (["--compile_for=v5e:2x4,v7:2x2"], "no TPU slice 'v7:2x2'"),
    (["--gin.MESH=[]"], r"MESH=..; expected {'data': n"),
    (["--gin.FROZEN_DTYPE=int8"], "FROZEN_DTYPE='int8'; expected one of"),
    (["--gin.MICROBATCHES=0"], "MICROBATCHES=0; expected a whole number, 1"),
    (["--gin.MICROBATCHES=3"], "does not divide into microbatches=3; choose"),
    (["--compile_reductions=0.5"], "reduction is 0.5; expected 1 .dense. or"),
    (["--compile_json=."], "--compile_json=. can't be written: it is a folder"),
  ],
)
def test_bad_input_stops_before_compiling(
  slices, capsys, monkeypatch, given, message
):
  def compile_(self, *args, **kwargs):
    raise AssertionError("compiled")

  monkeypatch.setattr(jax.stages.Lowered, "compile", compile_)
  assert train.main([*TRAIN, "--compile_for=v5e:2x4", *given]) == 2
  error = capsys.readouterr().err
  assert re.search(message, error, re.DOTALL), error


def test_all_slices_are_checked_before_the_first_is_compiled(traced, capsys):
  argv = [*TRAIN, "--gin.BATCH_SIZE=6", "--compile_for=v5e:2x2,v5e:4x4"]
  assert train.main(argv) == 2
  error = capsys.readouterr().err
  assert "v5e:4x4: batch_size / microbatches=6 does not divide" in error
  argv[-2:] = ["--gin.MESH={'model': -1}", argv[-1]]
  argv.append("--gin.config.T5Config.num_heads=6")
  assert train.main(argv) == 2
  assert "v5e:4x4: this mesh does not fit" in capsys.readouterr().err
  assert not traced


def test_without_libtpu_the_message_names_the_extra(monkeypatch, capsys):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  assert train.main([*TRAIN, "--compile_for=v5e:2x2"]) == 2
  error = capsys.readouterr().err
  assert "pip install 'coda_jax[tpu]'" in error and "[train]" not in error


def test_options_are_taken_from_the_command_line():
  options, rest = command.take(
    ["--a", "--compile_for=v5e:2x2,v5e:4x4", "--compile_reductions=3,5"]
  )
  assert rest == ["--a"] and options.slices == ("v5e:2x2", "v5e:4x4")
  assert options.reductions == (3.0, 5.0) and options.methods == ()
  assert command.take(["--dry_run"]) == (None, ["--dry_run"])


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--compile_for="], "compile_for: is empty; expected one or more"),
    (["--compile_for=v5e:2x2", "--compile_reductions=a"], "'a'; expected num"),
    (["--compile_json=x"], "--compile_json needs --compile_for"),
    (["--compile_for=v5e:2x2", "--dry_run"], "'--dry_run' does not go with"),
    (["--compile_for=v5e:2x2", "--num_processes=2"], "compiles for all proce"),
  ],
)
def test_options_that_do_not_go_together(argv, message, capsys):
  with pytest.raises(SystemExit) as exit_info:
    command.take(argv)
  assert exit_info.value.code == 2
  assert message in capsys.readouterr().err


def test_variants_of_methods():
  model = Transformer(tiny_config(coda=CodaConfig(3.0, bottleneck_dim=5)))
  found = variants.by_methods(model, variants.METHODS, (3.0, 5.0))
  assert [(v.method, v.reduction) for v in found] == [
    ("full", 1),
    ("adapter", 1),
    ("lora", 1),
    ("coda", 3),
    ("coda", 5),
    ("coda_lora", 3),
    ("coda_lora", 5),
  ]
  for one in found:
    coda = one.model.config.coda
    if one.method == "full":
      assert coda is None
      assert one.trained_patterns == params_lib.ALL_PATTERNS
      continue
    assert coda.method == one.method
    assert coda.reduction == one.reduction
    assert coda.bottleneck_dim == (0 if one.method == "lora" else 5)
    assert (coda.lora is not None) == one.method.endswith("lora")
  own = Transformer(tiny_config(coda=CodaConfig(1.0, lora=LoraConfig(7))))
  (lora,) = variants.by_methods(own, ["lora"], ())
  assert lora.model.config.lora.rank == 7


@pytest.mark.parametrize(
  ("reductions", "shown", "layers"),
  [
    ((), "1 in 1 layer, 5 in 1 layer", [1, 5]),
    ((3.0,), "1 in 1 layer, 3 in 1 layer", [1, 3]),
    ((1.0,), "1", [1, 1]),
  ],
)
def test_layers_with_an_r_of_their_own(reductions, shown, layers):
  """A dense layer stays dense; the others take the r that is asked for."""
  coda = CodaConfig(2.0, layer_reductions=((0, 1.0), (1, 5.0)))
  model = Transformer(tiny_config(coda=coda))
  (found,) = variants.by_methods(model, ["coda"], reductions)
  assert found.reductions == shown
  assert [found.model.config.layer_reduction(i) for i in (0, 1)] == layers
  (adapter,) = variants.by_methods(model, ["adapter"], reductions)
  assert adapter.reductions == "1"


@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU's compiler is not here: pip install 'coda_jax[tpu]'",
)
def test_real_compiler(tmp_path, capsys):
  path = tmp_path / "rows.json"
  argv = [*TRAIN, "--gin.MESH={'data': 2, 'fsdp': 2}", "--compile_for=v5e:2x2"]
  assert train.main([*argv, f"--compile_json={path}"]) == 0, capsys.readouterr()
  (row,) = json.loads(path.read_text())["rows"]
  assert row["chips"] == 4 and row["fits"] and row["cycles"] > 0
  assert row["unknown_loops"] == 0
  assert {"all-gather", "all-reduce"} <= row["collectives"].keys()
  assert 0 < row["step_ms"][0] <= row["step_ms"][1] < 100
