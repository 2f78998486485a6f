"""Compares ways to choose the tokens that go through a layer, over seeds.

Every run adapts the frozen `tiny` by self-distillation, as
experiments/tiny_coda.gin does, for the same steps; only the choice differs. It
is judged by held-out reading tasks: the share of the answers' tokens that are
right. Writes OUTPUT/routers.json and prints a Markdown table.

  python scripts/compare_routers.py --output=runs/routers

needs the tables of scripts/build_reading.py. A run that is finished is kept.
"""

import argparse
import json
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coda_jax import cli, load_pretrained
from coda_jax.data import vocabularies
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import loop

CHOICES: dict[str, Mapping[str, Any]] = {
  "learned, soft top-k": {},
  "learned, sigmoid gate": {"ROUTER": "sigmoid"},
  "random": {"ROUTER": "random"},
  "the first tokens": {"ROUTER": "truncation"},
  "one token": {"REDUCTION": 256},
  "one token, another layer dense": {
    "REDUCTION": 256,
    "LAYER_REDUCTIONS": ((0, 1), (-2, 1), (-1, 1)),
  },
}
TASKS = ("about", "find", "before", "intruder", "title", "topic")
LENGTHS = (256, 64)
BATCH_SIZE = 30


def main() -> None:
  """Runs the comparison, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add("--output", type=pathlib.Path, required=True)
  add("--corpus", default="data/corpus/*-{split}-*.txt")
  add("--reading", default="data/pairs/reading-{split}.jsonl")
  add("--reduction", type=float, default=5)
  add("--seeds", type=int, default=3)
  add("--steps", type=int, default=100)
  arguments = parser.parse_args()
  examples = list(batches(arguments.reading.format(split="validation")))
  rows = [{"choice": "all, the dense model", **score("tiny", examples)}]
  for seed in range(arguments.seeds):
    for choice, macros in CHOICES.items():
      print(f"\n{choice}, seed {seed}", flush=True)
      name = f"{choice.replace(', ', '_').replace(' ', '_')}_{seed}"
      folder = arguments.output / name
      if not (folder / "adapter").exists():
        train(folder, arguments, {"SEED": seed, **macros})
      row = {"choice": choice, "seed": seed, "steps": arguments.steps}
      rows.append({**row, **score(folder / "adapter", examples)})
      path = arguments.output / "routers.json"
      path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
      print(rows[-1], flush=True)
  print(f"\n| | {' | '.join(TASKS)} |\n| --- |{' --- |' * len(TASKS)}")
  for choice in dict.fromkeys(row["choice"] for row in rows):
    own = [row for row in rows if row["choice"] == choice]
    cells = [spread([row[task] for row in own]) for task in TASKS]
    print(f"| {choice} | {' | '.join(cells)} |")


def train(
  folder: pathlib.Path,
  arguments: argparse.Namespace,
  macros: Mapping[str, Any],
) -> None:
  """One run of experiments/tiny_coda.gin at one r."""
  macros = {
    "MODEL_DIR": str(folder),
    "CORPUS": arguments.corpus,
    "READING": arguments.reading,
    "REDUCTION": arguments.reduction,
    "REDUCTIONS": (),
    "TRAIN_STEPS": arguments.steps,
    "WARMUP_STEPS": 10,
    "EVAL_PERIOD": 0,
    "EVAL_EXAMPLES": BATCH_SIZE,
    "CHECKPOINT_PERIOD": 0,
    **macros,
  }
  cli.parse_gin(
    ["experiments/tiny_coda.gin"],
    [(name, repr(value)) for name, value in macros.items()],
  )
  cli.configured(loop.train)()


def batches(path: str) -> Iterable[tuple[str, dict[str, np.ndarray]]]:
  """The held-out examples of each task, as (task, batch)."""
  vocabulary = vocabularies.load("tiny")
  examples = [json.loads(line) for line in open(path)]
  for task in TASKS:
    own = [row for row in examples if row["task"] == task]
    for start in range(0, len(own) - BATCH_SIZE + 1, BATCH_SIZE):
      inputs, targets = (
        np.zeros((BATCH_SIZE, length), np.int32) for length in LENGTHS
      )
      for i, row in enumerate(own[start : start + BATCH_SIZE]):
        for array, text in ((inputs, row["text"]), (targets, row["target"])):
          ids = vocabulary.encode(text)[: array.shape[1] - 1] + [1]
          array[i, : len(ids)] = ids
      yield (
        task,
        {
          "encoder_input_tokens": inputs,
          "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
          "decoder_target_tokens": targets,
          "decoder_loss_weights": (targets > 0).astype(np.int32),
        },
      )


def score(
  checkpoint: Any, examples: list[tuple[str, dict[str, np.ndarray]]]
) -> dict[str, float]:
  """The share of right target tokens of each task."""
  model, params = load_pretrained(checkpoint)
  rngs = {"routing": jax.random.key(0)}

  @jax.jit
  def right(params: Any, batch: Any) -> jax.Array:
    sums = Seq2Seq().sums(model, params, batch, train=False, rngs=rngs)
    return jnp.stack([sums.metrics["token_accuracy"], sums.weight])

  found = {
    task: sum(
      np.asarray(right(params, b)) for name, b in examples if name == task
    )
    for task in TASKS
  }
  return {task: float(total[0] / total[1]) for task, total in found.items()}


def spread(values: list[float]) -> str:
  """The mean in percent, with the lowest and the highest."""
  values = sorted(100 * value for value in values)
  if len(values) == 1:
    return f"{values[0]:.1f}"
  return f"{statistics.mean(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})"


if __name__ == "__main__":
  main()
