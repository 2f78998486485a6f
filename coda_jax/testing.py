"""Tiny models and batches for tests, here and in other projects.

model = Transformer(testing.tiny_config(coda=CodaConfig(reduction=2.0)))
params = testing.random_params(model)
batch = testing.token_batch(model.config.vocab_size)
logits = model.apply({"params": params}, **batch, enable_dropout=False)
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from coda_jax import initialise
from coda_jax import params as params_lib
from coda_jax.bert.config import BertConfig
from coda_jax.t5 import config


def tiny_config(**overrides: object) -> config.T5Config:
  """A gated, untied T5 of sizes that all differ; keywords replace fields."""
  shape = {
    "vocab_size": 48,
    "emb_dim": 16,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "head_dim": 5,
    "mlp_dim": 24,
    "mlp_activations": ("gelu", "linear"),
    "dropout_rate": 0.0,
  }
  return config.T5Config(**{**shape, **overrides})


def tiny_bert_config(**overrides: object) -> BertConfig:
  """A BERT of sizes that all differ; keywords replace fields."""
  shape = {
    "vocab_size": 48,
    "emb_dim": 15,
    "num_heads": 3,
    "num_encoder_layers": 2,
    "mlp_dim": 24,
    "max_length": 20,
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
  }
  return BertConfig(**{**shape, **overrides})


def random_tokens(
  lengths: Sequence[int], padded_length: int, vocab_size: int, seed: int = 0
) -> np.ndarray:
  """int32 [rows, padded_length], `lengths[row]` tokens each, EOS the last."""
  tokens = np.zeros((len(lengths), padded_length), np.int32)
  for row, length in enumerate(lengths):
    rng = np.random.default_rng((seed, row))
    tokens[row, :length] = rng.integers(2, vocab_size, length)
    tokens[row, max(length - 1, 0) : length] = 1
  return tokens


def token_batch(
  vocab_size: int,
  encoder_lengths: Sequence[int] = (9, 6),
  decoder_lengths: Sequence[int] = (5, 3),
  padding: int = 2,
) -> dict[str, np.ndarray]:
  """Arguments for a `Transformer`, `padding` columns longer than needed."""
  sources, targets = (
    random_tokens(lengths, max(lengths) + padding, vocab_size, seed)
    for seed, lengths in enumerate((encoder_lengths, decoder_lengths))
  )
  return {
    "encoder_input_tokens": sources,
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
  }


def random_params(model: nn.Module, seed: int = 0) -> dict:
  """Parameters of plausible size, none 0; the same in every model by path."""
  return random_leaves(initialise.abstract_params(model), seed)


def random_leaves(tree: Mapping[str, Any], seed: int = 0) -> dict:
  """`random_params` in the place of the tree's arrays or shapes."""
  leaves = params_lib.flatten(tree)
  for path, leaf in leaves.items():
    rng = np.random.default_rng((seed, zlib.crc32(path.encode())))
    value = rng.standard_normal(leaf.shape)
    if path.endswith("/scale"):
      value = 1 + 0.2 * value
    elif path.endswith("/kernel"):
      value *= leaf.shape[0] ** -0.5
    leaves[path] = jnp.asarray(value, leaf.dtype)
  return params_lib.unflatten(leaves)
