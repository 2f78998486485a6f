"""Builds what every gin file describes."""

import inspect
import re

import gin
import jax
import jax.numpy as jnp
import pytest

from coda_jax import cli, initialise, params
from coda_jax.checkpoints import formats
from coda_jax.inference import evaluate, predict, sources
from coda_jax.objectives.classify import Classify
from coda_jax.objectives.classify_tokens import ClassifyTokens
from coda_jax.objectives.contrastive import Contrastive
from coda_jax.objectives.distil_seq2seq import DistilSeq2Seq
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer
from coda_jax.training import loop, optimizers

ROOT = cli.configs_dir()
# Those of t5x/ are for another program: tests/test_t5x_gin_files.py.
FILES = sorted(
  str(p.relative_to(ROOT))
  for p in ROOT.rglob("*.gin")
  if not p.is_relative_to(ROOT / "t5x")
)
METHODS = ("full", "adapter", "lora", "coda", "coda_lora")
RUNS = ("pretrain", "coda_pretrain", "finetune")
# What other files include, and texts, which are for inference alone.
NO_TASKS = {"text_set", "text"}
# Their data and what they make of it: tests/data, test_train_cli, quickstart.
TASKS = {
  p.stem for p in (ROOT / "tasks").glob("*.gin") if p.stem not in NO_TASKS
}

# Parameters of the published checkpoints; as floats where only the paper's
# rounded figure is known (ByT5, 2105.13626).
SIZES = {
  ("t5_1_0", "t5_1_0_small"): 60_506_624,
  ("t5_1_0", "t5_1_0_base"): 222_903_552,
  ("t5_1_0", "t5_1_0_large"): 737_668_096,
  ("t5_1_0", "t5_1_0_3b"): 2_851_598_336,
  ("t5_1_0", "t5_1_0_11b"): 11_307_321_344,
  ("t5_1_1", "small"): 76_961_152,
  ("t5_1_1", "base"): 247_577_856,
  ("t5_1_1", "large"): 783_150_080,
  ("t5_1_1", "xl"): 2_849_757_184,
  ("t5_1_1", "xxl"): 11_135_332_352,
  ("mt5", "small"): 300_176_768,
  ("mt5", "base"): 582_401_280,
  ("mt5", "large"): 1_229_581_312,
  ("mt5", "xl"): 3_742_619_648,
  ("mt5", "xxl"): 12_921_057_280,
  ("umt5", "small"): 306_601_984,
  ("umt5", "base"): 592_043_520,
  ("umt5", "xl"): 3_768_356_864,
  ("umt5", "xxl"): 12_972_531_712,
  ("byt5", "byt5_small"): 299_637_760,
  ("byt5", "byt5_base"): 581_653_248,
  ("byt5", "byt5_large"): 1.23e9,
  ("byt5", "byt5_xl"): 3.74e9,
  ("byt5", "byt5_xxl"): 12.9e9,
  ("t5_1_1", "tiny"): 12_196_864,
}


def parse(*files, function=loop.train, **macros):
  bindings = [(name, repr(value)) for name, value in macros.items()]
  cli.parse_gin([f"{file}.gin" for file in files], bindings)
  return gin.get_bindings(function)


def stack(model="t5_1_1", size="tiny", method="full", run="finetune", **macros):
  schedule = macros.pop("schedule", "constant")
  more = macros.pop("more", ())
  macros = {
    "MODEL_DIR": "runs/x",
    "MIXTURE_OR_TASK_NAME": "x",
    "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 8},
    **({} if run == "pretrain" else {"INITIAL_CHECKPOINT_PATH": "x"}),
    **macros,
  }
  return parse(
    f"models/{model}",
    f"sizes/{size}",
    f"methods/{method}",
    f"schedules/{schedule}",
    f"runs/{run}",
    *more,
    **macros,
  )


