"""Errors name the file or the flag that set what is wrong."""

import pytest

from coda_jax import bindings

FILES = {
  "schedules/base.gin": """
include 'schedules/steps.gin'
PEAK = 1e-3
optimizers.warmup_linear:
  peak = %PEAK
  steps = %TRAIN_STEPS
""",
  "schedules/steps.gin": "TRAIN_STEPS = 5\nPEAK = 2\nREST = %PEAK\n",
  "run.gin": """
tasks.table_task.inputs = 'topic: {text}'
other/tasks.table_task.inputs = 'x'
loop.train.model = @network.Transformer()
loop.train.save_dtype = 'float32'
include 'schedules/base.gin'
REST = %PEAK
LONG = 'a text that is longer than anybody would want to read in an error'
""",
}


@pytest.fixture
def found(tmp_path):
  for name, text in FILES.items():
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
  flags = [("optimizers.warmup_linear.warmup_steps", "%REST"), ("KEEP", "0")]
  return bindings.read(["run.gin"], flags, ["nowhere", str(tmp_path)])


def test_the_last_one_holds(found):
  assert str(found["PEAK"]) == "PEAK = 0.001 in schedules/base.gin"
  assert str(found["REST"]) == "REST = %PEAK in run.gin"
  assert str(found["TRAIN_STEPS"]) == "TRAIN_STEPS = 5 in schedules/steps.gin"
  assert str(found["KEEP"]) == "KEEP = 0 on the command line"
  assert found["train.model"].value == "@network.Transformer()"
  assert str(found["LONG"]).endswith("to read in an... in run.gin")


SPLIT = "\n  In call to configurable "


@pytest.mark.parametrize(
  ("error", "places"),
  [
    # A parameter of the function that gin was calling, through its macro.
    (
      f"steps=5 is few{SPLIT}'warmup_linear' (<function>)",
      "TRAIN_STEPS = 5 in schedules/steps.gin",
    ),
    # A macro of a macro.
    (
      f"warmup_steps=2{SPLIT}'optimizers.warmup_linear' (<f>)",
      "PEAK = 0.001 in schedules/base.gin",
    ),
    # By the name of its function, or of the macro.
    (
      "warmup_linear.peak is low",
      "PEAK = 0.001 in schedules/base.gin",
    ),
    ("warmup_linear has steps=5", "TRAIN_STEPS = 5 in schedules/steps.gin"),
    ("KEEP=0 and KEEP = 0", "KEEP = 0 on the command line"),
    # A quoted text, in its scope, and outside of it.
    (
      f"'topic: {{text}}' is bad{SPLIT}'table_task' (<f>)",
      "tasks.table_task.inputs = 'topic: {text}' in run.gin",
    ),
    (
      f"inputs='x'{SPLIT}'table_task' (<f>) in scope 'other'",
      "other/tasks.table_task.inputs = 'x' in run.gin",
    ),
    (
      f"inputs='y'{SPLIT}'table_task' (<f>) in scope 'third'",
      "tasks.table_task.inputs = 'topic: {text}' in run.gin",
    ),
  ],
)
def test_what_a_message_names(found, error, places):
  message = error.partition(SPLIT)[0]
  assert bindings.explain(error, found, "train") == f"{message} ({places})"


@pytest.mark.parametrize(
  "message",
  [
    "choose another KEEP",
    "the model is a plain T5; steps, peak",
    "other=5; expected one of ('float32', 'bfloat16')",
    "/data/model/steps.gin does not exist. KEEP",
  ],
)
def test_what_is_only_mentioned_is_left_alone(found, message):
  assert bindings.explain(message, found, "train") == message
