"""Finetunes the shipped models on BBC News and measures accuracy and speed.

P-Adapter (parallel adapters and dense layers) against CoDA at r = 3 and 5,
naming topics and writing headlines. Writes results.json, accuracy_speed.png and
routing.html.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coda_jax import cli, decoding
from coda_jax.nn import router

with cli.quiet_imports():  # These import tensorflow.
  from coda_jax.data import baselines, bbc, vocabularies
  from coda_jax.quickstart import measure, page, report
  from coda_jax.quickstart.runs import LENGTHS, METHODS, Method, Result, run

Runs = Mapping[tuple[str, str], Result]

TASKS = ("topic", "headline")
TIMED_ARTICLES = 16
SHOWN_ARTICLES = 6


def main(argv: list[str] | None = None) -> int:
  """Runs the quickstart; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m coda_jax.quickstart",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--output", type=Path, default=Path("runs/quickstart"))
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--steps", type=int, help="of each of the six runs")
  args = parser.parse_args(argv)
  try:
    splits = bbc.split(bbc.read())
  except FileNotFoundError as error:
    print(f"python -m coda_jax.quickstart: {error}", file=sys.stderr)
    return 2

  bindings: dict[str, Any] = {"SEED": args.seed}
  if args.steps:
    bindings |= {"TRAIN_STEPS": args.steps, "WARMUP_STEPS": args.steps // 10}
  args.output.mkdir(parents=True, exist_ok=True)
  started = time.monotonic()
  print("baselines: TF-IDF with logistic regression, first 8 words")
  references = _baselines(splits)
  runs = _train(args.output / "models", bindings, started)

  print("\nmeasuring, the methods in turn")
  vocabulary = vocabularies.load("tiny")
  texts = [bbc.topic_text(a) for a in splits["test"][:TIMED_ARTICLES]]
  costs = measure.costs(
    {method.label: runs[method.label, "topic"] for method in METHODS},
    measure.batch(vocabulary, "topic", texts),
    repeats=7,
  )
  rows = [_row(method, runs, costs[method.label]) for method in METHODS]
  examples = _examples(vocabulary, splits["test"][:SHOWN_ARTICLES], runs)
  layers = runs[METHODS[0].label, "topic"].model.config.num_encoder_layers

  report.write_json(args.output / "results.json", rows, references)
  report.plot(args.output / "accuracy_speed.png", rows, references[:2])
  (args.output / "routing.html").write_text(page.page(examples, layers))
  print(f"\n{report.table([*references, *rows])}")
  minutes = (time.monotonic() - started) / 60
  print(f"\nwrote {args.output}/ after {minutes:.1f} minutes")
  return 0


def _train(folder: Path, bindings: Mapping[str, Any], started: float) -> Runs:
  """Every method on every task."""
  plan = [(method, task) for task in TASKS for method in METHODS]
  runs = {}
  for i, (method, task) in enumerate(plan, 1):
    minutes = (time.monotonic() - started) / 60
    print(f"\n[{i}/{len(plan)}, {minutes:.1f} min] {method.label}, {task}")
    name = f"{task}_{method.method}_r{method.reduction}"
    runs[method.label, task] = run(method, task, folder / name, bindings)
  return runs


def _baselines(splits: Mapping[str, list[bbc.Article]]) -> list[dict[str, Any]]:
  """The scores of a bag of words and of the first words, on the same split."""

  def first_64(article: bbc.Article) -> str:
    return baselines.first_words(bbc.topic_text(article), 64)

  rows = []
  for label, scores in [
    ("TF-IDF, all words", baselines.tfidf_topic(splits)),
    ("TF-IDF, first 64 words", baselines.tfidf_topic(splits, first_64)),
  ]:
    rows.append(
      {
        "label": label,
        "dev_accuracy": scores["validation"]["accuracy"],
        "test_accuracy": scores["test"]["accuracy"],
      }
    )
  scores = baselines.lead_headline(splits)
  rows.append(
    {
      "label": "first 8 words",
      "dev_rouge1": scores["validation"]["rouge1"],
      "test_rouge1": scores["test"]["rouge1"],
    }
  )
  return rows


def _row(method: Method, runs: Runs, cost: Mapping[str, Any]) -> dict[str, Any]:
  topic, headline = (runs[method.label, task] for task in TASKS)
  rouge = {
    f"{split}_{name}": getattr(headline, split)[name]
    for split in ("dev", "test")
    for name in ("rouge1", "rouge2", "rougeL")
  }
  return {
    "label": method.label,
    "method": method.method,
    "reduction": method.reduction,
    "dev_accuracy": topic.dev["accuracy"],
    "test_accuracy": topic.test["accuracy"],
    **cost,
    **rouge,
  }


def _examples(
  vocabulary: Any, articles: list[bbc.Article], runs: Runs
) -> list[page.Example]:
  """The articles, shaded as each routed topic model saw them."""
  texts = [bbc.topic_text(article) for article in articles]
  tokens = measure.batch(vocabulary, "topic", texts)
  bodies = measure.batch(vocabulary, "headline", [a.body for a in articles])
  shaded = {}
  for method in METHODS:
    topic, headline = (runs[method.label, task] for task in TASKS)
    if not topic.model.config.is_routed:
      continue
    _, routing = topic.model.apply(
      {"params": topic.params},
      tokens,
      enable_dropout=False,
      return_routing=True,
      method=topic.model.encode,
    )
    shaded[method.label] = (
      router.layer_share(routing, tokens > 0),
      _texts(vocabulary, topic, tokens, LENGTHS["topic"]),
      _texts(vocabulary, headline, bodies, LENGTHS["headline"]),
    )
  examples = []
  for i, article in enumerate(articles):
    ids = [int(t) for t in tokens[i] if t > 0]
    pieces = [_piece(vocabulary, t) for t in ids]
    shadings = [
      page.Shading(
        label, topics[i], headlines[i], pieces, share[i, : len(ids)].tolist()
      )
      for label, (share, topics, headlines) in shaded.items()
    ]
    examples.append(page.Example(article.topic, article.title, shadings))
  return examples


def _texts(
  vocabulary: Any, result: Result, tokens: Any, lengths: Mapping[str, int]
) -> list[str]:
  decoded = decoding.generate(
    result.model, result.params, tokens, max_length=lengths["targets"]
  )
  return [vocabulary.decode(row) for row in decoded.tokens.tolist()]


def _piece(vocabulary: Any, token: int) -> str:
  """A token as it reads in the text."""
  piece = vocabulary.tokenizer.id_to_piece(token)
  if piece == "</s>":
    return ""
  return "·" if piece.startswith("<0x") else piece.replace("▁", " ")


if __name__ == "__main__":
  sys.exit(main())
