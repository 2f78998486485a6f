"""Tokenizers of Hugging Face's `tokenizer.json`, without seqio."""

import copy
import hashlib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from coda_jax.checkpoints import files
from coda_jax.data import text_settings, tokenizer_json

# All that tokenizers in Hugging Face folders may have, of T5 and of BERT.
FILES = (
  tokenizer_json.FILE,
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "spiece.model",
  "vocab.txt",
  "vocab.json",
  "merges.txt",
  "sentencepiece.bpe.model",
)
_USUAL = {"pad_token": ("[PAD]", "<pad>"), "unk_token": ("[UNK]", "<unk>")}


class Batch(NamedTuple):
  """Texts as an encoder takes them, padded on the right to the longest.

  Attributes:
    input_ids: int32 [batch, length], the tokenizer's pad id in the padding.
    token_types: int32 [batch, length], 0 in the padding.
    mask: bool [batch, length], False in the padding.
  """

  input_ids: np.ndarray
  token_types: np.ndarray
  mask: np.ndarray


class Words(NamedTuple):
  """The words of a text as an encoder takes them.

  Attributes:
    input_ids: int32 [length], special tokens included.
    token_types: int32 [length].
    starts: bool [length], True for the first token of each word.
  """

  input_ids: np.ndarray
  token_types: np.ndarray
  starts: np.ndarray


