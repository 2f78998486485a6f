"""One run of the quickstart: train, then evaluate on the test split."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coda_jax import cli
from coda_jax.checkpoints import load_pretrained
from coda_jax.t5.network import Transformer
from coda_jax.training import loop
from coda_jax.training.evaluation import Evaluation

# In tokens. The median article has 620. The topic and the headline show in the
# first ones, and more passes over the articles are worth more than their ends.
LENGTHS = {
  "topic": {"inputs": 256, "targets": 8},
  "headline": {"inputs": 128, "targets": 32},
  "find": {"inputs": 256, "targets": 32},
}
STEPS = {"topic": 150, "headline": 60, "find": 30}
BATCH_SIZE = 16
EVAL_EXAMPLES = 64  # of the validation split, for its loss


@dataclasses.dataclass(frozen=True)
class Method:
  """A method to compare.

  Attributes:
    label: its name in tables and plots.
    method: a file of configs/methods/.
    macros: gin macros by name, INITIAL_CHECKPOINT_PATH among them.
    tasks: those that it is trained on.
  """

  label: str
  method: str
  macros: Mapping[str, Any]
  tasks: Sequence[str] = tuple(LENGTHS)


def _coda(label: str, *tasks: str, **macros: Any) -> Method:
  macros = {"INITIAL_CHECKPOINT_PATH": "tiny_coda", **macros}
  return Method(label, "coda", macros, tasks or tuple(LENGTHS))


METHODS = (
  Method(
    "parallel adapter",
    "adapter",
    # The layers of tiny change their input by 10 to 30.
    {"INITIAL_CHECKPOINT_PATH": "tiny", "ADAPTER_SCALE": 100},
  ),
  _coda("CoDA r=8", REDUCTION=8),
  _coda("CoDA r=32", REDUCTION=32),
  # Where content decides which tokens matter, the router has to be better.
  _coda("random tokens, r=8", "find", REDUCTION=8, ROUTER="random"),
  _coda("first tokens, r=8", "find", REDUCTION=8, ROUTER="truncation"),
)


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished run.

  Attributes:
    model: with the adapter's configuration.
    params: the pretrained parameters with the adapter's.
    test: metrics on the test split.
  """

  model: Transformer
  params: Any
  test: Mapping[str, float]


def run(
  method: Method,
  task: str,
  folder: Path,
  bindings: Mapping[str, Any] | None = None,
) -> Result:
  """Finetunes through gin, as `python -m coda_jax.train` would, and tests.

  Args:
    method: the method to train.
    task: a key of `LENGTHS`.
    folder: of the run; emptied first.
    bindings: further gin macros, such as {"TRAIN_STEPS": 10}.
  """
  shutil.rmtree(folder, ignore_errors=True)
  macros = {
    **method.macros,
    "MODEL_DIR": str(folder),
    "TASK_FEATURE_LENGTHS": LENGTHS[task],
    "BATCH_SIZE": BATCH_SIZE,
    "TRAIN_STEPS": STEPS[task],
    "EVAL_EXAMPLES": EVAL_EXAMPLES,
    "loop.train.predict": False,
    **(bindings or {}),
  }
  cli.parse_gin(
    [
      "models/t5_1_1.gin",
      "sizes/tiny.gin",
      f"methods/{method.method}.gin",
      f"tasks/bbc_{task}.gin",
      "runs/finetune.gin",
      "schedules/quickstart.gin",
    ],
    [(name, repr(value)) for name, value in macros.items()],
  )
  cli.configured(loop.train)()
  model, params = load_pretrained(folder / "adapter")
  test = Evaluation(
    model,
    f"bbc_{task}",
    split="test",
    task_feature_lengths=LENGTHS[task],
    batch_size=BATCH_SIZE,
  )(params)
  return Result(model, params, test)
