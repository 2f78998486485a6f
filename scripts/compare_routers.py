"""Compares routers on the quickstart's topic task at one r, over seeds.

Every run starts from the same shipped CoDA model and takes the same steps; only
the router differs. Writes OUTPUT/routers.json and prints a Markdown table.

  python scripts/compare_routers.py --output=runs/routers
"""

import argparse
import dataclasses
import json
import pathlib
import statistics

from coda_jax.quickstart.runs import METHODS, run

ROUTERS = ("soft_top_k", "sigmoid", "truncation")


def main() -> None:
  """Runs the comparison, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--reduction", type=float, default=5)
  parser.add_argument("--seeds", type=int, default=3)
  arguments = parser.parse_args()
  coda = next(method for method in METHODS if method.method == "coda")
  coda = dataclasses.replace(coda, reduction=arguments.reduction)
  rows = []
  for seed in range(arguments.seeds):
    for name in ROUTERS:
      print(f"\nrouter {name}, seed {seed}")
      result = run(
        coda,
        "topic",
        arguments.output / f"{name}_{seed}",
        {"ROUTER": name, "SEED": seed},
      )
      rows.append(
        {
          "router": name,
          "seed": seed,
          "reduction": arguments.reduction,
          "dev_accuracy": result.dev["accuracy"],
          "test_accuracy": result.test["accuracy"],
        }
      )
      path = arguments.output / "routers.json"
      path.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
  print("\n| router | dev accuracy | test accuracy |\n| --- | --- | --- |")
  for name in ROUTERS:
    cells = [
      _spread([row[field] for row in rows if row["router"] == name])
      for field in ("dev_accuracy", "test_accuracy")
    ]
    print(f"| {name} | {' | '.join(cells)} |")


def _spread(values: list[float]) -> str:
  values = sorted(100 * value for value in values)
  return f"{statistics.mean(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})"


if __name__ == "__main__":
  main()
