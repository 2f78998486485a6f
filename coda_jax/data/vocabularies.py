"""Vocabularies by name or by path."""

import functools
import importlib.resources
import os

import seqio

# ByT5 has no ids of its own for sentinels, it reuses its last 100.
DEFAULT_SENTINELS = 100


def load(vocabulary: str = "tiny") -> seqio.Vocabulary:
  """Returns a seqio vocabulary; T5's 100 sentinels follow the pieces.

  Args:
    vocabulary: "tiny", the one of the embedded models (3996 pieces); "byt5",
      bytes; or the path of a SentencePiece model, such as T5's spiece.model.

  Raises:
    FileNotFoundError: if `vocabulary` is neither a name nor a file.
    ValueError: if it is no text.
  """
  if not isinstance(vocabulary, str):
    raise ValueError(
      f"VOCABULARY={vocabulary!r}; expected 'tiny', 'byt5' or the path of a "
      "SentencePiece model (spiece.model)"
    )
  return _load(vocabulary)


@functools.lru_cache
def _load(vocabulary: str) -> seqio.Vocabulary:
  if vocabulary == "byt5":
    return seqio.ByteVocabulary()
  if vocabulary == "tiny":
    assets = importlib.resources.files("coda_jax") / "assets"
    return seqio.SentencePieceVocabulary(
      str(assets / "vocabulary" / "tiny.model"), extra_ids=DEFAULT_SENTINELS
    )
  if not os.path.isfile(vocabulary):
    raise FileNotFoundError(
      f"No vocabulary {vocabulary!r}: expected 'tiny', 'byt5' or the path of a"
      " SentencePiece model (spiece.model)."
    )
  return seqio.SentencePieceVocabulary(vocabulary, extra_ids=DEFAULT_SENTINELS)


def num_sentinels(vocabulary: seqio.Vocabulary) -> int:
  """Returns how many sentinels there are, counted down from the last id."""
  return vocabulary.extra_ids or DEFAULT_SENTINELS
