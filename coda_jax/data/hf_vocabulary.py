"""seqio's vocabularies of Hugging Face's `tokenizer.json`."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from coda_jax.data.hf_tokenizer import Batch, HfTokenizer, Words


class HfVocabulary(seqio.Vocabulary):
  """An `HfTokenizer` as a vocabulary of seqio.

  `encode` and `decode`, and their forms for TensorFlow, do as seqio asks: they
  add no special token, and leave special tokens out of texts. `encode_batch`
  adds the special tokens of the file, to single texts and to pairs.

  TensorFlow's forms call Python, so a SavedModel can't hold them. seqio's
  feature converters pad with 0, whatever `pad_id` is.

  Attributes:
    tokenizer: does the work, and can be used without seqio.
  """

  def __init__(
    self, path: str | os.PathLike[str], *, lower_case: bool | None = None
  ):
    """Reads the file; arguments and errors are those of `HfTokenizer`."""
    super().__init__()
    self.tokenizer = HfTokenizer(path, lower_case=lower_case)

  @property
  def path(self) -> pathlib.Path:
    """The `tokenizer.json`."""
    return self.tokenizer.path

  @property
  def lower_case(self) -> bool:
    """See `HfTokenizer`."""
    return self.tokenizer.lower_case

  @property
  def digest(self) -> str:
    """Tells vocabularies apart by content; the case of texts is a part."""
    case = " lower_case" if self.lower_case else ""
    return f"{self.tokenizer.digest}{case}"

  @property
  def pad_id(self) -> int:
    return self.tokenizer.pad_id

  @property
  def bos_id(self) -> int | None:
    """The special token before a text, such as [CLS]; None without one."""
    return self.tokenizer.bos_id

  @property
  def eos_id(self) -> int | None:
    """The special token after a text, such as [SEP]; None without one."""
    return self.tokenizer.eos_id

  @property
  def unk_id(self) -> int | None:
    return self.tokenizer.unk_id

  @property
  def _base_vocab_size(self) -> int:
    return self.tokenizer.vocab_size

  def __eq__(self, other: Any) -> bool:
    return isinstance(other, HfVocabulary) and self.tokenizer == other.tokenizer

  def __str__(self) -> str:
    return f"HfVocabulary({str(self.path)!r}, lower_case={self.lower_case})"

  def encode_batch(
    self,
    texts: Sequence[str | tuple[str, str]],
    *,
    max_length: int | None = None,
    prompt: str = "",
  ) -> Batch:
    """See `HfTokenizer.encode_batch`."""
    return self.tokenizer.encode_batch(
      texts, max_length=max_length, prompt=prompt
    )

  def encode_words(
    self, words: Sequence[str], *, max_length: int | None = None
  ) -> Words:
    """See `HfTokenizer.encode_words`."""
    return self.tokenizer.encode_words(words, max_length=max_length)

  def prompt_length(self, prompt: str, *, max_length: int | None = None) -> int:
    """See `HfTokenizer.prompt_length`."""
    return self.tokenizer.prompt_length(prompt, max_length=max_length)

  def _encode(self, s: str) -> list[int]:
    return self.tokenizer.encode(s)

  def _decode(self, ids: Sequence[int]) -> str:
    return self.tokenizer.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text: bytes | np.ndarray) -> np.ndarray:
      return np.asarray(self._encode(_as_text(text)), np.int32)

    ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
    ids.set_shape([None])
    return ids

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(ids: np.ndarray) -> np.ndarray:
      rows = ids.reshape(-1, ids.shape[-1])
      texts = [self._decode(row).encode() for row in rows]
      return np.array(texts, object).reshape(ids.shape[:-1])

    texts = tf.numpy_function(decode, [ids], tf.string, stateful=False)
    texts.set_shape(ids.shape[:-1])
    return texts


def _as_text(text: bytes | np.ndarray) -> str:
  """TensorFlow gives bytes in a graph, and an array of them outside."""
  if isinstance(text, np.ndarray):
    text = text.item()
  return text.decode("utf-8", "replace")
