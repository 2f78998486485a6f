"""Tiny models and batches for tests, here and in other projects.

model = Transformer(testing.tiny_config(coda=CodaConfig(reduction=2.0)))
params = testing.random_params(model)
batch = testing.token_batch(model.config.vocab_size)
logits = model.apply({"params": params}, **batch, enable_dropout=False)
"""

import json
import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from coda_jax import initialise
from coda_jax import params as params_lib
from coda_jax.bert.config import BertConfig
from coda_jax.bert.network import Bert
from coda_jax.checkpoints import hf, leaves
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


def save_sentence_encoder(
  folder: str | os.PathLike[str],
  words: Sequence[str],
  modules: Sequence[str] = ("Normalize",),
  **overrides: object,
) -> None:
  """Writes a tiny sentence-transformers folder: BERT, tokenizer, mean pooling.

  Args:
    folder: a new one.
    words: the tokenizer's; others are unknown. Its 5 special tokens come
      first, [PAD] at the configuration's `pad_id`.
    modules: classes after the pooling that have no parameters.
    overrides: fields of `BertConfig`; its `vocab_size` is set here.
  """
  import tokenizers
  from tokenizers import models, normalizers, pre_tokenizers, processors

  folder = pathlib.Path(folder)
  special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  special.insert(int(overrides.get("pad_id", 0)), "[PAD]")
  ids = {word: i for i, word in enumerate((*special, *words))}
  tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.add_special_tokens(special)
  tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
  )
  config = tiny_bert_config(**{**overrides, "vocab_size": len(ids)})
  params = random_params(Bert(config))
  hf.write(folder, config, leaves.leaves_of(params))
  tokenizer.save(str(folder / "tokenizer.json"))
  kinds = ("Transformer", "Pooling", *modules)
  entries = [
    {
      "idx": i,
      "name": str(i),
      "path": f"{i}_{kind}" if i else "",
      "type": f"sentence_transformers.models.{kind}",
    }
    for i, kind in enumerate(kinds)
  ]
  pooling = {"word_embedding_dimension": config.emb_dim}
  pooling["pooling_mode_mean_tokens"] = True
  (folder / "1_Pooling").mkdir()
  (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
  (folder / "modules.json").write_text(json.dumps(entries))


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
