"""Models by the name of their size, with random weights and tokens."""

from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from coda_jax import backbones, cli, initialise
from coda_jax.benchmarking import train_step
from coda_jax.t5.config import T5Config


def size_config(size: str, dtype: str = "float32") -> T5Config:
  """The shape that `configs/sizes/SIZE.gin` describes, without dropout.

  Raises:
    ValueError: an unknown size.
  """
  sizes = sorted(p.stem for p in (cli.configs_dir() / "sizes").glob("*.gin"))
  if size not in sizes:
    raise ValueError(f"size {size!r}; expected one of {', '.join(sizes)}")
  families = ("byt5", "t5_1_0")
  family = next((f for f in families if size.startswith(f)), "t5_1_1")
  cli.parse_gin(
    [f"models/{family}.gin", f"sizes/{size}.gin"],
    [("DTYPE", repr(dtype)), ("DROPOUT_RATE", "0.0"), ("CODA", "None")],
  )
  return gin.get_configurable(T5Config)()


def random_tokens(config: T5Config, batch: int, length: int) -> jax.Array:
  """int32 [batch, length], none of them padding or the end."""
  rng = np.random.default_rng(0)
  return jnp.asarray(
    rng.integers(2, config.vocab_size, (batch, length), np.int32)
  )


def random_params(model: nn.Module, part: str) -> dict[str, Any]:
  """Random parameters of the parts that are used, made on the device.

  Their dtype is the computation's; for training it is float32.
  """
  inputs = initialise.ones(model.config)
  method = "encode" if part == "encoder" else "__call__"
  if part == "encoder":
    inputs = backbones.encoder_inputs(model.config, inputs)

  @jax.jit
  def init(key):
    variables = model.init(key, **inputs, enable_dropout=False, method=method)
    trains = part in train_step.PARTS
    dtype = jnp.float32 if trains else model.config.dtype
    return jax.tree.map(lambda x: x.astype(dtype), variables["params"])

  return init(jax.random.key(0))
