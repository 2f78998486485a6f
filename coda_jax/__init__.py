"""Conditional adapters (CoDA, arXiv 2304.04947) in JAX.

The public names are imported when they are first used (PEP 562), so that
`import coda_jax` costs nothing beyond itself, and `coda_jax.soft_top_k` nothing
beyond jax. tensorflow, torch and transformers are loaded by the functions that
read or write their formats, and by nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

from coda_jax.version import __version__

if TYPE_CHECKING:  # for editors and type checkers; _MODULES is what runs
  from coda_jax.bert.config import BertConfig
  from coda_jax.bert.network import Bert
  from coda_jax.checkpoints import load_adapter, load_pretrained, save_adapter
  from coda_jax.checkpoints.bank import load_bank
  from coda_jax.checkpoints.lora import merge_lora
  from coda_jax.decoding import generate, score
  from coda_jax.nn.coda import CodaLayer
  from coda_jax.nn.config import CodaConfig
  from coda_jax.nn.router import Selection
  from coda_jax.sentences.embedding import embed, load_sentences
  from coda_jax.soft_topk import soft_top_k
  from coda_jax.t5.config import T5Config
  from coda_jax.t5.network import Transformer

__all__ = [
  "Bert",
  "BertConfig",
  "CodaConfig",
  "CodaLayer",
  "Selection",
  "T5Config",
  "Transformer",
  "__version__",
  "embed",
  "generate",
  "load_adapter",
  "load_bank",
  "load_pretrained",
  "load_sentences",
  "merge_lora",
  "save_adapter",
  "score",
  "soft_top_k",
]

_MODULES = {
  "Bert": "coda_jax.bert.network",
  "BertConfig": "coda_jax.bert.config",
  "CodaConfig": "coda_jax.nn.config",
  "CodaLayer": "coda_jax.nn.coda",
  "Selection": "coda_jax.nn.router",
  "T5Config": "coda_jax.t5.config",
  "Transformer": "coda_jax.t5.network",
  "embed": "coda_jax.sentences.embedding",
  "generate": "coda_jax.decoding",
  "load_adapter": "coda_jax.checkpoints",
  "load_bank": "coda_jax.checkpoints.bank",
  "load_pretrained": "coda_jax.checkpoints",
  "load_sentences": "coda_jax.sentences.embedding",
  "merge_lora": "coda_jax.checkpoints.lora",
  "save_adapter": "coda_jax.checkpoints",
  "score": "coda_jax.decoding",
  "soft_top_k": "coda_jax.soft_topk",
}


def __getattr__(name: str) -> Any:
  if name not in _MODULES:
    raise AttributeError(
      f"module {__name__!r} has no attribute {name!r}; the public names are "
      f"{', '.join(sorted(_MODULES))}; modules are imported by their full name"
    )
  value = getattr(importlib.import_module(_MODULES[name]), name)
  globals()[name] = value  # the next use does not come here
  return value


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
