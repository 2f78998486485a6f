"""Vocabularies by name or by path."""

import functools
import importlib.resources
import os
import re

import seqio
import tensorflow as tf

from coda_jax.checkpoints import installed
from coda_jax.data import hf_vocabulary, tokenizer_json

# ByT5 has no ids of its own for sentinels, it reuses its last 100.
DEFAULT_SENTINELS = 100
EMBEDDED = ("tiny",)


class LineBreaks(seqio.SentencePieceVocabulary):
  """A SentencePiece vocabulary that writes a line break as a mark.

  SentencePiece reads a line break as a space, T5's vocabulary among others.
  Here it becomes the mark, between spaces, and the mark becomes a line break
  again where tokens are decoded; spaces next to a line break are lost.
  """

  def __init__(self, base: seqio.SentencePieceVocabulary, mark: str):
    """Checks the mark.

    Args:
      base: the vocabulary of the model.
      mark: text that stands for a line break, such as "|".

    Raises:
      ValueError: a mark that is blank, or that the vocabulary can't write.
    """
    super().__init__(base.sentencepiece_model_file, extra_ids=base.extra_ids)
    self.mark = mark.strip()
    text = "a\nb\n\nc\n"
    tokens = [] if not self.mark else self.encode(text)
    if self.unk_id in tokens or self.decode(tokens) != text:
      raise ValueError(
        f"NEWLINES={mark!r} does not come back from the vocabulary; expected a "
        "text that it has and that is more than white space, such as '|'"
      )

  def _encode(self, s: str) -> list[int]:
    return super()._encode(s.replace("\n", f" {self.mark} "))

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    mark = self.mark.replace("\\", "\\\\")  # Not a reference to a group.
    return super()._encode_tf(tf.strings.regex_replace(s, "\n", f" {mark} "))

  def _decode(self, ids: list[int]) -> str:
    return re.sub(self._pattern, "\n", super()._decode(ids))

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    texts = super()._decode_tf(ids)
    return tf.strings.regex_replace(texts, self._pattern, "\n")

  @property
  def _pattern(self) -> str:
    return f" ?{re.escape(self.mark)} ?"


def load(
  vocabulary: str = "tiny", *, newlines: str | None = None
) -> seqio.Vocabulary:
  """Loads a seqio vocabulary; T5's 100 sentinels follow SentencePiece's pieces.

  Args:
    vocabulary: "tiny", of the embedded model (8092 pieces); "byt5", bytes; the
      path of a SentencePiece model, such as T5's spiece.model; the path of a
      tokenizer.json, or of a folder that has one, such as BERT's, which has no
      sentinels; or the name of an installed model, "all-MiniLM-L6-v2".
    newlines: the text that stands for a line break, see `LineBreaks`; None
      leaves line breaks to the vocabulary.

  Raises:
    FileNotFoundError: `vocabulary` is neither a name nor a file.
    ModuleNotFoundError: the package of the model is not installed.
    ValueError: `vocabulary` is not a text, or does not go with `newlines`.
  """
  if not isinstance(vocabulary, str):
    raise ValueError(
      f"VOCABULARY={vocabulary!r}; expected 'tiny', 'byt5' or the path of a "
      "SentencePiece model (spiece.model) or of a tokenizer.json"
    )
  if not isinstance(newlines, str | None):
    raise ValueError(
      f"NEWLINES={newlines!r}; expected a text, such as '|', or None"
    )
  return _load(vocabulary, newlines)


@functools.lru_cache
def _load(vocabulary: str, newlines: str | None) -> seqio.Vocabulary:
  base = _by_name(vocabulary)
  if newlines is None:
    return base
  if isinstance(base, hf_vocabulary.HfVocabulary):
    raise ValueError(
      f"NEWLINES={newlines!r} with VOCABULARY={vocabulary!r}; it goes with "
      "SentencePiece models only; leave NEWLINES out"
    )
  if "\n" in base.decode(base.encode("a\nb")):
    raise ValueError(
      f"NEWLINES={newlines!r} with VOCABULARY={vocabulary!r}, which has line "
      "breaks of its own; leave NEWLINES out"
    )
  return LineBreaks(base, newlines)


@functools.lru_cache
def _by_name(vocabulary: str) -> seqio.Vocabulary:
  if vocabulary == "byt5":
    return seqio.ByteVocabulary()
  if vocabulary in EMBEDDED:
    assets = importlib.resources.files("coda_jax") / "assets"
    return seqio.SentencePieceVocabulary(
      str(assets / "vocabulary" / f"{vocabulary}.model"),
      extra_ids=DEFAULT_SENTINELS,
    )
  if vocabulary in installed.MODELS and not os.path.exists(vocabulary):
    return hf_vocabulary.HfVocabulary(installed.find(vocabulary))
  if os.path.isdir(vocabulary) or vocabulary.endswith(tokenizer_json.FILE):
    return hf_vocabulary.HfVocabulary(vocabulary)
  if not os.path.isfile(vocabulary):
    raise FileNotFoundError(
      f"no vocabulary {vocabulary!r}: expected 'tiny', 'byt5' or the path of a"
      " SentencePiece model (spiece.model) or of a tokenizer.json"
    )
  return seqio.SentencePieceVocabulary(vocabulary, extra_ids=DEFAULT_SENTINELS)


def num_sentinels(vocabulary: seqio.Vocabulary) -> int:
  """The number of sentinels, which count down from the last id."""
  return vocabulary.extra_ids or DEFAULT_SENTINELS
