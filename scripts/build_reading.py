"""Makes reading tasks out of the corpus, as tables for a training run.

The tasks are those of pretraining_examples.py that can be written as text: the
answer stands somewhere in the input, or is a title or a topic. Writes
`reading-{train,validation}.jsonl`, rows {"task", "text", "target"}.

  python scripts/build_pairs.py --corpus=data/corpus --output=data/pairs
  python scripts/build_reading.py --corpus=data/corpus --pairs=data/pairs \
    --output=data/pairs
"""

import argparse
import itertools
import json
import pathlib

import numpy as np
import pretrain_tiny
import pretraining_examples as examples
import sentencepiece

# {task: its share}
TASKS = {
  "title": 0.2,
  "topic": 0.2,
  "find": 0.15,
  "before": 0.1,
  "about": 0.2,
  "intruder": 0.15,
}
ROWS = {"train": 40_000, "validation": 600}


def rows(text: examples.Text, pieces, number: int, seed: int):
  """Yields {"task", "text", "target"}.

  Args:
    text: a split of the corpus.
    pieces: the SentencePiece model.
    number: of rows.
    seed: of the draws.
  """
  rng = np.random.default_rng(seed)
  names, shares = zip(*TASKS.items(), strict=True)
  for task in rng.choice(names, number, p=shares):
    batch = examples.batch(rng, text, 1, task)
    source, target = (
      pieces.decode([i for i in batch[name][0].tolist() if i > examples.EOS])
      for name in ("inputs", "targets")
    )
    yield {"task": str(task), "text": source, "target": target}


def main() -> None:
  """Writes the tables, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  assets = pathlib.Path(__file__).parents[1] / "coda_jax/assets/vocabulary"
  add = parser.add_argument
  add("--corpus", type=pathlib.Path, default=pathlib.Path("data/corpus"))
  add("--pairs", type=pathlib.Path, default=pathlib.Path("data/pairs"))
  add("--output", type=pathlib.Path, required=True)
  add("--vocabulary", type=pathlib.Path, default=assets / "tiny.model")
  add("--tokens_share", type=float, default=0.3, help="of the documents")
  add("--rows", type=int, help="of each split")
  options = parser.parse_args()
  options.output.mkdir(parents=True, exist_ok=True)
  pieces = sentencepiece.SentencePieceProcessor(
    model_file=str(options.vocabulary)
  )
  for seed, (split, number) in enumerate(ROWS.items()):
    text = pretrain_tiny.read_text(
      itertools.starmap, options.corpus, options.pairs, split, options
    )
    file = options.output / f"reading-{split}.jsonl"
    new = file.with_suffix(".new")
    with new.open("w") as table:
      for row in rows(text, pieces, options.rows or number, seed):
        table.write(json.dumps(row) + "\n")
    new.replace(file)
    print(f"{file}: {options.rows or number} rows", flush=True)


if __name__ == "__main__":
  main()
