"""A value of another kind is one message, before anything is built or read."""

import pytest
import seqio

from coda_jax import eval as eval_lib
from coda_jax import infer, train
from coda_jax.checkpoints import formats
from coda_jax.training import setup

TRAIN = (
  "--gin_file=models/t5_1_1.gin",
  "--gin_file=sizes/tiny.gin",
  "--gin_file=methods/coda.gin",
  "--gin_file=schedules/adapter.gin",
  "--gin_file=runs/finetune.gin",
  "--gin.MIXTURE_OR_TASK_NAME=nothing",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.INITIAL_CHECKPOINT_PATH=tiny_coda",
  "--gin.MODEL_DIR=nowhere",
)
EVAL = (
  "--gin_file=runs/eval.gin",
  "--gin.MIXTURE_OR_TASK_NAME=nothing",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.CHECKPOINT_PATH=tiny_coda",
  "--gin.EVAL_OUTPUT_DIR=nowhere",
)
INFER = (
  "--gin_file=runs/infer.gin",
  "--gin_file=tasks/text.gin",
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
  "--gin.VOCABULARY=tiny",
  "--gin.INPUT_PATH=nowhere.txt",
  "--gin.CHECKPOINT_PATH=tiny_coda",
  "--gin.INFER_OUTPUT_DIR=nowhere",
)

