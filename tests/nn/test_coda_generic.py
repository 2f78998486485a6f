"""CodaLayer around a block of another model, and inside of flax.nnx."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from coda_jax import params as params_lib
from coda_jax.nn.coda import CodaLayer
from coda_jax.nn.config import CodaConfig

EMB, N = 12, 10


class VitBlock(nn.Module):
  """A vision Transformer's block, with what `CodaLayer` asks for."""

  num_heads: int = 3

  def setup(self):
    self.norm_1, self.norm_2 = nn.LayerNorm(), nn.LayerNorm()
    self.attention = nn.MultiHeadDotProductAttention(self.num_heads)
    self.up, self.down = nn.Dense(20), nn.Dense(EMB)

  def normalize(self, x):
    return self.norm_1(x)

  def delta(self, tokens, context, **_):
    mask = context.mask[:, None, None, :]
    z = self.attention(tokens.norm, context.norm, mask=mask)
    return z + self.down(nn.gelu(self.up(self.norm_2(tokens.x + z))))

  def __call__(self, x):
    """By itself, as in the model that it comes from."""
    z = self.attention(self.norm_1(x), self.norm_1(x))
    return x + z + self.down(nn.gelu(self.up(self.norm_2(x + z))))


def patches(seed=0):
  return np.random.default_rng(seed).standard_normal((2, N, EMB)).astype("f")


def make_layer(reduction, **config):
  config = CodaConfig(reduction=reduction, bottleneck_dim=4, **config)
  return CodaLayer(VitBlock(parent=None), config)


@functools.cache
def random_leaves():
  """The layer's parameters by path, none of them 0 or 1."""
  init = functools.partial(make_layer(2.0).init, jax.random.key(0))
  leaves = params_lib.flatten(jax.eval_shape(init, patches())["params"])
  rng = np.random.default_rng(1)
  return {
    path: jnp.float32(0.4 * rng.standard_normal(leaf.shape))
    for path, leaf in leaves.items()
  }


@functools.partial(jax.jit, static_argnums=0)
def apply(module, leaves, x):
  return module.apply({"params": params_lib.unflatten(leaves)}, x)


def adapted(x, leaves):
  """X + Adapter(LayerNorm(X)) by numpy."""
  x_norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(
    x.var(-1, keepdims=True) + 1e-6
  )
  x_norm = x_norm * leaves["norm_1/scale"][None, None]
  x_norm += leaves["norm_1/bias"][None, None]
  hidden = np.maximum(x_norm @ leaves["adapter/down/kernel"], 0)
  return x + hidden @ leaves["adapter/up/kernel"]


def test_parameters_keep_the_paths_of_the_block():
  init = functools.partial(VitBlock().init, jax.random.key(0))
  backbone = params_lib.flatten(jax.eval_shape(init, patches())["params"])
  assert "attention/query/bias" in backbone
  assert random_leaves().keys() - backbone.keys() == {
    "adapter/down/kernel",
    "adapter/up/kernel",
    "router/kernel",
  }
  assert backbone.keys() < random_leaves().keys()


@pytest.mark.parametrize("reduction", [1.0, 1.0 + 1e-6])
def test_all_tokens_with_weight_one_are_the_dense_block(reduction):
  x, leaves = patches(), random_leaves()
  y, _ = apply(make_layer(reduction), leaves, x)
  dense = apply(VitBlock(), leaves, x)
  np.testing.assert_allclose(
    y, dense + adapted(x, leaves) - x, rtol=1e-4, atol=1e-5
  )


def test_routed_tokens_go_through_the_block_as_a_sequence_of_their_own():
  """Without positions, k-to-k is the block on the selected tokens alone."""
  x, leaves = patches(), random_leaves()
  y, selection = apply(make_layer(2.5, epsilon=1.0), leaves, x)
  expected = np.array(adapted(x, leaves))
  for row, indices in enumerate(np.asarray(selection.indices)):
    chosen = x[row : row + 1, indices]
    delta = apply(VitBlock(), leaves, chosen) - chosen
    weights = np.asarray(selection.weights[row, :, None])
    expected[row, indices] += weights * delta[0]
  assert selection.indices.shape == (2, 4)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_layer_runs_inside_nnx():
  x = patches()
  layer = make_layer(2.0, router="sigmoid")
  model = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(x)
  leaves = {
    "/".join(path): leaf[...]
    for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
  }
  assert leaves.keys() == random_leaves().keys()
  y, selection = nnx.jit(lambda model, x: model(x))(model, x)
  expected, routed = apply(layer, leaves, x)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(selection.indices, routed.indices)

  loss = lambda model: jnp.square(model(x)[0]).sum()
  grads = nnx.jit(nnx.grad(loss))(model)
  assert np.abs(grads["adapter"]["up"]["kernel"][...]).max() > 0
