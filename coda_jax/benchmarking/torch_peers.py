"""Other projects' PyTorch models as subjects, where they are installed.

The dense T5 of transformers, eager and compiled, and the routed block and the
coordinate descent of colt5-attention. All have random weights of equal shape,
the dtype of ours, and as many threads as there are cores.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence

import jax
import numpy as np

from coda_jax.benchmarking import models, top_k
from coda_jax.benchmarking.timing import Call, Subject
from coda_jax.nn import router
from coda_jax.t5 import hf_config
from coda_jax.t5.config import T5Config

# {method: the module that it needs}.
METHODS = {
  "torch": "transformers",
  "torch_compile": "transformers",
  "colt5": "colt5_attention",
}


def installed() -> list[str]:
  """The methods of `METHODS` that can be timed here."""
  if importlib.util.find_spec("torch") is None:
    return []
  return [m for m, name in METHODS.items() if importlib.util.find_spec(name)]


def subjects(
  config: T5Config,
  *,
  part: str,
  reductions: Sequence[float],
  methods: Sequence[str],
  tokens: jax.Array,
  decode_length: int,
) -> list[Subject]:
  """The peers that have this part; for the arguments see `models.subjects`.

  "torch" and "torch_compile" are dense T5s: the encoder, and (eager only)
  greedy `generate`, whose growing cache torch.compile would recompile for.
  "colt5" is a stack of colt5-attention's routed blocks at each r, an encoder of
  equal width and depth; in the parts of soft top-k, its coordinate descent.
  """
  if not methods:
    return []
  _use_all_cores()
  peers = []
  if part in top_k.PARTS and "colt5" in methods:
    peers += [
      _subject("colt5", r, _coordinate_descent, part, r, tokens.shape)
      for r in reductions
    ]
  if part in models.PARTS[:2] and "torch" in methods:
    build = _t5_encoder if part == "encoder" else _t5_generate
    peers.append(_subject("torch", None, build, config, tokens, decode_length))
  if part == "encoder" and "torch_compile" in methods:
    peers.append(
      _subject("torch_compile", None, _compiled_encoder, config, tokens)
    )
  if part == "encoder" and "colt5" in methods:
    peers += [
      _subject("colt5", r, _routed_blocks, config, tokens.shape, r)
      for r in reductions
    ]
  return peers


def _subject(method: str, reduction: float | None, build, *args) -> Subject:
  return Subject(
    {"method": method, "reduction": reduction},
    functools.partial(build, *args),
  )


def _use_all_cores() -> None:
  """Gives torch all cores, as XLA has them."""
  import torch

  if hasattr(os, "sched_getaffinity"):
    torch.set_num_threads(len(os.sched_getaffinity(0)))


def _dtype(config: T5Config):
  import torch

  return getattr(torch, np.dtype(config.dtype).name)


def _inference(run: Callable) -> Callable:
  import torch

  def call():
    with torch.inference_mode():
      return run()

  return call


def _t5(config: T5Config, cls: str):
  """A T5 of transformers on the CPU; without tokens no dropout is drawn."""
  import transformers

  name = np.dtype(config.dtype).name
  fields = hf_config.write(config, name)
  made = getattr(transformers, cls)(transformers.T5Config(**fields))
  return made.to(_dtype(config)).eval()


def _to_torch(tokens: jax.Array):
  import torch

  return torch.from_numpy(np.array(tokens, np.int64))


def _t5_encoder(config: T5Config, tokens: jax.Array, _: int) -> Call:
  model, ids = _t5(config, "T5EncoderModel"), _to_torch(tokens)
  return Call(_inference(lambda: model(ids).last_hidden_state))


def _compiled_encoder(config: T5Config, tokens: jax.Array) -> Call:
  import torch

  model, ids = _t5(config, "T5EncoderModel"), _to_torch(tokens)
  compiled = torch.compile(model)
  return Call(_inference(lambda: compiled(ids).last_hidden_state))


def _t5_generate(config: T5Config, tokens: jax.Array, length: int) -> Call:
  model = _t5(config, "T5ForConditionalGeneration")
  ids = _to_torch(tokens)
  return Call(
    _inference(
      lambda: model.generate(
        ids, min_new_tokens=length, max_new_tokens=length, do_sample=False
      )
    )
  )


def _routed_blocks(
  config: T5Config, shape: tuple[int, int], reduction: float
) -> Call:
  """colt5-attention's blocks; their light branch as narrow as our adapters."""
  import colt5_attention
  import torch

  k = router.capacity(shape[1], reduction)
  light = 64
  blocks = torch.nn.Sequential(
    *(
      colt5_attention.ConditionalRoutedTransformerBlock(
        config.emb_dim,
        num_heavy_attn_tokens_q=k,
        num_heavy_attn_tokens_kv=k,
        num_heavy_ff_tokens=k,
        light_dim_head=light,
        light_heads=1,
        light_ff_mult=light / config.emb_dim,
        heavy_dim_head=config.head_dim,
        heavy_heads=config.num_heads,
        heavy_ff_mult=config.mlp_dim / config.emb_dim,
      )
      for _ in range(config.num_encoder_layers)
    )
  )
  blocks = blocks.to(_dtype(config)).eval()
  x = torch.randn(*shape, config.emb_dim, dtype=_dtype(config))
  return Call(_inference(lambda: blocks(x)))


def _coordinate_descent(
  part: str, reduction: float, shape: tuple[int, int]
) -> Call:
  """With the paper's schedule, and selection by what it gives."""
  import colt5_attention
  import torch

  scores = torch.randn(*shape)
  k = router.capacity(shape[1], reduction)

  def weights(scores):
    soft_weights = colt5_attention.coor_descent(
      scores, n_iters=20, k=k, eps=0.03, eps_init=4.0, eps_decay=0.7
    )
    return soft_weights.topk(k, dim=-1)[0]

  if part == "soft_top_k":
    return Call(_inference(lambda: weights(scores)))

  def gradient():
    leaf = scores.clone().requires_grad_()
    weights(leaf).sin().sum().backward()
    return leaf.grad

  return Call(gradient)