CASES = [
  (train, TRAIN, binding, message)
  for binding, message in [
    ("TRAIN_STEPS=1e1", "TRAIN_STEPS=10.0; expected a whole number, 1 or more"),
    ("TRAIN_STEPS=many", "TRAIN_STEPS='many'; expected a whole number"),
    ("MODEL_DIR='gs://a'", "MODEL_DIR='gs://a'; expected a path of this mach"),
    ("WARMUP_STEPS=x", "WARMUP_STEPS='x'; expected a whole number, 0"),
    ("PEAK=x", "PEAK='x'; expected a number"),
    ("BATCH_SIZE=two", "BATCH_SIZE='two'; expected a whole number"),
    ("BATCH_SIZE=True", "BATCH_SIZE=True; expected a whole number"),
    ("MICROBATCHES=1.5", "MICROBATCHES=1.5; expected a whole number"),
    ("TASK_FEATURE_LENGTHS=16", "TASK_FEATURE_LENGTHS=16; expected {'inputs'"),
    (
      "TASK_FEATURE_LENGTHS={'targets': 8}",
      "TASK_FEATURE_LENGTHS={'targets': ",
    ),
    ("REDUCTIONS=5", "REDUCTIONS=5; expected numbers, 1 or more, in brackets"),
    ("REDUCTIONS=('a',)", "REDUCTIONS=('a',); expected numbers"),
    ("REDUCTION=five", "CodaConfig.reduction is 'five'; expected 1"),
    ("EPSILON=x", "CodaConfig.epsilon='x'; expected above 0"),
    ("DROPOUT_RATE=x", "T5Config.dropout_rate='x'; expected 0 or more"),
    ("DTYPE=bf16", "dtype='bf16' is not known; use bfloat16"),
    ("loop.train.profile_steps=5", "loop.train.profile_steps=5; expected (fir"),
    ("loop.train.profile_steps=(5, 2)", "loop.train.profile_steps=(5, 2); exp"),
    ("loop.train.keep=0", "loop.train.keep=0; expected a whole number"),
    ("loop.train.best_mode=most", "loop.train.best_mode='most'; expected one"),
    ("SEED=x", "SEED='x'; expected a whole number, 0 or more"),
    ("LEARNING_RATE=0.1", "LEARNING_RATE=0.1; expected a schedule, such as @"),
    ("OPTIMIZER=adam", "OPTIMIZER='adam'; expected an optimizer, such as @"),
    ("MODEL=t5", "MODEL='t5'; expected a model, such as @network.Transformer"),
    ("TRAINED=['(']", "TRAINED=['(']; expected regular expressions"),
    ("EVAL_PERIOD=None", "EVAL_PERIOD=None; expected a whole number, 0 or"),
    ("CHECKPOINT_PERIOD=x", "CHECKPOINT_PERIOD='x'; expected a whole number"),
    ("LOG_PERIOD=x", "LOG_PERIOD='x'; expected a whole number, 0 or more"),
    ("SAVE_DTYPE=int4", "SAVE_DTYPE='int4'; expected one of ('float32', 'bf"),
    ("EVAL_EXAMPLES=0", "EVAL_EXAMPLES=0; expected a whole number, 1 or more,"),
    ("LABEL_SMOOTHING=1", "LABEL_SMOOTHING=1; expected 0 or more, below 1"),
    ("FROZEN_DTYPE=float16", "FROZEN_DTYPE='float16'; expected one of ('f"),
    ("MESH=2", "MESH=2; expected {'data': n, 'fsdp': m}"),
    ("MODEL_DIR=5", "MODEL_DIR=5; expected a path"),
    (
      "TRAIN_STEPS=12",
      "warmup_steps=500 with steps=12; expected 0 or more and below steps "
      "(WARMUP_STEPS = 500 in schedules/adapter.gin, TRAIN_STEPS = 12 on the",
    ),
    ("WARMUP_STEPS=30000", "warmup_steps=30000 with steps=20000; expected 0"),
    ("PEAK=-1", "PEAK=-1; expected a number, 0 or more"),
    ("REDUCTION=0.5", "CodaConfig.reduction is 0.5; expected 1 (dense)"),
    ("LAYER_REDUCTIONS=5", "CodaConfig.layer_reductions=5; expected (layer, r"),
    ("LAYER_REDUCTIONS=((9, 2),)", "names layer 9; the encoder has layers 0 t"),
    ("ATTENTION=all", "CodaConfig.attention='all'; expected one of"),
    ("ROUTER=top_k", "CodaConfig.router='top_k'; expected one of"),
    ("EPSILON=0", "CodaConfig.epsilon=0; expected above 0"),
    ("BOTTLENECK_DIM=-1", "CodaConfig.bottleneck_dim=-1; expected a whole"),
    ("DROPOUT_RATE=1", "T5Config.dropout_rate=1; expected 0 or more, below 1"),
    ("DTYPE=float16", "dtype=float16 is refused"),
    ("config.T5Config.emb_dim=0", "T5Config.emb_dim=0; expected a whole"),
    ("config.T5Config.mlp_activations=5", "T5Config.mlp_activations=5; exp"),
    ("GENERATE={'num_beam': 2}", "GENERATE has 'num_beam'; expec"),
    ("seq2seq.Seq2Seq.generate={'top': 2}", "GENERATE has 'top'; expected"),
    ("Z_LOSS=x", "Z_LOSS='x'; expected a number, 0 or more"),
    (
      "OBJECTIVE=seq2seq",
      "OBJECTIVE='seq2seq'; expected an objective, such",
    ),
    (
      "seq2seq.Seq2Seq.generate={'method': 'sample'}",
      "GENERATE has method='sample'; expected one of ('greedy', 'beam'), which",
    ),
  ]
]
CASES += [
  (train, [*TRAIN, *arguments], binding, message)
  for arguments, binding, message in [
    (["--gin.MICROBATCHES=2"], "BATCH_SIZE=5", "batch_size=5 does not divide"),
    (
      ["--gin_file=methods/coda_lora.gin"],
      "LORA_RANK=0",
      "LoraConfig.rank=0; expected a whole number, 1 or more",
    ),
    (
      ["--gin_file=methods/coda_lora.gin"],
      "config.LoraConfig.targets=query",
      "LoraConfig.targets='query'; expected names in brackets",
    ),
    (["--gin_file=schedules/constant.gin"], "PEAK=x", "PEAK='x'; expected a"),
    (
      ["--gin_file=objectives/classify.gin"],
      "LABELS=no",
      "LABELS='no'; expected the texts of a task's targets in brackets",
    ),
    (
      ["--gin_file=objectives/classify.gin"],
      "LABELS=('a', 'a')",
      "LABELS=('a', 'a'); expected the texts of a task's targets in brackets",
    ),
    (
      ["--gin_file=schedules/rsqrt.gin"],
      "WARMUP_STEPS=-1",
      "WARMUP_STEPS=-1; expected a whole number, 0 or more",
    ),
    (
      ["--gin_file=schedules/quickstart.gin"],
      "TRAIN_STEPS=10",
      "(WARMUP_STEPS = 10 in schedules/quickstart.gin, TRAIN_STEPS = 10 on",
    ),
  ]
]
CASES += [
  (eval_lib, EVAL, binding, message)
  for binding, message in [
    ("EVAL_OUTPUT_DIR='gs://a'", "EVAL_OUTPUT_DIR='gs://a'; expected a path"),
    ("REDUCTIONS=(1,'x')", "REDUCTIONS=(1, 'x'); expected numbers"),
    ("TIMING_REPEATS=None", "TIMING_REPEATS=None; expected a whole number, 0"),
    ("EVAL_EXAMPLES=0", "EVAL_EXAMPLES=0; expected a whole number, 1 or more,"),
    ("GENERATE=beam", "GENERATE='beam'; expected arguments of coda_jax.gener"),
    (
      "GENERATE={'method': 'sample'}",
      "GENERATE has method='sample'; expected one of ('greedy', 'beam'), which",
    ),
    ("CHECKPOINT_PATH=5", "CHECKPOINT_PATH=5; expected a path"),
    ("BATCH_SIZE=0", "BATCH_SIZE=0; expected a whole number, 1 or more"),
    ("DTYPE=bf16", "dtype='bf16' is not known"),
    ("SPLIT=5", "SPLIT=5; expected a text"),
  ]
]
CASES += [
  (infer, INFER, binding, message)
  for binding, message in [
    ("INFER_OUTPUT_DIR='gs://a'", "INFER_OUTPUT_DIR='gs://a'; expected a path"),
    ("INPUT_PATH='gs://a'", "INPUT_PATH='gs://a'; expected a path"),
    ("TASK_FEATURE_LENGTHS=16", "TASK_FEATURE_LENGTHS=16; expected {'inputs'"),
    ("BATCH_SIZE=two", "BATCH_SIZE='two'; expected a whole number"),
    ("BATCH_SIZE=2.5", "BATCH_SIZE=2.5; expected a whole number"),
    ("REDUCTION=five", "REDUCTION='five'; expected a number, 1 or more, or N"),
    ("GENERATE=beam", "GENERATE='beam'; expected arguments of coda_jax.gener"),
    (
      "GENERATE={'num_beam': 2}",
      "GENERATE has 'num_beam'; expected some of ['alpha', 'eos_id', 'method'",
    ),
    (
      "GENERATE={'method': 'beam', 'num_beams': 'x'}",
      "GENERATE has num_beams='x'; expected a whole number, 1 or more",
    ),
    ("CHECKPOINT_PATH=5", "CHECKPOINT_PATH=5; expected a path"),
    ("INPUT_PATH=5", "INPUT_PATH=5; expected a path"),
    ("INPUT_TEMPLATE=5", "INPUT_TEMPLATE=5; expected a text"),
    ("SKIP_BAD_ROWS=yes", "SKIP_BAD_ROWS='yes'; expected True or False"),
    ("DTYPE=bf16", "dtype='bf16' is not known; use bfloat16"),
    ("predict.infer.window=x", "predict.infer.window='x'; expected a whole"),
  ]
]


