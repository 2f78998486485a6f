"""The layers against numpy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.nn import layers
from coda_jax.nn.config import LoraConfig


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_erf(x):
  return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def test_rms_norm_scales_by_the_root_mean_square():
  x, scale = 3 + random(2, 5, 8), random(8, seed=1)
  y = layers.RMSNorm().apply({"params": {"scale": scale}}, x)
  x = x.astype(np.float64)
  mean_square = np.mean(x**2, axis=-1, keepdims=True)
  np.testing.assert_allclose(y, x / np.sqrt(mean_square + 1e-6) * scale, 1e-5)


def test_rms_norm_computes_in_float32():
  # 200 squares of 1 + 2^-7: bfloat16 would lose the fraction and the sum.
  x = jnp.full((1, 200), 1 + 2**-7, jnp.bfloat16)
  params = {"scale": jnp.full((200,), 1.01)}
  y = layers.RMSNorm(dtype=jnp.float32).apply({"params": params}, x)
  np.testing.assert_allclose(y, 1.01, rtol=1e-6)
  y = layers.RMSNorm(dtype=jnp.bfloat16).apply({"params": params}, x)
  assert y.dtype == jnp.bfloat16


def test_rms_norm_of_zeros_is_zero_with_finite_gradient():
  apply = lambda x: layers.RMSNorm().apply({"params": {"scale": np.ones(4)}}, x)
  np.testing.assert_array_equal(apply(jnp.zeros((1, 4))), 0.0)
  grad = jax.grad(lambda x: apply(x).sum())(jnp.zeros((1, 4)))
  assert np.isfinite(grad).all()


def test_layer_norm_equals_its_formula():
  x, scale, bias = 3 + random(2, 5, 8), random(8, seed=1), random(8, seed=2)
  norm = layers.LayerNorm(epsilon=0.1)
  y = norm.apply({"params": {"scale": scale, "bias": bias}}, x)
  x = x.astype(np.float64)
  centred = x - x.mean(-1, keepdims=True)
  expected = centred / np.sqrt(x.var(-1, keepdims=True) + 0.1) * scale + bias
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_computes_in_float32():
  # bfloat16 has no number between 256 and 258, nor their mean.
  x = jnp.tile(jnp.array([256.0, 258.0], jnp.bfloat16), 100)[None]
  params = {"scale": jnp.full((200,), 1.01), "bias": jnp.zeros(200)}
  y = layers.LayerNorm(dtype=jnp.float32).apply({"params": params}, x)
  np.testing.assert_allclose(np.abs(y), 1.01, rtol=1e-5)
  y = layers.LayerNorm(dtype=jnp.bfloat16).apply({"params": params}, x)
  assert y.dtype == jnp.bfloat16


def test_layer_norm_of_equal_numbers_is_its_bias():
  params = {"scale": jnp.ones(4), "bias": jnp.arange(4.0)}
  norm = layers.LayerNorm(1e-12)
  apply = lambda x: norm.apply({"params": params}, x)
  np.testing.assert_array_equal(apply(jnp.full((1, 4), 7.0))[0], np.arange(4.0))
  grad = jax.grad(lambda x: jnp.square(apply(x)).sum())(jnp.zeros((1, 4)))
  assert np.isfinite(grad).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dense_adds_its_bias(dtype):
  dense = layers.DenseGeneral(
    4, ("embed", "mlp"), use_bias=True, dtype=jnp.dtype(dtype)
  )
  x, kernel, bias = random(2, 3, 8), random(8, 4, seed=1), random(4, seed=2)
  params = {"kernel": kernel, "bias": bias}
  y = dense.apply({"params": params}, jnp.asarray(x))
  assert y.dtype == dtype
  tolerance = 1e-5 if dtype == "float32" else 5e-2
  expected = x @ kernel + bias
  np.testing.assert_allclose(
    y.astype(np.float32), expected, rtol=tolerance, atol=tolerance
  )


def test_biases_start_at_zero_and_are_where_they_are_asked_for():
  x = jnp.ones((1, 2, 8))
  for use_bias in (False, True):
    mlp = layers.MlpBlock(6, use_bias=use_bias)
    params = mlp.init(jax.random.key(0), x)["params"]
    names = {"kernel", "bias"} if use_bias else {"kernel"}
    assert {n: p.keys() for n, p in params.items()} == {
      "wi": names,
      "wo": names,
    }
    if use_bias:
      assert not params["wi"]["bias"].any()


@pytest.mark.parametrize(
  ("activations", "expected"),
  [
    (("relu",), lambda h, _: np.maximum(h, 0)),
    (("gelu", "linear"), lambda h0, h1: gelu(h0) * h1),
    (("gelu_erf",), lambda h, _: gelu_erf(h)),
    (("silu",), lambda h, _: h / (1 + np.exp(-h))),
  ],
)
def test_mlp_equals_its_formula(activations, expected):
  block = layers.MlpBlock(12, activations)
  x = random(2, 3, 8)
  names = ["wi"] if len(activations) == 1 else ["wi_0", "wi_1"]
  kernels = {n: random(8, 12, seed=i) for i, n in enumerate(names, 1)}
  wo = random(12, 8, seed=9)
  params = {n: {"kernel": k} for n, k in (kernels | {"wo": wo}).items()}
  hidden = [x.astype(np.float64) @ kernels[n] for n in names]
  reference = expected(hidden[0], hidden[-1]) @ wo
  y = block.apply({"params": params}, x)
  np.testing.assert_allclose(y, reference, rtol=1e-4, atol=1e-5)


def test_exact_gelu_is_not_the_approximation():
  block = layers.MlpBlock(1, ("gelu_erf",))
  params = {name: {"kernel": np.ones((1, 1))} for name in ("wi", "wo")}
  params = jax.tree.map(np.float32, params)
  y = block.apply({"params": params}, np.ones((1, 1, 1), np.float32))
  np.testing.assert_allclose(y, 0.8413447, rtol=1e-6)
  assert abs(gelu(1.0) - 0.8413447) > 1e-4


def test_mlp_dropout_is_shared_along_the_length():
  block = layers.MlpBlock(64, ("relu",), dropout_rate=0.5)
  params = {"wi": {"kernel": np.eye(64)}, "wo": {"kernel": np.eye(64)}}
  x = np.ones((2, 3, 64), np.float32)
  y = block.apply(
    {"params": jax.tree.map(np.float32, params)},
    x,
    deterministic=False,
    rngs={"dropout": jax.random.key(0)},
  )
  assert set(np.unique(y)) == {0.0, 2.0}
  np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
  assert (y[0] != y[1]).any()


def test_dense_computes_in_its_dtype_from_float32_parameters():
  dense = layers.DenseGeneral(4, ("embed", "mlp"), dtype=jnp.bfloat16)
  variables = dense.init(jax.random.key(0), jnp.ones((1, 2, 8)))
  assert variables["params"]["kernel"].dtype == jnp.float32
  y = dense.apply(variables, jnp.ones((1, 2, 8)))
  assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2, targets=("out",))])
def test_two_axes_are_mapped_as_one(lora):
  x = jnp.asarray(random(2, 5, 3, 4))
  joined = x.reshape(2, 5, 12)
  axes = ("joined_kv", "embed")
  one = layers.DenseGeneral(6, axes, lora=lora, name="out")
  two = layers.DenseGeneral(6, axes, num_axes=2, lora=lora, name="out")
  variables = one.init(jax.random.key(0), joined)
  variables = jax.tree.map(
    lambda x: jnp.asarray(random(*x.shape)), {"params": variables["params"]}
  )
  np.testing.assert_allclose(
    two.apply(variables, x), one.apply(variables, joined), 1e-5, 1e-5
  )


def test_embedding_looks_up_and_attends_in_float32():
  embed = layers.Embed(10, 6, dtype=jnp.bfloat16)
  table = random(10, 6)
  variables = {"params": {"embedding": table}}
  tokens = np.array([[3, 0, 9]], np.int32)
  y = embed.apply(variables, tokens)
  np.testing.assert_array_equal(y, table[tokens].astype(jnp.bfloat16))
  x = random(1, 2, 6, seed=1)
  logits = embed.apply(variables, x, method=embed.attend)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, x @ table.T, rtol=1e-5, atol=1e-6)


def test_tokens_may_be_floating_point():
  """As t5x has them where it initialises a model."""
  embed = layers.Embed(7, 3)
  tokens = jnp.array([[2, 6, 0]])
  variables = embed.init(jax.random.key(0), tokens.astype(jnp.float32))
  np.testing.assert_array_equal(
    embed.apply(variables, tokens.astype(jnp.float32)),
    embed.apply(variables, tokens),
  )
