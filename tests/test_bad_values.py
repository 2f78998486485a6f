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
    ("WARMUP_STEPS=x", "WARMUP_STEPS='x'; expected a whole number, 0"),
    ("PEAK=x", "PEAK='x'; expected a number"),
    ("BATCH_SIZE=two", "BATCH_SIZE='two'; expected a whole number"),
    ("BATCH_SIZE=True", "BATCH_SIZE=True; expected a whole number"),
    ("MICROBATCHES=1.5", "MICROBATCHES=1.5; expected a whole number"),
    ("TASK_FEATURE_LENGTHS=16", "TASK_FEATURE_LENGTHS=16; expected {'inputs'"),
    ("TASK_FEATURE_LENGTHS={'inputs': 8}", "TASK_FEATURE_LENGTHS={'inputs': 8"),
    ("REDUCTIONS=5", "REDUCTIONS=5; expected numbers, 1 or more, in brackets"),
    ("REDUCTIONS=('a',)", "REDUCTIONS=('a',); expected numbers"),
    ("REDUCTION=five", "CodaConfig.reduction is 'five'; expected 1"),
    ("EPSILON=x", "CodaConfig.epsilon='x'; expected above 0"),
    ("DROPOUT_RATE=x", "T5Config.dropout_rate='x'; expected 0 or more"),
    ("DTYPE=bf16", "dtype 'bf16' is not known (DTYPE); use bfloat16"),
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
    ("loop.train.generate={'num_beam': 2}", "GENERATE has 'num_beam'; expec"),
    (
      "loop.train.generate={'method': 'sample'}",
      "GENERATE has method='sample'; expected one of ('greedy', 'beam'), which",
    ),
  ]
]
CASES += [
  (eval_lib, EVAL, binding, message)
  for binding, message in [
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
    ("DTYPE=bf16", "dtype 'bf16' is not known (DTYPE)"),
    ("SPLIT=5", "SPLIT=5; expected a text"),
  ]
]
CASES += [
  (infer, INFER, binding, message)
  for binding, message in [
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
    ("DTYPE=bf16", "dtype 'bf16' is not known (DTYPE); use bfloat16"),
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
