"""Compares one elastic adapter with adapters trained at each r alone.

On the quickstart's topic task, from the same shipped CoDA model: one run whose
steps sample r, and a run for each r. Writes OUTPUT/elastic.json and prints a
Markdown table, of dev and test articles together.

  python scripts/compare_elastic.py --output=runs/elastic
"""

import argparse
import dataclasses
import json
import pathlib
import statistics

from coda_jax.quickstart import runs
from coda_jax.t5.network import Transformer
from coda_jax.training import inputs
from coda_jax.training.evaluation import Evaluation

REDUCTIONS = (2, 3, 5, 8)


def main() -> None:
  """Runs the comparison, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--seeds", type=int, default=1)
  parser.add_argument("--steps", type=int, default=runs.STEPS["topic"])
  parser.add_argument(
    "--elastic_steps", type=int, default=2 * runs.STEPS["topic"]
  )
  arguments = parser.parse_args()
  coda = next(m for m in runs.METHODS if m.method == "coda")
  rows = []
  for seed in range(arguments.seeds):
    for trained_at in (REDUCTIONS, *((r,) for r in REDUCTIONS)):
      elastic = len(trained_at) > 1
      name = "elastic" if elastic else f"r{trained_at[0]}"
      print(f"\n{name}, seed {seed}")
      steps = arguments.elastic_steps if elastic else arguments.steps
      result = runs.run(
        dataclasses.replace(coda, reduction=trained_at[0]),
        "topic",
        arguments.output / f"{name}_{seed}",
        {
          "REDUCTIONS": trained_at if elastic else (),
          "SEED": seed,
          "TRAIN_STEPS": steps,
        },
      )
      for r in trained_at:
        rows.append(
          {
            "trained": name,
            "seed": seed,
            "steps": steps,
            "reduction": r,
            **_accuracies(result, r),
          }
        )
      path = arguments.output / "elastic.json"
      path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
  print("\n| r | trained at r alone | elastic |\n| --- | --- | --- |")
  for r in REDUCTIONS:
    alone, elastic = (
      100
      * statistics.mean(
        row["accuracy"]
        for row in rows
        if row["reduction"] == r and row["trained"] == name
      )
      for name in (f"r{r}", "elastic")
    )
    print(f"| {r} | {alone:.1f} | {elastic:.1f} |")


def _accuracies(result: runs.Result, reduction: float) -> dict[str, float]:
  """Of each split, and of both splits' articles together."""
  model = Transformer(result.model.config.with_reduction(reduction))
  accuracies, right, total = {}, 0.0, 0
  for split in ("validation", "test"):
    evaluation = Evaluation(
      model,
      "bbc_topic",
      split=split,
      task_feature_lengths=runs.LENGTHS["topic"],
      batch_size=runs.BATCH_SIZE,
    )
    accuracy = evaluation(result.params)["accuracy"]
    accuracies[f"{split}_accuracy"] = accuracy
    count = inputs.num_examples("bbc_topic", split)
    right, total = right + accuracy * count, total + count
  return {**accuracies, "accuracy": right / total}


if __name__ == "__main__":
  main()