@pytest.mark.parametrize("run", RUNS)
def test_objectives(run):
  bound = stack(run=run, LABEL_SMOOTHING=0.1, GENERATE={"method": "beam"})
  kind = DistilSeq2Seq if run == "coda_pretrain" else Seq2Seq
  expected = kind(
    z_loss=0.0 if run == "finetune" else 1e-4,
    label_smoothing=0.1,
    generate={"method": "beam"},
  )
  assert bound["objective"] == expected
  bound = stack(run=run, more=["objectives/classify"], LABELS=("no", "yes"))
  assert bound["objective"] == Classify(("no", "yes"))
  more = ["objectives/classify_tokens"]
  bound = stack(run=run, more=more, LABELS=("O", "B"))
  assert bound["objective"] == ClassifyTokens(("O", "B"))
  bound = stack(run=run, more=["objectives/contrastive"], SCALE=10)
  assert bound["objective"] == Contrastive(scale=10)
  given = {"GENERATE": {"num_beams": 2}, "TARGETS": 0.5, "LOGITS": 2.0}
  bound = stack(run=run, more=["objectives/distil_seq2seq"], **given)
  assert bound["objective"] == DistilSeq2Seq(
    z_loss=0.0 if run == "finetune" else 1e-4,
    generate={"num_beams": 2},
    targets=0.5,
    logits=2.0,
  )


def test_objectives_of_evaluation():
  macros = {
    "CHECKPOINT_PATH": "x",
    "EVAL_OUTPUT_DIR": "x",
    "MIXTURE_OR_TASK_NAME": "x",
    "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 8},
  }
  files, function = ["runs/eval"], evaluate.evaluate
  bound = parse(*files, function=function, GENERATE={"num_beams": 2}, **macros)
  assert bound["objective"] == Seq2Seq(generate={"num_beams": 2})
  files.append("objectives/classify")
  bound = parse(*files, function=function, LABELS=("no", "yes"), **macros)
  assert bound["objective"] == Classify(("no", "yes"))


def names(folder):
  return {f.split("/")[1].removesuffix(".gin") for f in FILES if folder in f}


def test_every_file_of_the_axes_is_built_here():
  assert names("models/") == {"bert", *(model for model, _ in SIZES)}
  assert names("sizes/") == {size for _, size in SIZES}
  assert names("methods/") == set(METHODS)
  assert names("runs/") == {*RUNS, "train", "eval", "infer"}


@pytest.mark.parametrize(("model", "size"), SIZES)
def test_sizes(model, size):
  built = stack(model, size)["model"]
  assert isinstance(built, Transformer) and built.config.coda is None
  assert built.config.dtype == jnp.bfloat16
  assert built.config.dropout_rate == 0.1
  expected = SIZES[model, size]
  tolerance = 0.005 if isinstance(expected, float) else 0
  assert count(built.config) == pytest.approx(expected, rel=tolerance, abs=0)


def count(c):
  """Parameters of a T5, by its definition; that of the code is traced below."""
  attention = 4 * c.emb_dim * c.num_heads * c.head_dim
  mlp = (len(c.mlp_activations) + 1) * c.emb_dim * c.mlp_dim
  encoder = c.num_encoder_layers * (attention + mlp + 2 * c.emb_dim)
  decoder = c.num_decoder_layers * (2 * attention + mlp + 3 * c.emb_dim)
  embeddings = (1 if c.logits_via_embedding else 2) * c.vocab_size * c.emb_dim
  biases = 2
  if c.relpos_bias_per_layer:
    biases = c.num_encoder_layers + c.num_decoder_layers
  buckets = biases * 32 * c.num_heads
  return embeddings + buckets + encoder + decoder + 2 * c.emb_dim


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
  bound = stack(method=method, size="small")
  built = bound["model"]
  tree = jax.eval_shape(
    lambda: initialise.init_params(built, jax.random.key(0))
  )
  if method == "full":
    assert params.count(tree) == count(built.config)
  trained, frozen = params.split(tree, bound["trained_patterns"])
  added = {
    kind
    for path in params.flatten(tree)
    for kind in ("adapter", "router", "lora")
    if f"/{kind}/" in path
  }
  expected = {
    "full": set(),
    "adapter": {"adapter"},
    "lora": {"lora"},
    "coda": {"adapter", "router"},
    "coda_lora": {"adapter", "router", "lora"},
  }
  assert added == expected[method]
  assert built.config.is_routed == ("router" in added)
  if method == "full":
    assert params.count(frozen) == 0
  else:
    # The backbone, without its norms: 2 in a layer, 3 in a decoder's.
    assert params.count(frozen) == 76_961_152 - 512 * (8 * 5 + 2)
    assert params.count(trained) < 0.05 * params.count(frozen)


