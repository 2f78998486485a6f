"""Texts to vectors, with any encoder of texts."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from coda_jax import backbones, partitioning, token_ids
from coda_jax.checkpoints import formats, leaves
from coda_jax.data.hf_tokenizer import HfTokenizer
from coda_jax.inference import batching
from coda_jax.nn.checks import check_whole
from coda_jax.sentences import sentence_transformers
from coda_jax.sentences.sentence_encoder import SentenceEncoder

# Texts that are tokenized and sorted by length together.
_WINDOW = 8192


class Sentences(NamedTuple):
  """All of a sentence encoder but its transformer.

  Attributes:
    encoder: pooling and what follows it.
    params: of the modules after pooling, see `sentence_transformers.read`.
    tokenizer: of the transformer.
  """

  encoder: SentenceEncoder
  params: Mapping[str, Mapping[str, Any]]
  tokenizer: HfTokenizer


def load_sentences(path: str | os.PathLike[str]) -> Sentences:
  """Reads the tokenizer and the pooling of a sentence encoder.

  Args:
    path: a sentence-transformers folder, a model folder with a
      `tokenizer.json`, or "all-MiniLM-L6-v2".

  Raises:
    FileNotFoundError, ValueError: files that are missing or damaged, or a model
      that is not supported.
    ModuleNotFoundError: "all-MiniLM-L6-v2" or `tokenizers` is not installed.
  """
  folder = formats.find_folder(path)
  encoder, params = sentence_transformers.read(folder)
  tokenizer = HfTokenizer(
    os.path.join(folder, encoder.transformer), lower_case=encoder.lower_case
  )
  return Sentences(encoder, params, tokenizer)


def digest(sentences: Sentences) -> str:
  """A SHA-256 over all that vectors depend on, but the transformer."""
  parts = (
    sentences.encoder,
    leaves.digest(leaves.leaves_of(sentences.params)),
    sentences.tokenizer.digest,
  )
  return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


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
  report: Callable[[int, int], None] = lambda texts, tokens: None,
  mesh: Mesh | None = None,
) -> np.ndarray:
  """The vectors of texts.

  A vector does not depend on the other texts, nor on the batches: texts are
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
    report: is called after each batch with the number of its texts, and that
      of their tokens.
    mesh: the one that `load_pretrained` put the parameters on; it shares the
      texts of a batch, too. None is one device.

  Returns:
    float32 [texts, dim], in the order of the texts.

  Raises:
    ValueError: arguments that do not fit the model, or a batch size that the
      mesh does not divide.
  """
  if isinstance(texts, str):
    raise ValueError(f"texts={texts!r} is one text; expected a list, [text]")
  check_whole("batch_size", batch_size, 1)
  if not isinstance(sentences, Sentences):
    sentences = load_sentences(sentences)
  encoder, tokenizer = sentences.encoder, sentences.tokenizer
  names = _inputs(model, tokenizer)
  limit = token_limit(model, encoder, max_length)
  chosen = encoder.prompt(prompt, name=prompt_name)
  left_out = tokenizer.prompt_length(chosen, max_length=limit)
  sharding, parts, under = None, 1, contextlib.nullcontext()
  if mesh is not None:
    partitioning.check_batch(batch_size, mesh)
    sharding = partitioning.batch_sharding(mesh)
    parts, under = partitioning.batch_parts(mesh), partitioning.under(mesh)
  # A program for few texts need not have rows for many.
  few = 1 << max(len(texts) - 1, 0).bit_length()
  batch_size = min(batch_size, -(-few // parts) * parts)
  vectors = np.zeros((len(texts), encoder.dim), np.float32)
  with under:
    for start in range(0, len(texts), max(_WINDOW, batch_size)):
      window = texts[start : start + max(_WINDOW, batch_size)]
      tokens = tokenizer.encode_batch(window, max_length=limit, prompt=chosen)
      token_ids.check("texts", tokens.input_ids, model.config.vocab_size)
      lengths = tokens.mask.sum(axis=1).tolist()
      buckets = batching.bucket_lengths(max([limit or 1, *lengths]))
      for batch in batching.plan(lengths, batch_size, buckets):
        rows = [
          _rows(x, batch, batch_size, fill)
          for x, fill in zip(tokens, (tokenizer.pad_id, 0, False), strict=True)
        ]
        inputs = dict(zip(_NAMES, jax.device_put(rows, sharding), strict=True))
        some = _encode(
          model,
          params,
          encoder,
          sentences.params,
          left_out,
          normalise,
          {name: inputs[name] for name in names},
          inputs["encoder_mask"],
        )
        places = [start + place for place in batch.places]
        vectors[places] = np.asarray(some)[: len(places)]
        report(len(places), sum(lengths[place] for place in batch.places))
  return vectors


# The arrays of a batch, by the names that the families of models give them.
_NAMES = ("encoder_input_tokens", "encoder_token_types", "encoder_mask")


def _inputs(model: nn.Module, tokenizer: HfTokenizer) -> tuple[str, ...]:
  """The inputs that the model's encoder takes, by name."""
  family = backbones.of(model.config)
  names = family.encoder_inputs
  if "encoder_mask" not in names and tokenizer.pad_id != 0:
    raise ValueError(
      f"{tokenizer.path} pads with {tokenizer.pad_id}, but {family.title} "
      "takes 0 for padding; use the tokenizer that the model was made with"
    )
  return names


def token_limit(
  model: nn.Module, encoder: SentenceEncoder, asked: int | None
) -> int | None:
  """The most tokens of a text, special ones included.

  Args:
    model: the transformer.
    encoder: the folder's, which may have a limit of its own.
    asked: another limit; None takes the folder's, but no more than the model
      has positions for.

  Returns:
    A number of tokens, or None for no limit.

  Raises:
    ValueError: more than the model has positions for, or less than 1.
  """
  positions = getattr(model.config, "max_length", None)
  if asked is None:
    limits = [n for n in (positions, encoder.max_length) if n is not None]
    return min(limits, default=None)
  check_whole("max_length", asked, 1)
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
  inputs: Mapping[str, jax.Array],
  mask: jax.Array,
) -> jax.Array:
  hidden = model.apply(
    {"params": params}, **inputs, enable_dropout=False, method="encode"
  )
  return encoder.apply(
    module_params,
    hidden,
    mask,
    prompt_length=prompt_length,
    normalise=normalise,
  )
