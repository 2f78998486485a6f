"""Makes the start of the tiny models: random, with embeddings of the corpus.

The token embeddings are the leading singular vectors of the tokens' positive
pointwise mutual information in windows of the training split (Levy and Goldberg
2014, "Neural word embedding as implicit matrix factorization"), every row
scaled to a root mean square of 1, which is the size of T5's initial embeddings.
It takes seconds; docs/model_card.md says what it was good for.

  python scripts/build_embeddings.py --corpus=data/corpus \
    --output=data/tiny_initial
"""

import argparse
import pathlib
from collections.abc import Iterable, Iterator

import build_corpus
import jax
import numpy as np
from scipy import sparse
from scipy.sparse import linalg

from coda_jax import initialise, params
from coda_jax.benchmarking import shapes
from coda_jax.checkpoints.model_folder import save_model
from coda_jax.data import vocabularies
from coda_jax.t5.network import Transformer

WINDOW = 10  # tokens on either side
# Contexts are smoothed, so that rare ones do not get the highest scores.
CONTEXT_POWER = 0.75


def counts(documents: Iterable[list[int]], size: int) -> np.ndarray:
  """How often two tokens are at most WINDOW apart, float64 `[size, size]`."""
  total = np.zeros(size * size)
  for tokens in documents:
    tokens = np.asarray(tokens, np.int64)
    for distance in range(1, WINDOW + 1):
      pairs, times = np.unique(
        tokens[:-distance] * size + tokens[distance:], return_counts=True
      )
      total[pairs] += times
  total = total.reshape(size, size)
  return total + total.T


def embeddings(pairs: np.ndarray, features: int) -> np.ndarray:
  """Factorises the positive pointwise mutual information of `pairs`.

  Returns:
    float32 `[size, features]`, rows of root mean square 1; rows of tokens
    without a pair are 0.
  """
  tokens = pairs.sum(1, keepdims=True)
  contexts = pairs.sum(0, keepdims=True) ** CONTEXT_POWER
  contexts = contexts / contexts.sum()
  with np.errstate(divide="ignore", invalid="ignore"):
    information = np.log(pairs / (tokens * contexts))
  information = np.where(information > 0, information, 0)
  start = np.ones(len(pairs))  # makes the iteration deterministic
  u, s, _ = linalg.svds(sparse.csr_matrix(information), k=features, v0=start)
  rows = u * np.sqrt(s)
  size = np.sqrt(np.mean(rows**2, axis=1, keepdims=True))
  return np.where(size > 1e-6, rows / np.maximum(size, 1e-6), 0).astype("f4")


def read(corpus: pathlib.Path) -> Iterator[list[int]]:
  """The token ids of each training document."""
  vocabulary = vocabularies.load("tiny")
  return (vocabulary.encode(d) for d in build_corpus.read_train(corpus))


def main() -> None:
  """Writes a model folder, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--corpus", type=pathlib.Path, required=True)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  model = Transformer(shapes.size_config("tiny"))
  leaves = params.flatten(initialise.init_params(model, jax.random.key(0)))
  path = "token_embedder/embedding"
  fresh = np.asarray(leaves[path])
  pairs = counts(read(arguments.corpus), len(fresh))
  rows = embeddings(pairs, fresh.shape[1])
  leaves[path] = np.where(np.any(rows, axis=1, keepdims=True), rows, fresh)
  save_model(arguments.output, model.config, params.unflatten(leaves))
  print(f"Wrote {arguments.output}.")


if __name__ == "__main__":
  main()