@pytest.mark.parametrize("method", METHODS)
def test_a_bert_is_as_large_as_its_checkpoint(method, bert_folder):
  folder = str(bert_folder(family="roberta"))
  files = (
    "models/bert",
    f"methods/{method}",
    "schedules/adapter",
    "runs/finetune",
    "objectives/classify",
  )
  macros = {
    "MODEL_DIR": "x",
    "MIXTURE_OR_TASK_NAME": "x",
    "TASK_FEATURE_LENGTHS": {"inputs": 12, "targets": 8},
    "INITIAL_CHECKPOINT_PATH": folder,
    "LABELS": ("a", "b", "c"),
    "DROPOUT_RATE": 0.25,
  }
  bound = parse(*files, **macros)
  config = bound["model"].config
  saved, _ = formats.read(folder)
  same = ("family", "vocab_size", "emb_dim", "num_encoder_layers", "pad_id")
  assert all(getattr(config, x) == getattr(saved, x) for x in same)
  assert config.labels == ("a", "b", "c") and config.head == "classification"
  assert config.dropout_rate == config.attention_dropout_rate == 0.25
  assert config.dtype == jnp.bfloat16
  assert config.is_routed == (method in ("coda", "coda_lora"))
  assert config.lora is None or config.lora.targets == ("query", "value")
  tree = initialise.abstract_params(bound["model"])
  trained, _ = params.split(tree, bound["trained_patterns"])
  assert "encoder/head/dense/kernel" in params.flatten(trained)
  files = (*files[:-1], "objectives/classify_tokens")
  config = parse(*files, **macros)["model"].config
  assert config.head == "token_classification" and config.num_labels == 3
  # The tokenizer is the one of the same folder.
  assert "VOCABULARY = %INITIAL_CHECKPOINT_PATH" in gin.config_str()


