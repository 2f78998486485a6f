"""Adapters and LoRA: nothing when fresh, their formula when trained."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn import adapter, layers
from coda_jax.nn.attention import MultiHeadDotProductAttention
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.network import Transformer

ATTENTION = ("query", "key", "value", "out")
GATED_MLP = ("wi_0", "wi_1", "wo")


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, batch):
  return model.apply({"params": params}, **batch, enable_dropout=False)


def test_fresh_adapter_gives_zeros():
  x = random(2, 3, 8)
  variables = adapter.Adapter(4).init(jax.random.key(0), x)
  shapes = params_lib.flatten(jax.tree.map(jnp.shape, variables["params"]))
  assert shapes == {"down/kernel": (8, 4), "up/kernel": (4, 8)}
  y = adapter.Adapter(4).apply(variables, x)
  np.testing.assert_array_equal(y, np.zeros_like(x))


def test_fresh_adapter_learns():
  """The zero `up` has a gradient, and after one step `down` has one too."""
  x, module = random(2, 3, 8), adapter.Adapter(4)
  params = module.init(jax.random.key(0), x)["params"]
  loss = lambda p: jnp.square(module.apply({"params": p}, x) - x).sum()
  grads = jax.grad(loss)(params)
  assert np.abs(grads["up"]["kernel"]).max() > 0
  np.testing.assert_array_equal(grads["down"]["kernel"], 0)
  params = jax.tree.map(lambda p, g: p - 0.01 * g, params, grads)
  assert np.abs(jax.grad(loss)(params)["down"]["kernel"]).max() > 0


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_adapter_equals_its_formula(scale):
  x, down, up = random(2, 3, 8), random(8, 4, seed=1), random(4, 8, seed=2)
  params = {"down": {"kernel": down}, "up": {"kernel": up}}
  y = adapter.Adapter(4, scale=scale).apply({"params": params}, x)
  expected = scale * np.maximum(x.astype(np.float64) @ down, 0) @ up
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5 * scale)


def test_a_scale_reaches_encoder_and_decoder():
  """A scale of 4 is as good as matrices that are 4 times as large."""
  coda = CodaConfig(reduction=2, bottleneck_dim=4)
  model = Transformer(testing.tiny_config(coda=coda))
  params = testing.random_params(model)
  larger = {
    path: leaf * (4 if path.endswith("adapter/up/kernel") else 1)
    for path, leaf in params_lib.flatten(params).items()
  }
  scaled = Transformer(
    testing.tiny_config(coda=dataclasses.replace(coda, adapter_scale=4.0))
  )
  batch = testing.token_batch(model.config.vocab_size)
  np.testing.assert_allclose(
    logits(scaled, params, batch),
    logits(model, params_lib.unflatten(larger), batch),
    rtol=1e-4,
    atol=1e-5,
  )


def test_adapter_computes_in_its_dtype():
  module = adapter.Adapter(4, jnp.bfloat16)
  y, variables = module.init_with_output(jax.random.key(0), random(1, 2, 8))
  assert y.dtype == jnp.bfloat16
  assert all(
    leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables["params"])
  )


def test_lora_equals_its_formula():
  x, kernel = random(2, 3, 8), random(8, 6, seed=1)
  a, b = random(8, 2, seed=2), random(2, 6, seed=3)
  dense = layers.DenseGeneral(
    6,
    ("embed", "mlp"),
    lora=LoraConfig(2, alpha=5.0, targets=("wi",)),
    name="wi",
  )
  params = {
    "kernel": kernel,
    "lora": {"a": {"kernel": a}, "b": {"kernel": b}},
  }
  y = dense.apply({"params": params}, x)
  expected = x.astype(np.float64) @ (kernel + 5.0 / 2 * a @ b)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [*ATTENTION, *GATED_MLP, "wi"])
def test_lora_goes_to_its_target_alone(target):
  lora = LoraConfig(rank=2, targets=(target,))
  if target in ATTENTION:
    module = MultiHeadDotProductAttention(2, 3, lora=lora)
    arguments, names = (random(1, 4, 8),) * 2, ATTENTION
  else:
    activations = ("relu",) if target == "wi" else ("gelu", "linear")
    module = layers.MlpBlock(12, activations, lora=lora)
    names = ("wi", "wo") if target == "wi" else GATED_MLP
    arguments = (random(1, 4, 8),)
  y, variables = module.init_with_output(jax.random.key(0), *arguments)
  params = variables["params"]
  assert {n for n in names if "lora" in params[n]} == {target}

  # Fresh, it changes nothing: the same kernels without it.
  without = {n: {"kernel": params[n]["kernel"]} for n in names}
  plain = module.clone(lora=None)
  np.testing.assert_array_equal(y, plain.apply({"params": without}, *arguments))
  # Trained, it is the kernel plus alpha / rank a b.
  factors = params[target]["lora"]
  factors["b"]["kernel"] += 0.3
  product = factors["a"]["kernel"] @ factors["b"]["kernel"]
  without[target]["kernel"] += 4.0 / 2 * product
  y = module.apply({"params": params}, *arguments)
  np.testing.assert_allclose(
    y, plain.apply({"params": without}, *arguments), rtol=1e-4, atol=1e-5
  )


def test_fresh_additions_change_nothing_in_a_whole_model():
  """Adapter in every layer and LoRA on every projection: equal bits."""
  lora = LoraConfig(rank=2, targets=(*ATTENTION, *GATED_MLP))
  coda = CodaConfig(reduction=1, bottleneck_dim=4, lora=lora)
  shape = {"num_encoder_layers": 2, "num_decoder_layers": 1}
  dense = Transformer(testing.tiny_config(**shape))
  added = Transformer(testing.tiny_config(**shape, coda=coda))
  backbone, params = (
    params_lib.flatten(testing.random_params(model)) for model in (dense, added)
  )
  new = params.keys() - backbone.keys()
  assert backbone.keys() < params.keys()
  assert all(params_lib.matches(p, params_lib.TASK_PATTERNS) for p in new)
  # Pairs of kernels: 3 adapters, 4 in each of 4 attentions, 3 MLPs of 3.
  assert len(new) == 2 * (3 + 4 * 4 + 3 * 3)
  for path in params:
    if path.endswith(("/up/kernel", "/b/kernel")):
      params[path] = jnp.zeros_like(params[path])
  batch = testing.token_batch(dense.config.vocab_size)
  np.testing.assert_array_equal(
    logits(added, params_lib.unflatten(params), batch),
    logits(dense, params_lib.unflatten(backbone), batch),
  )


@pytest.mark.parametrize("width", [1, 4, 5])
def test_convolution_adds_up_neighbours(width):
  x, kernel = random(2, 7, 3), random(width, 3, seed=1)
  mask = np.arange(7) < np.array([[7], [4]])
  found = adapter.DepthwiseConvolution(width).apply(
    {"params": {"kernel": kernel}}, x, mask
  )
  for row, length in enumerate((7, 4)):
    for place in range(7):
      expected = np.zeros(3)
      for i in range(width):
        neighbour = place + i - width // 2
        if 0 <= neighbour < length:
          expected += kernel[i].astype(np.float64) * x[row, neighbour]
      np.testing.assert_allclose(
        found[row, place], expected, rtol=1e-5, atol=1e-6
      )


def test_adapter_with_a_convolution_is_its_formula():
  x = random(1, 4, 6)
  mask = np.ones((1, 4), bool)
  module = adapter.Adapter(5, convolution=3)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, mask)["params"]
  leaves = {
    path: random(*leaf.shape, seed=i)
    for i, (path, leaf) in enumerate(params_lib.flatten(shapes).items())
  }
  assert leaves.keys() == {"down/kernel", "convolution/kernel", "up/kernel"}
  h = x[0] @ leaves["down/kernel"]
  padded = np.pad(h, ((1, 1), (0, 0)))
  h = h + sum(
    padded[i : i + 4] * leaves["convolution/kernel"][i] for i in range(3)
  )
  found = module.apply({"params": params_lib.unflatten(leaves)}, x, mask)
  np.testing.assert_allclose(
    found[0], np.maximum(h, 0) @ leaves["up/kernel"], rtol=1e-4, atol=1e-5
  )
