"""Finetunes the shipped T5 on BBC News and measures accuracy and speed.

Parallel adapters beside dense layers against CoDA at two reductions, on three
tasks: naming topics, writing headlines, and finding words in a text. Writes
results.json, accuracy_speed.png and routing.html.
"""

import argparse
import re
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

METRICS = ("accuracy", "rouge1", "rouge2", "rougeL")
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
  parser.add_argument("--steps", type=int, help="of each run")
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
  print("baselines: TF-IDF, and the first 8 words as a headline")
  references = _baselines(splits)
  runs = _train(args.output / "models", bindings, started)

  print("\nmeasuring, the methods in turn")
  vocabulary = vocabularies.load("tiny")
  texts = [_topic(article) for article in splits["test"][:TIMED_ARTICLES]]
  costs = measure.costs(
    {method.label: runs[method.label, "find"] for method in METHODS},
    measure.batch(vocabulary, "topic", texts),
    repeats=7,
  )
  rows = [_row(method, runs, costs[method.label]) for method in METHODS]
  examples = _examples(vocabulary, splits["test"][:SHOWN_ARTICLES], runs)
  layers = runs[METHODS[0].label, "topic"].model.config.num_encoder_layers

  report.write_json(args.output / "results.json", rows, references)
  report.plot(args.output / "accuracy_speed.png", rows, references[:1])
  (args.output / "routing.html").write_text(page.page(examples, layers))
  print(f"\n{report.table([*references, *rows])}\n")
  print("\n".join(report.sentences(rows)))
  minutes = (time.monotonic() - started) / 60
  print(f"\nwrote {args.output}/ after {minutes:.1f} minutes")
  return 0


def _train(folder: Path, bindings: Mapping[str, Any], started: float) -> Runs:
  """Every method on every task."""
  plan = [
    (method, task)
    for task in LENGTHS
    for method in METHODS
    if task in method.tasks
  ]
  runs = {}
  for i, (method, task) in enumerate(plan, 1):
    minutes = (time.monotonic() - started) / 60
    print(f"\n[{i}/{len(plan)}, {minutes:.1f} min] {method.label}, {task}")
    name = re.sub(r"\W+", "_", f"{task} {method.label}")
    runs[method.label, task] = run(method, task, folder / name, bindings)
  return runs


def _baselines(splits: Mapping[str, list[bbc.Article]]) -> list[dict[str, Any]]:
  """The scores of a bag of words and of the first words, on the same split.

  The bag of words for topics reads what the models read, 256 tokens.
  """
  vocabulary = vocabularies.load("tiny")
  length = LENGTHS["topic"]["inputs"]

  def cut(article: bbc.Article) -> str:
    return vocabulary.decode(
      vocabulary.encode(bbc.topic_text(article))[:length]
    )

  return [
    {
      "label": "TF-IDF",
      **_scores("topic", baselines.tfidf_topic(splits, cut)),
    },
    {
      "label": "first 8 words",
      **_scores("headline", baselines.lead_headline(splits)),
    },
  ]


def _topic(article: bbc.Article) -> str:
  return f"topic: {bbc.topic_text(article)}"


def _scores(
  task: str, metrics: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
  """{"test_topic_accuracy": ...} of {"test": {"accuracy": ...}}."""
  return {
    f"{split}_{task}_{name}": value
    for split, values in metrics.items()
    for name, value in values.items()
    if name in METRICS
  }


def _row(method: Method, runs: Runs, cost: Mapping[str, Any]) -> dict[str, Any]:
  row = {"label": method.label, "macros": dict(method.macros), **cost}
  for task in method.tasks:
    result = runs[method.label, task]
    row |= _scores(task, {"test": result.test})
  return row


def _examples(
  vocabulary: Any, articles: list[bbc.Article], runs: Runs
) -> list[page.Example]:
  """The articles, shaded as each routed topic model saw them."""
  tokens = measure.batch(vocabulary, "topic", [_topic(a) for a in articles])
  bodies = measure.batch(
    vocabulary, "headline", [f"headline: {a.body}" for a in articles]
  )
  shaded = {}
  for method in METHODS:
    topic, headline = (
      runs.get((method.label, task)) for task in ("topic", "headline")
    )
    if not topic or not headline or not topic.model.config.is_routed:
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