@pytest.mark.parametrize("schedule", sorted(names("schedules/")))
def test_schedules(schedule):
  bound = stack(schedule=schedule)
  assert bound["optimizer"].__name__ in ("adafactor", "adamw")
  assert hasattr(optimizers, bound["optimizer"].__name__)
  rates = [
    float(bound["learning_rate"](step))
    for step in range(0, bound["train_steps"], bound["train_steps"] // 20)
  ]
  assert all(0 <= rate <= 0.1 for rate in rates) and max(rates) > 0
  transform = bound["optimizer"](bound["learning_rate"])
  assert transform.init({"x": jnp.zeros(3)})
  assert 0 <= bound["eval_period"] <= bound["train_steps"]
  assert 0 <= bound["checkpoint_period"] <= bound["train_steps"]


@pytest.mark.parametrize("run", RUNS)
def test_runs(run):
  bound = stack(run=run, method="coda")
  everything = bound["trained_patterns"] == params.ALL_PATTERNS
  assert everything == (run == "pretrain")
  assert (bound["initial_checkpoint_path"] is None) == (run == "pretrain")
  assert bound["predict"] == (run == "finetune")


# A task's name, so that no data are needed.
TASK = {
  "MIXTURE_OR_TASK_NAME": "x",
  "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 8},
  "CHECKPOINT_PATH": "model",
}


def test_evaluation():
  bound = parse(
    "runs/eval",
    function=evaluate.evaluate,
    EVAL_OUTPUT_DIR="out",
    REDUCTIONS=(1, 3),
    **TASK,
  )
  parameters = inspect.signature(evaluate.evaluate).parameters
  assert set(bound) == set(parameters)
  assert bound["reductions"] == (1, 3) and bound["checkpoint_path"] == "model"


def test_inference_of_a_task():
  bound = parse(
    "runs/infer", function=predict.infer, INFER_OUTPUT_DIR="out", **TASK
  )
  parameters = inspect.signature(predict.infer).parameters
  # The window is no macro; texts are bound by tasks/text.gin.
  assert set(bound) == set(parameters) - {"text", "window"}


@pytest.mark.parametrize("text_first", [True, False])
def test_inference_of_texts(text_first):
  task = {name: TASK[name] for name in TASK if name != "MIXTURE_OR_TASK_NAME"}
  files = ["tasks/text", "runs/infer"]
  bound = parse(
    *(files if text_first else reversed(files)),
    function=predict.infer,
    INFER_OUTPUT_DIR="-",
    INPUT_PATH="-",
    VOCABULARY="byt5",
    **task,
  )
  assert bound["mixture_or_task_name"] is None
  assert isinstance(bound["text"], sources.Text)
  assert bound["text"].path == bound["infer_output_dir"] == "-"
  assert bound["text"].vocabulary.vocab_size == 259


def test_order_of_axes_does_not_matter():
  axes = ("methods/coda", "runs/finetune", "schedules/adapter", "models/t5_1_1")
  values = {
    "MODEL_DIR": "x",
    "MIXTURE_OR_TASK_NAME": "x",
    "TASK_FEATURE_LENGTHS": {"inputs": 8, "targets": 8},
    "INITIAL_CHECKPOINT_PATH": "x",
  }
  one = parse(*axes, "sizes/base", **values)
  other = parse("sizes/base", *reversed(axes), **values)
  same = ("model", "batch_size", "train_steps", "trained_patterns")
  assert [one[key] for key in same] == [other[key] for key in same]


@pytest.mark.parametrize("file", sorted(names("experiments/")))
def test_experiments(file):
  # The data need not be here: tasks are theirs to test.
  given = {"TABLE": "x"} if file == "embed_pairs" else {}
  try:
    bound = parse(
      f"experiments/{file}", MODEL_DIR="x", MIXTURE_OR_TASK_NAME="x", **given
    )
  except ModuleNotFoundError as error:  # The model that it starts from.
    pytest.skip(str(error))
  tree = jax.eval_shape(
    lambda: initialise.init_params(bound["model"], jax.random.key(0))
  )
  trained, _ = params.split(tree, bound["trained_patterns"])
  bound["optimizer"](bound["learning_rate"]).init(
    jax.tree.map(lambda x: jnp.zeros(x.shape), trained)
  )
  # Texts without labels have no targets.
  features = {"inputs"} if file == "embed_distil" else {"inputs", "targets"}
  assert bound["task_feature_lengths"].keys() == features


@pytest.mark.parametrize("file", sorted(TASKS))
def test_tasks(file):
  # The data need not be here.
  given = {
    "TABLE": "x-{split}.csv",
    "INPUT_TEMPLATE": "{text}",
    "TARGET_TEMPLATE": "{label}",
    "TASK_FEATURE_LENGTHS": {"inputs": 512, "targets": 8},
  }
  of_tokens = {name: given[name] for name in ("TABLE", "TASK_FEATURE_LENGTHS")}
  bound = parse(
    "models/t5_1_1",
    "sizes/tiny",
    "methods/coda",
    "schedules/constant",
    "runs/pretrain",
    f"tasks/{file}",
    MODEL_DIR="x",
    MIXTURE_OR_TASK_NAME="x",
    **(given if file in ("table", "pairs") else {}),
    **(of_tokens if file == "token_table" else {}),
  )
  # Texts without labels have no targets.
  features = {"inputs"} if file == "texts" else {"inputs", "targets"}
  assert bound["task_feature_lengths"].keys() == features
  # The task and the model must agree on it.
  assert "vocabulary = %VOCABULARY" in gin.config_str()


@pytest.mark.parametrize("file", FILES)
def test_style(file):
  text = (ROOT / file).read_text()
  assert text.startswith("# "), "a gin file says first what it is"
  shares_header = "include 'tasks/" in text
  if file.startswith(("runs/", "tasks/")) and not shares_header:
    assert "# Required to be set" in text and "# Commonly overridden" in text
  if file.startswith("experiments/"):
    assert re.search(rf"--gin_file={file}", text), "its command is missing"
