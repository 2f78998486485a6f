"""Texts to vectors, with any encoder of texts."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from coda_jax.checkpoints import formats
from coda_jax.data.hf_vocabulary import HfVocabulary
from coda_jax.inference import batching
from coda_jax.sentences import sentence_transformers
from coda_jax.sentences.sentence_encoder import SentenceEncoder


class Sentences(NamedTuple):
  """All of a sentence encoder but its transformer.

  Attributes:
    encoder: pooling and what follows it.
    params: of the modules after pooling, see `sentence_transformers.read`.
    vocabulary: the tokenizer.
  """

  encoder: SentenceEncoder
  params: Mapping[str, Mapping[str, Any]]
  vocabulary: HfVocabulary


def load_sentences(path: str | os.PathLike[str]) -> Sentences:
  """Reads the tokenizer and the pooling of a sentence encoder.

  Args:
    path: a sentence-transformers folder, a Hugging Face folder with a
      `tokenizer.json`, or "all-MiniLM-L6-v2".

  Raises:
    FileNotFoundError, ValueError: files that are missing or damaged, or a model
      that is not supported.
    ModuleNotFoundError: "all-MiniLM-L6-v2" is not installed.
  """
  folder = formats.find_folder(path)
  encoder, params = sentence_transformers.read(folder)
  vocabulary = HfVocabulary(
    os.path.join(folder, encoder.transformer), lower_case=encoder.lower_case
  )
  return Sentences(encoder, params, vocabulary)


def embed(
  model: nn.Module,
  params: Any,
  texts: Sequence[str],
  sentences: Sentences | str | os.PathLike[str],
  *,
  prompt: str | None = None,
  prompt_name: str | None = None,
  max_length: int | None = None,
  batch_size: int = 32,
  normalise: bool = False,
  report: Callable[[int], None] = lambda texts: None,
) -> np.ndarray:
  """The vectors of texts.

  A vector does not depend on the other texts, nor on the batches: they are
  sorted by length, and padded to few lengths.

  Args:
    model: an encoder of texts, such as `load_pretrained` gives.
    params: its parameters.
    texts: any number of them, empty ones too.
    sentences: tokenizer and pooling, or the folder that has them.
    prompt: text before each text; None takes the model's default one, if it
      has one.
    prompt_name: one of the model's prompts, instead.
    max_length: tokens of the longest text, special ones included; longer texts
      are cut. None takes the model's.
    batch_size: texts a batch.
    normalise: scale vectors to length 1, whether or not the model does.
    report: is called after each batch with the number of its texts.

  Returns:
    float32 [texts, dim], in the order of the texts.

  Raises:
    ValueError: arguments that do not fit the model.
  """
  if not isinstance(sentences, Sentences):
    sentences = load_sentences(sentences)
  if isinstance(texts, str):
    raise ValueError(f"texts={texts!r} is one text; expected a list, [text]")
  encoder, vocabulary = sentences.encoder, sentences.vocabulary
  limit = _limit(model, encoder, max_length)
  chosen = encoder.prompt(prompt, name=prompt_name)
  tokens = vocabulary.encode_batch(texts, max_length=limit, prompt=chosen)
  left_out = vocabulary.prompt_length(chosen, max_length=limit)
  vectors = np.zeros((len(texts), encoder.dim), np.float32)
  lengths = tokens.mask.sum(axis=1).tolist()
  buckets = batching.bucket_lengths(max([limit or 1, *lengths]))
  for batch in batching.plan(lengths, batch_size, buckets):
    rows = [
      _rows(x, batch, batch_size, fill)
      for x, fill in zip(tokens, (vocabulary.pad_id, 0, False), strict=True)
    ]
    some = _encode(
      model, params, encoder, sentences.params, left_out, normalise, *rows
    )
    vectors[batch.places] = np.asarray(some)[: len(batch.places)]
    report(len(batch.places))
  return vectors


def _limit(
  model: nn.Module, encoder: SentenceEncoder, asked: int | None
) -> int | None:
  """The most tokens of a text, None for no limit."""
  positions = getattr(model.config, "max_length", None)
  if asked is None:
    limits = [n for n in (positions, encoder.max_length) if n is not None]
    return min(limits, default=None)
  if positions is not None and asked > positions:
    raise ValueError(
      f"max_length={asked}; the model has positions for {positions} tokens"
    )
  return asked


def _rows(
  x: np.ndarray, batch: batching.Batch, batch_size: int, fill: Any
) -> np.ndarray:
  """[batch_size, batch.length]: the rows of a batch, filled up."""
  rows = np.full((batch_size, batch.length), fill, x.dtype)
  chosen = x[batch.places, : batch.length]
  rows[: len(chosen), : chosen.shape[1]] = chosen
  return rows


@functools.partial(jax.jit, static_argnums=(0, 2, 4, 5))
def _encode(
  model: nn.Module,
  params: Any,
  encoder: SentenceEncoder,
  module_params: Any,
  prompt_length: int,
  normalise: bool,
  tokens: jax.Array,
  token_types: jax.Array,
  mask: jax.Array,
) -> jax.Array:
  hidden = model.apply(
    {"params": params},
    tokens,
    token_types,
    mask,
    enable_dropout=False,
    method="encode",
  )
  return encoder.apply(
    module_params,
    hidden,
    mask,
    prompt_length=prompt_length,
    normalise=normalise,
  )