class HfTokenizer:
  """A tokenizer that the `tokenizers` library reads from a `tokenizer.json`.

  `encode` adds no special token, and `decode` leaves them out of texts.
  `encode_batch` adds the special tokens of the file, to single texts and to
  pairs, and `encode_words` to texts that are split into words.

  The file may also hold a length that texts are padded or cut to. Neither is
  used here.

  Attributes:
    path: the `tokenizer.json`.
    lower_case: whether texts are put in lower case before the tokenizer has
      them. Special tokens that a text contains, such as [MASK], stay as they
      are, and so does the tokenizer.
    digest: SHA-256 of the file, which tells tokenizers apart by content.
    vocab_size: 1 + the largest id.
    pad_id: of the padding.
    unk_id: of what the file has no token for; None without one.
    bos_id: the special token before a text, such as [CLS]; None without one.
    eos_id: the special token after a text, such as [SEP]; None without one.
  """

  def __init__(
    self, path: str | os.PathLike[str], *, lower_case: bool | None = None
  ):
    """Reads the file.

    Args:
      path: a `tokenizer.json`, or a folder that has one.
      lower_case: see above; None is what the sentence-transformers
        configuration in the same folder says (`do_lower_case`), or else False.

    Raises:
      FileNotFoundError: there is no such file.
      ModuleNotFoundError: the `tokenizers` library is missing.
      ValueError: the file can't be read, or has no padding token.
    """
    self.path = tokenizer_json.find(pathlib.Path(path))
    if lower_case is None:
      lower_case = text_settings.read(self.path.parent).lower_case
    self.lower_case = lower_case
    content = self.path.read_bytes()
    self.digest = hashlib.sha256(content).hexdigest()
    self._tokenizer = tokenizer_json.read(self.path, content)
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    # {(max_length, whether of words): a copy that cuts}. Other threads may use
    # the tokenizer at the same time, so it never changes.
    self._copies: dict[tuple[int | None, bool], Any] = {}
    kept = [
      token.content
      for token in self._tokenizer.get_added_tokens_decoder().values()
      if not token.normalized
    ]
    kept.sort(key=len, reverse=True)
    self._kept = "|".join(map(re.escape, kept))
    pad_id = self._special_id("pad_token")
    if pad_id is None:
      raise ValueError(
        f"{self.path}: no padding token; expected [PAD] or <pad> in it, or the "
        "name of its pad_token in "
        f"{' or '.join(tokenizer_json.NAMING_FILES)} next to it"
      )
    self.pad_id: int = pad_id
    self.unk_id = self._special_id("unk_token")
    self.vocab_size = max(self._tokenizer.get_vocab().values()) + 1
    text = self._tokenizer.encode("a")
    is_special = text.special_tokens_mask or [False]
    self.bos_id = text.ids[0] if is_special[0] else None
    self.eos_id = text.ids[-1] if is_special[-1] else None

  def __eq__(self, other: Any) -> bool:
    return (
      isinstance(other, HfTokenizer)
      and self.digest == other.digest
      and self.lower_case == other.lower_case
    )

  def __hash__(self) -> int:
    return hash((self.digest, self.lower_case))

  def encode(self, text: str) -> list[int]:
    """The ids of a text, without special tokens."""
    ids = self._tokenizer.encode(self._lower(text), add_special_tokens=False)
    return ids.ids

  def decode(self, ids: Sequence[int]) -> str:
    """The text of ids; special tokens are left out."""
    ids = [int(i) for i in ids]
    return self._tokenizer.decode(ids, skip_special_tokens=True)

  def encode_batch(
    self,
    texts: Sequence[str | tuple[str, str]],
    *,
    max_length: int | None = None,
    prompt: str = "",
  ) -> Batch:
    """Encodes texts or pairs of texts with the file's special tokens.

    Args:
      texts: texts, pairs of them, or both.
      max_length: tokens that a row may have, special tokens and prompt
        included; None for no limit. Longer rows lose tokens at the end of the
        text, in a pair of the longer one, and keep all special tokens.
      prompt: is put before each text, in a pair before the first one; used as
        it is, so that a space at its end counts.

    Returns:
      The batch, in the order of `texts`; for no text, it has no row and a
      length of at least 1.

    Raises:
      ValueError: `texts` is not a list of texts and pairs, or `max_length` is
        too short for the special tokens.
    """
    if isinstance(texts, str):
      raise ValueError(
        f"texts={texts!r} is one text; expected a list of texts, [text]"
      )
    inputs = [self._prepared(text, prompt) for text in texts]
    is_pair = any(isinstance(item, tuple) for item in inputs)
    special = self._tokenizer.num_special_tokens_to_add(is_pair)
    tokenizer = self._tokenizer
    if max_length is not None:
      if max_length < max(special, 1):
        raise ValueError(
          f"max_length={max_length} has no place for the {special} special "
          f"tokens of {self.path}; expected a larger length"
        )
      tokenizer = self._copy(max_length)
    rows = tokenizer.encode_batch(inputs)
    length = max((len(row.ids) for row in rows), default=special)
    shape = len(rows), max(length, 1)
    batch = Batch(
      np.full(shape, self.pad_id, np.int32),
      np.zeros(shape, np.int32),
      np.zeros(shape, np.bool_),
    )
    for i, row in enumerate(rows):
      n = len(row.ids)
      batch.input_ids[i, :n] = row.ids
      batch.token_types[i, :n] = row.type_ids
      batch.mask[i, :n] = True
    return batch

  def encode_words(
    self, words: Sequence[str], *, max_length: int | None = None
  ) -> Words:
    """Encodes the words of one text with the file's special tokens.

    Each word has the tokens that it has after a space. A word of which the
    tokenizer leaves nothing, such as a zero-width space, is an unknown one.

    Args:
      words: in their order.
      max_length: tokens that the text may have, special tokens included; None
        for no limit. A longer text loses tokens at its end, and keeps all
        special tokens.

    Raises:
      ValueError: a word without a token, where the file has no unknown token;
        or `max_length` is too short for a token beside the special ones.
    """
    tokenizer = self._copy(None, of_words=True)
    special = tokenizer.num_special_tokens_to_add(False)
    if max_length is not None and max_length <= special:
      raise ValueError(
        f"max_length={max_length} has no place for a token and the {special} "
        f"special tokens of {self.path}; expected a larger length"
      )
    words = [self._lower(word) for word in words]
    row = tokenizer.encode(words, is_pretokenized=True)
    if lost := {*range(len(words))}.difference(row.word_ids):
      if self.unk_id is None:
        raise ValueError(
          f"{self.path} has no token for {words[min(lost)]!r}, nor one for "
          "unknown words; leave the word out"
        )
      unknown = tokenizer.id_to_token(self.unk_id)
      words = [unknown if i in lost else word for i, word in enumerate(words)]
      row = tokenizer.encode(words, is_pretokenized=True)
    if max_length is not None and len(row.ids) > max_length:
      row = self._copy(max_length, of_words=True).encode(
        words, is_pretokenized=True
      )
    of_words = row.word_ids
    return Words(
      np.array(row.ids, np.int32),
      np.array(row.type_ids, np.int32),
      np.array(
        [
          word is not None and word != before
          for before, word in zip([None, *of_words], of_words, strict=False)
        ],
        np.bool_,
      ),
    )

  def spans(self, text: str, *, max_length: int) -> list[tuple[int, int]]:
    """Where the tokens of `encode_batch([text])` stand in the text.

    Returns:
      (start, end) of each token, in characters; special tokens are empty.
    """
    encoded = self._copy(max_length).encode(self._prepared(text, ""))
    return list(encoded.offsets)

  def prompt_length(self, prompt: str, *, max_length: int | None = None) -> int:
    """The number of tokens that pooling leaves out with a prompt.

    As sentence-transformers counts: the tokens of the prompt alone, with the
    special tokens before it and without the one after it. A tokenizer that
    merges the space at the end of a prompt with the next word counts it here.

    Args:
      prompt: the one that `encode_batch` has; "" counts as 0.
      max_length: the one that `encode_batch` has.
    """
    if not prompt:
      return 0
    batch = self.encode_batch([prompt], max_length=max_length)
    return batch.input_ids.shape[1] - (self.eos_id is not None)

  def _prepared(self, item: Any, prompt: str) -> str | tuple[str, str]:
    """A text or a pair as the tokenizer gets it."""
    if isinstance(item, str):
      return self._lower(prompt + item)
    if (
      isinstance(item, tuple | list)
      and len(item) == 2
      and all(isinstance(text, str) for text in item)
    ):
      return self._lower(prompt + item[0]), self._lower(item[1])
    raise ValueError(
      f"texts contains {item!r}; expected a text, or a pair of two texts"
    )

  def _lower(self, text: str) -> str:
    if not self.lower_case:
      return text
    if not self._kept:
      return text.lower()
    parts = re.split(f"({self._kept})", text)
    parts[::2] = (part.lower() for part in parts[::2])
    return "".join(parts)

  def _copy(self, max_length: int | None, *, of_words: bool = False) -> Any:
    """A copy that cuts, unless to None; or that puts a space before words."""
    key = max_length, of_words
    if key not in self._copies:
      tokenizer = copy.deepcopy(self._tokenizer)
      # RoBERTa's tokens contain the space before them. transformers asks for
      # the same: `add_prefix_space=True`.
      if of_words and hasattr(tokenizer.pre_tokenizer, "add_prefix_space"):
        tokenizer.pre_tokenizer.add_prefix_space = True
      if max_length is not None:
        tokenizer.enable_truncation(max_length)
      self._copies[key] = tokenizer
    return self._copies[key]

  def _special_id(self, kind: str) -> int | None:
    """The id of pad_token or unk_token; None if the file has none."""
    for name in tokenizer_json.NAMING_FILES:
      path = self.path.with_name(name)
      token = files.read_json(path).get(kind) if path.exists() else None
      if isinstance(token, dict):
        token = token.get("content")
      if token is not None:
        with files.naming(f"{path}: {kind}"):
          found = self._tokenizer.token_to_id(token)
        if found is not None:
          return found
    for token in _USUAL[kind]:
      if (found := self._tokenizer.token_to_id(token)) is not None:
        return found
    return None
