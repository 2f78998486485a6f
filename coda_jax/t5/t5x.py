"""T5's shape, from the leaves of a t5x checkpoint."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from coda_jax.t5.config import T5Config

_RELPOS_BIAS = "relpos_bias/rel_embedding"


def config_of_leaves(leaves: Mapping[str, Any], source: str) -> T5Config:
  """The shape of a T5, from its leaves.

  What they do not tell is T5's: the dropout rate, GELU as the gated activation
  and ReLU as the other.

  Args:
    leaves: {parameter path: anything with a shape}.
    source: the file's name, for messages.

  Raises:
    ValueError: a leaf that tells the shape is missing or no matrix.
  """

  def shape(path: str) -> tuple[int, int]:
    if path not in leaves:
      raise ValueError(
        f"{source} has no {path}, so it is not a T5 of t5x's minimal or "
        f"scalable network; the first leaf is {next(iter(leaves), None)!r}"
      )
    if len(leaves[path].shape) != 2 or 0 in leaves[path].shape:
      raise ValueError(
        f"{source}: {path} has shape {tuple(leaves[path].shape)}; expected a "
        "matrix"
      )
    return tuple(leaves[path].shape)

  depths = {
    stack: len({p.split("/")[1] for p in leaves if _layer(p, stack)})
    for stack in ("encoder", "decoder")
  }
  mlp = "encoder/layers_0/mlp/"
  gated = f"{mlp}wi_0/kernel" in leaves
  per_layer = f"encoder/layers_0/{_RELPOS_BIAS}" in leaves
  bias = (
    f"encoder/layers_0/{_RELPOS_BIAS}"
    if per_layer
    else "encoder/" + _RELPOS_BIAS
  )
  num_heads = shape(bias)[0]
  vocab_size, emb_dim = shape("token_embedder/embedding")
  joined = shape("encoder/layers_0/attention/query/kernel")[1]
  return T5Config(
    vocab_size=vocab_size,
    emb_dim=emb_dim,
    num_heads=num_heads,
    head_dim=joined // num_heads,
    mlp_dim=shape(f"{mlp}wo/kernel")[0],
    num_encoder_layers=depths["encoder"],
    num_decoder_layers=depths["decoder"],
    mlp_activations=("gelu", "linear") if gated else ("relu",),
    logits_via_embedding="decoder/logits_dense/kernel" not in leaves,
    relpos_bias_per_layer=per_layer,
  )


def assume(found: T5Config, expected: Any) -> T5Config:
  """A configuration of `config_of_leaves`, as expected where leaves are silent.

  They do not tell one gated activation from another.

  Args:
    found: of the leaves.
    expected: of the gin files.
  """
  activations = getattr(expected, "mlp_activations", ())
  if len(activations) != len(found.mlp_activations):
    return found
  return dataclasses.replace(found, mlp_activations=activations)


def _layer(path: str, stack: str) -> bool:
  return re.match(rf"{stack}/layers_\d+/", path) is not None
