"""`generate` as StableHLO, one program for each length of the inputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax import export as jax_export

from coda_jax import decoding
from coda_jax import params as params_lib

# Any machine can lower programs for all of them.
PLATFORMS = ("cpu", "tpu", "cuda")


def lower(
  model: nn.Module,
  leaves: Mapping[str, Any],
  length: int,
  *,
  generate: Mapping[str, Any],
  platforms: Sequence[str],
) -> jax_export.Exported:
  """Lowers `generate` for any batch of inputs padded to one length.

  The program takes ({parameter path: array}, int32 [b, length]), 0 is padding,
  and returns {"tokens": int32 [b, max_length], "scores": float32 [b]}, as
  `decoding.Decoded` has them. b is symbolic, 1 or more. Parameters are
  arguments, so programs of several lengths share them.

  Args:
    model: of `backbones.build`.
    leaves: {parameter path: anything with a shape and a dtype}.
    length: of the inputs, in tokens.
    generate: arguments of `coda_jax.generate`.
    platforms: some of `PLATFORMS`, to compile the program for.

  Raises:
    ValueError: an argument of `generate` out of its range.
  """

  def answer(leaves: dict[str, Array], tokens: Array) -> dict[str, Array]:
    # A dict: the class `Decoded` is unknown where the program is loaded.
    return decoding.generate(
      model, params_lib.unflatten(leaves), tokens, **generate
    )._asdict()

  (batch,) = jax_export.symbolic_shape("b")
  return jax_export.export(jax.jit(answer), platforms=platforms)(
    {
      path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for path, leaf in leaves.items()
    },
    jax.ShapeDtypeStruct((batch, length), jnp.int32),
  )
