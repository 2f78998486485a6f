"""Layers in a loop against the same layers one by one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import coda_jax
from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn import stack
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer

SMALL = {"num_encoder_layers": 3, "num_decoder_layers": 2}


def model_of(coda, **fields):
  return Transformer(testing.tiny_config(**SMALL, coda=coda, **fields))


@pytest.mark.parametrize(
  ("coda", "per_layer"), [(None, False), (CodaConfig(2.0), True)]
)
@pytest.mark.parametrize("remat", [False, True])
def test_loop_gives_the_same_numbers_and_gradients(coda, per_layer, remat):
  plain = model_of(coda, relpos_bias_per_layer=per_layer)
  loop = model_of(
    coda, relpos_bias_per_layer=per_layer, scan_layers=True, remat=remat
  )
  params = testing.random_params(plain)
  shapes = testing.random_params(loop)
  assert params_lib.flatten(shapes).keys() == params_lib.flatten(params).keys()
  batch = testing.token_batch(48)

  @jax.jit
  def gradients(params):
    return [
      jax.value_and_grad(
        lambda p, m=m: jnp.square(
          m.apply({"params": p}, **batch, enable_dropout=False)
        ).mean()
      )(params)
      for m in (plain, loop)
    ]

  (loss, gradient), (loop_loss, loop_gradient) = gradients(params)
  np.testing.assert_allclose(loop_loss, loss, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    loop_gradient,
    gradient,
  )


def test_routing_and_answers_are_the_same():
  plain, loop = (
    model_of(CodaConfig(2.0), scan_layers=s) for s in (False, True)
  )
  params = testing.random_params(plain)
  tokens = testing.token_batch(48)["encoder_input_tokens"]
  one, other = (
    m.apply(
      {"params": params},
      tokens,
      enable_dropout=False,
      return_routing=True,
      method="encode",
    )
    for m in (plain, loop)
  )
  np.testing.assert_allclose(one[0], other[0], rtol=1e-4, atol=1e-5)
  assert len(other[1]) == 3
  for a, b in zip(one[1], other[1], strict=True):
    np.testing.assert_array_equal(a.indices, b.indices)
  answers = [
    coda_jax.generate(m, params, tokens, max_length=5).tokens
    for m in (plain, loop)
  ]
  np.testing.assert_array_equal(*answers)


class Scaled(nn.Module):
  """Multiplies by a parameter of its own, and draws a key."""

  @nn.compact
  def __call__(self, x):
    scale = self.param("scale", nn.initializers.normal(1.0), ())
    return x * scale, jax.random.key_data(self.make_rng("dropout"))


class Stack(nn.Module):
  loop: bool

  @nn.compact
  def __call__(self, x):
    return stack.apply_layers(
      self,
      lambda i, **place: Scaled(**place),
      lambda layer, x, before: layer(x),
      x,
      number=3,
      remat=False,
      loop=self.loop,
    )


@pytest.mark.parametrize("loop", [False, True])
def test_each_layer_has_parameters_and_keys_of_its_own(loop):
  params = {
    f"layers_{i}": {"scale": jnp.float32(s)} for i, s in enumerate((2, 3, 5))
  }
  x, keys = Stack(loop).apply(
    {"params": params}, jnp.ones(()), rngs={"dropout": jax.random.key(0)}
  )
  assert x == 30 and len(np.unique(np.stack(keys), axis=0)) == 3


@pytest.mark.parametrize(
  "coda", [CodaConfig(2.0, ((1, 3.0),)), CodaConfig(2.0, router="random")]
)
def test_layers_that_differ_are_refused(coda):
  with pytest.raises(ValueError, match=r"alike.*set scan_layers=False"):
    model_of(coda, scan_layers=True)


SHARED = CodaConfig(
  2.0, ((0, 1.0),), bottleneck_dim=4, epsilon=0.5, shared_router=True
)


def encode(model, params, tokens):
  return model.apply(
    {"params": params},
    tokens,
    enable_dropout=False,
    return_routing=True,
    method="encode",
  )


def test_one_router_chooses_for_all_layers():
  """Its layers, one by one, with what the first that routes has chosen."""
  model = model_of(SHARED)
  params = testing.random_params(model)
  leaves = params_lib.flatten(params)
  assert [path for path in leaves if "router" in path] == [
    "encoder/layers_1/router/kernel"
  ]
  tokens = testing.random_tokens((9, 6), 11, 48)
  encoded, (dense, first, second) = encode(model, params, tokens)
  assert dense is None
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(a, b)
  longer, _ = encode(model, params, np.pad(tokens, ((0, 0), (0, 4))))
  real = tokens > 0
  np.testing.assert_allclose(
    encoded[real], longer[:, :11][real], rtol=1e-4, atol=1e-5
  )
  # The same model with a router in each layer, which choose what the first does
  # where their scores are, differs only in the second layer's choice.
  alone = model_of(dataclasses.replace(SHARED, shared_router=False))
  own = testing.random_params(alone)
  np.testing.assert_array_equal(
    encode(alone, own, tokens)[1][1].indices, first.indices
  )


@pytest.mark.parametrize("remat", [False, True])
def test_one_router_learns_from_all_layers(remat):
  tokens = testing.random_tokens((9, 6), 11, 48)

  def gradient(config):
    model = model_of(config, remat=remat)
    params = testing.random_params(model)
    loss = lambda p: (encode(model, p, tokens)[0][tokens > 0] ** 2).sum()
    found = jax.grad(loss)(params)["encoder"]["layers_1"]["router"]["kernel"]
    return np.asarray(found)

  def loss(shift):
    model = model_of(SHARED)
    params = params_lib.flatten(testing.random_params(model))
    name = "encoder/layers_1/router/kernel"
    params[name] = params[name] + shift * direction
    encoded, _ = encode(model, params_lib.unflatten(params), tokens)
    return float((np.asarray(encoded, np.float64)[tokens > 0] ** 2).sum())

  found = gradient(SHARED)
  direction = np.sign(found)
  slope = (loss(1e-3) - loss(-1e-3)) / 2e-3
  np.testing.assert_allclose((found * direction).sum(), slope, rtol=0.05)


def test_layers_that_share_a_router_have_one_r():
  with pytest.raises(ValueError, match=r"r differ: \[2.0, 3.0\]; give one r"):
    model_of(CodaConfig(2.0, ((1, 3.0),), shared_router=True))
  with pytest.raises(ValueError, match="alike.*set scan_layers=False"):
    model_of(CodaConfig(2.0, shared_router=True), scan_layers=True)
  with pytest.raises(ValueError, match="shared_router=1; expected True or"):
    CodaConfig(shared_router=1)