@pytest.mark.parametrize(
  ("program", "arguments", "binding", "message"),
  CASES,
  ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_message(program, arguments, binding, message, capsys, monkeypatch):
  def build(*args, **kwargs):
    pytest.fail("this should have been refused before")

  monkeypatch.setattr(formats, "read", build)
  monkeypatch.setattr(setup, "start", build)
  assert program.main([*arguments, f"--gin.{binding}"]) == 2
  out, err = capsys.readouterr()
  assert out == "" and message in err
  assert err.startswith("python -m coda_jax.") and len(err.splitlines()) == 2
  name = binding.partition("=")[0]
  assert f"{name} = " in err and "on the command line" in err


@pytest.mark.parametrize(
  ("binding", "message"),
  [
    ("TABLE_METRICS=accuracy", "='accuracy'; expected a list, such as ['accur"),
    ("TABLE_METRICS=5", "=5; expected a list, such as ['accuracy']"),
    ("TABLE_METRICS=None", "=None; expected a list, such as ['accuracy']"),
    ("TABLE=5", "=5; expected a text"),
    ("TARGET_TEMPLATE=5", "=5; expected a text"),
    ("VOCABULARY=['tiny']", "=['tiny']; expected 'tiny', 'byt5' or the path"),
  ],
)
def test_values_of_a_table(binding, message, capsys):
  arguments = [
    *EVAL,
    "--gin_file=tasks/table.gin",
    "--gin.MIXTURE_OR_TASK_NAME=@tasks.table_task()",
    "--gin.TABLE=x-{split}.csv",
    "--gin.INPUT_TEMPLATE={a}",
    "--gin.TARGET_TEMPLATE={b}",
    "--gin.VOCABULARY=tiny",
    f"--gin.{binding}",
  ]
  assert eval_lib.main(arguments) == 2
  assert binding.partition("=")[0] + message in capsys.readouterr().err
  assert "table" not in seqio.TaskRegistry.names()


@pytest.mark.parametrize(
  ("task", "binding", "message"),
  [
    ("span_corruption", "CORPUS=x.txt", "filepattern='x.txt' must hold '{spl"),
    ("span_corruption", "CORPUS=5", "filepattern=5 must hold '{split}'"),
    (
      "span_corruption",
      "tasks.span_corruption_task.noise_density=2",
      "noise_density=2; expected a number between 0 and 1",
    ),
    (
      "span_corruption",
      "tasks.span_corruption_task.mean_span_length=0",
      "mean_span_length=0; expected a number, 1 or more",
    ),
    ("mnli", "text_tasks.text_task.name=mnly", "text_task has no set 'mnly'"),
    ("bbc_topic", "bbc_tasks.bbc_task.target=x", "bbc_task has no target 'x'"),
    ("c4", "C4=c4", "data set 'c4' lacks its version"),
    ("bbc_topic", "VOCABULARY=x.model", "no vocabulary 'x.model'"),
  ],
)
def test_values_of_tasks(task, binding, message, capsys):
  arguments = [x for x in EVAL if "TASK_NAME" not in x]
  if not binding.startswith("VOCABULARY"):
    arguments += ["--gin.VOCABULARY=tiny"]
  arguments += [f"--gin_file=tasks/{task}.gin", f"--gin.{binding}"]
  assert eval_lib.main(arguments) == 2
  err = capsys.readouterr().err
  name, _, value = binding.partition("=")
  assert message in err
  assert f"({name} = " in err and f"{value} on the" in err.replace("'", "")
