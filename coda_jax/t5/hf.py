"""T5's checkpoints as Hugging Face has them: T5, mT5, ByT5, MADLAD-400, UMT5.

`hf_names` maps the names of parameters, `hf_config` the configuration.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from coda_jax.checkpoints import files
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.t5 import hf_config, hf_names
from coda_jax.t5.config import T5Config

MODEL_TYPES = hf_config.MODEL_TYPES
TRANSFORMERS_CLASS = "T5ForConditionalGeneration"

# Names of the embedding: T5's own, and its copies, which some files have too
# and MADLAD-400's have instead.
_EMBEDDING = "shared.weight"
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# A bias that the first release of T5 saved by mistake; no model uses it.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias"


def read(
  fields: Mapping[str, Any], tensors: Mapping[str, Leaf], folder: Any
) -> tuple[T5Config, dict[str, Leaf]]:
  """See `backbones.HuggingFace.read`.

  A file whose logits share the embedding, but unscaled, or whose own matrix is
  scaled, is read as the same function with a matrix of its own.
  """
  source = f"{folder}/config.json"
  tied = "lm_head.weight" not in tensors
  if tied and fields.get("tie_word_embeddings") is False:
    raise ValueError(
      f"{folder} has no lm_head.weight, though config.json says "
      "tie_word_embeddings: false; get the checkpoint again"
    )
  with files.naming(source):
    scaled = hf_config.scales_outputs(fields)
  config = hf_config.read(
    fields, logits_via_embedding=tied and scaled, source=source
  )
  leaves, unknown = {}, []
  for name, leaf in tensors.items():
    if name in (_EMBEDDING, *_COPIES, f"{_UNUSED}.weight"):
      continue
    path, transposed = hf_names.to_path(name, config.relpos_bias_per_layer)
    if path is None:
      unknown.append(f"{name} {leaf.shape}")
    else:
      leaves[path] = leaf.transposed() if transposed else leaf
  if unknown:
    raise ValueError(
      f"{folder} contains tensors that a {fields['model_type']} does not have; "
      "is it another architecture?\n  " + "\n  ".join(unknown)
    )
  embedding = _embedding(tensors, folder)
  leaves["token_embedder/embedding"] = embedding
  logits = "decoder/logits_dense/kernel"
  if tied and not scaled:
    leaves[logits] = embedding.transposed()
  elif not tied:
    if hf_config.may_be_tied(fields) and not _equal(
      tensors["lm_head.weight"], embedding
    ):
      warnings.warn(
        f"{folder}: config.json says tie_word_embeddings: true, but "
        f"lm_head.weight differs from {_EMBEDDING}; using lm_head.weight, as "
        "transformers 5 does. transformers 4 uses the embedding",
        stacklevel=2,
      )
    if scaled:
      leaves[logits] = leaves[logits].times(config.emb_dim**-0.5)
  return config, leaves


def write(
  config: T5Config, leaves: Mapping[str, Leaf], dtype: str
) -> tuple[dict[str, Any], dict[str, Leaf]]:
  """See `backbones.HuggingFace.write`."""
  if unknown := [path for path in leaves if hf_names.to_name(path)[0] is None]:
    raise ValueError(
      "Hugging Face's T5 has no place for these leaves; convert the backbone "
      "alone (--backbone), and keep the adapter in its own folder:\n  "
      + "\n  ".join(unknown)
    )
  renamed = {}
  for path, leaf in leaves.items():
    name, transposed = hf_names.to_name(path)
    renamed[name] = leaf.transposed() if transposed else leaf
  return hf_config.write(config, dtype), renamed


def _embedding(tensors: Mapping[str, Leaf], folder: Any) -> Leaf:
  """The embedding that encoder and decoder share, under any of its names."""
  names = [n for n in (_EMBEDDING, *_COPIES) if n in tensors]
  if not names:
    raise ValueError(
      f"{folder} has no embedding; expected {_EMBEDDING}, or one of "
      f"{' and '.join(_COPIES)}"
    )
  first = tensors[names[0]]
  for name in names[1:]:
    if not _equal(tensors[name], first):
      raise ValueError(
        f"{folder}: {name} differs from {names[0]}; a T5's encoder and decoder "
        "have one embedding"
      )
  return first


def _equal(a: Leaf, b: Leaf) -> bool:
  return a.shape == b.shape and np.array_equal(a.read(), b.read())
