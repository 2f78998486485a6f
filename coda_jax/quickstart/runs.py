"""One run of the quickstart: train, then evaluate on the test split."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coda_jax import cli
from coda_jax.checkpoints import load_adapter, load_pretrained
from coda_jax.t5.network import Transformer
from coda_jax.training import loop
from coda_jax.training.evaluation import Evaluation

# In tokens. The median article has 620. The topic shows in the first ones, the
# headline even sooner, and more passes over the articles are worth more than
# their ends.
LENGTHS = {
  "topic": {"inputs": 256, "targets": 8},
  "headline": {"inputs": 128, "targets": 32},
}
STEPS = {"topic": 500, "headline": 100}
# Peaks of the learning rate. tiny_dense can write simple headlines before it is
# finetuned; steps as large as topics need would undo that first.
PEAKS = {"topic": 3e-2, "headline": 1e-4}
BATCH_SIZE = 16
# The width of the adapters of tiny_coda, for P-Adapter too.
BOTTLENECK_DIM = 32


@dataclasses.dataclass(frozen=True)
class Method:
  """A method to compare.

  Attributes:
    label: its name in tables and plots.
    method: a file of configs/methods/.
    reduction: r.
    checkpoint: the pretrained model that it starts from.
  """

  label: str
  method: str
  reduction: float
  checkpoint: str


METHODS = (
  Method("P-Adapter", "adapter", 1, "tiny_dense"),
  Method("CoDA r=3", "coda", 3, "tiny_coda"),
  Method("CoDA r=5", "coda", 5, "tiny_coda"),
)


@dataclasses.dataclass(frozen=True)
class Result:
  """A finished run.

  Attributes:
    model: with the adapter's configuration.
    params: the pretrained parameters with the adapter's.
    dev: metrics on the validation split.
    test: metrics on the test split.
  """

  model: Transformer
  params: Any
  dev: Mapping[str, float]
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
    task: "topic" or "headline".
    folder: of the run; emptied first.
    bindings: further gin macros, such as {"TRAIN_STEPS": 10}.
  """
  shutil.rmtree(folder, ignore_errors=True)
  macros = {
    "MODEL_DIR": str(folder),
    "INITIAL_CHECKPOINT_PATH": method.checkpoint,
    "TASK_FEATURE_LENGTHS": LENGTHS[task],
    "REDUCTION": method.reduction,
    "BOTTLENECK_DIM": BOTTLENECK_DIM,
    "BATCH_SIZE": BATCH_SIZE,
    "TRAIN_STEPS": STEPS[task],
    "PEAK": PEAKS[task],
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
  dev = cli.configured(loop.train)()
  model, params = load_pretrained(macros["INITIAL_CHECKPOINT_PATH"])
  model, params = load_adapter(folder / "adapter", model, params)
  test = Evaluation(
    model,
    f"bbc_{task}",
    split="test",
    task_feature_lengths=LENGTHS[task],
    batch_size=BATCH_SIZE,
  )(params)
  return Result(model, params, dev, test)
