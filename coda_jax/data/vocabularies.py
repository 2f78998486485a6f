"""Vocabularies by name or by path."""

import functools
import importlib.resources
import os

import seqio

# ByT5 has no ids of its own for sentinels, it reuses its last 100.
DEFAULT_SENTINELS = 100
EMBEDDED = ("tiny", "tiny8k")


def load(
  vocabulary: str = "tiny", *, extra_ids: int = DEFAULT_SENTINELS
) -> seqio.Vocabulary:
  """Returns a seqio vocabulary.

  Args:
    vocabulary: "tiny", the one of the embedded models (3996 pieces); "tiny8k",
      of more text (8092 pieces); "byt5", bytes; or the path of a SentencePiece
      model, such as T5's spiece.model.
    extra_ids: sentinels to add behind the pieces, T5's 100. Bytes take none.

  Raises:
    FileNotFoundError: if `vocabulary` is neither a name nor a file.
    ValueError: if it is no text.
  """
  if not isinstance(vocabulary, str):
    raise ValueError(
      f"VOCABULARY={vocabulary!r}; expected 'tiny', 'byt5' or the path of a "
      "SentencePiece model (spiece.model)"
    )
  return _load(vocabulary, extra_ids)


@functools.lru_cache
def _load(vocabulary: str, extra_ids: int) -> seqio.Vocabulary:
  if vocabulary == "byt5":
    return seqio.ByteVocabulary()
  if vocabulary in EMBEDDED:
    assets = importlib.resources.files("coda_jax") / "assets"
    return seqio.SentencePieceVocabulary(
      str(assets / "vocabulary" / f"{vocabulary}.model"), extra_ids=extra_ids
    )
  if not os.path.isfile(vocabulary):
    raise FileNotFoundError(
      f"No vocabulary {vocabulary!r}: expected 'tiny', 'byt5' or the path of a"
      " SentencePiece model (spiece.model)."
    )
  return seqio.SentencePieceVocabulary(vocabulary, extra_ids=extra_ids)


def num_sentinels(vocabulary: seqio.Vocabulary) -> int:
  """Returns how many sentinels there are, counted down from the last id."""
  return vocabulary.extra_ids or DEFAULT_SENTINELS
