"""Trains a shallow student of a sentence encoder, for comparison with CoDA.

What sentence-transformers' examples do to make a model faster: keep some of the
layers, and train all of their weights to give the whole model's embeddings
(squared error), on texts without labels. AdamW, linear warm-up and decay.

  python scripts/shallow_student.py --model=all-MiniLM-L6-v2 --layers=0,2,5 \
    --texts='data/retrieval/*-train-*.txt' --output=runs/student_3_layers
"""

import argparse
import copy
import glob
import os
import random
from collections.abc import Iterator

import torch
from sentence_transformers import SentenceTransformer

from coda_jax.checkpoints import formats

# Of the pieces that documents are cut into.
PIECE_WORDS = 190


def pieces(pattern: str, seed: int) -> Iterator[str]:
  """Yields pieces of the documents, one a line, in random order, for ever."""
  found = []
  for path in sorted(glob.glob(pattern)):
    with open(path, encoding="utf-8") as file:
      for line in file:
        words = line.split()
        for start in range(0, len(words), PIECE_WORDS):
          found.append(" ".join(words[start : start + PIECE_WORDS]))
  if not found:
    raise FileNotFoundError(f"no text matches --texts={pattern}")
  rng = random.Random(seed)
  while True:
    rng.shuffle(found)
    yield from found


def shallow(
  teacher: SentenceTransformer, layers: list[int]
) -> SentenceTransformer:
  """A copy of the model with some of its layers."""
  student = copy.deepcopy(teacher)
  transformer = student[0].auto_model
  kept = [transformer.encoder.layer[i] for i in layers]
  transformer.encoder.layer = torch.nn.ModuleList(kept)
  transformer.config.num_hidden_layers = len(kept)
  return student


def main() -> None:
  """Trains and saves the student, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--model", required=True)
  parser.add_argument("--layers", required=True, help="such as 0,2,5")
  parser.add_argument("--texts", required=True, help="a glob")
  parser.add_argument("--output", required=True)
  parser.add_argument("--steps", type=int, default=300)
  parser.add_argument("--batch_size", type=int, default=16)
  parser.add_argument("--max_length", type=int, default=256)
  parser.add_argument("--learning_rate", type=float, default=1e-4)
  parser.add_argument("--seed", type=int, default=0)
  options = parser.parse_args()
  torch.manual_seed(options.seed)
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  path = str(formats.find_folder(options.model))
  teacher = SentenceTransformer(path, device="cpu")
  teacher.max_seq_length = options.max_length
  student = shallow(teacher, [int(i) for i in options.layers.split(",")])
  optimizer = torch.optim.AdamW(
    student.parameters(), lr=options.learning_rate, weight_decay=0.0
  )
  warmup = max(options.steps // 10, 1)
  schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer,
    lambda step: min(
      (step + 1) / warmup, (options.steps - step) / (options.steps - warmup)
    ),
  )
  texts = pieces(options.texts, options.seed)
  student.train()
  for step in range(options.steps):
    some = [next(texts) for _ in range(options.batch_size)]
    with torch.no_grad():
      expected = teacher.encode(
        some, convert_to_tensor=True, show_progress_bar=False
      )
    found = student(student.preprocess(some))["sentence_embedding"]
    # Per value it would be tiny; per vector it is 2 - 2 times the cosine.
    loss = torch.square(found - expected).sum(dim=1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    if (step + 1) % 20 == 0:
      print(f"step {step + 1}/{options.steps}  loss {loss:.4f}", flush=True)
  student.save(options.output)
  print(f"saved {options.output}")


if __name__ == "__main__":
  main()
