"""The attention module: projections, bias, dropout and caches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.nn import position_bias
from coda_jax.nn.attention import MultiHeadDotProductAttention

HEADS, DIM = 2, 3


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def attend(query, key, value, mask, bias):
  """One query at a time: softmax(q . k + bias) over what it may see."""
  out = np.zeros(query.shape, np.float64)
  for b, h, i in np.ndindex(query.shape[:3]):
    seen = np.flatnonzero(mask[b, h, i])
    scores = np.array(
      [
        float(query[b, h, i].astype(np.float64) @ key[b, h, j])
        + bias[b, h, i, j]
        for j in seen
      ]
    )
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    out[b, h, i] = sum(
      w * value[b, h, j] for w, j in zip(weights, seen, strict=False)
    )
  return out


def bias_of(table):
  return functools.partial(position_bias.from_table, table, bidirectional=False)


def module(**kwargs):
  return MultiHeadDotProductAttention(num_heads=HEADS, head_dim=DIM, **kwargs)


def random_variables(layer, emb_dim=5):
  x = jnp.zeros((1, 2, emb_dim))
  params = layer.init(jax.random.key(0), x, x)["params"]
  shapes = jax.tree.map(lambda leaf: leaf.shape, params)
  assert shapes["query"]["kernel"] == (emb_dim, HEADS * DIM)
  assert shapes["out"]["kernel"] == (HEADS * DIM, emb_dim)
  return {"params": params}


def test_module_projects_attends_and_projects_back():
  layer = module()
  variables = random_variables(layer)
  x, context = random(2, 3, 5), random(2, 4, 5, seed=1)
  table = jnp.asarray(random(HEADS, 7))
  mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)[:, None, None, :]
  found = layer.apply(variables, x, context, mask, position_bias=bias_of(table))

  kernel = {k: v["kernel"] for k, v in variables["params"].items()}
  split = lambda x, name: np.swapaxes(
    (x @ np.asarray(kernel[name])).reshape(2, -1, HEADS, DIM), 1, 2
  )
  bias = np.zeros((2, HEADS, 3, 4))
  for b, h, i, j in np.ndindex(bias.shape):
    bias[b, h, i, j] = table[h, 3 + j - i]
  heads = attend(
    split(x, "query"),
    split(context, "key"),
    split(context, "value"),
    np.broadcast_to(mask, bias.shape),
    bias,
  )
  expected = np.swapaxes(heads, 1, 2).reshape(2, 3, -1) @ np.asarray(
    kernel["out"]
  )
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_query_initializer_holds_the_scaling():
  layer = MultiHeadDotProductAttention(num_heads=8, head_dim=64)
  x = jnp.zeros((1, 1, 256))
  params = layer.init(jax.random.key(0), x, x)["params"]
  for name, std in [("query", 1 / 16 / 8), ("key", 1 / 16), ("value", 1 / 16)]:
    np.testing.assert_allclose(params[name]["kernel"].std(), std, rtol=0.02)
  np.testing.assert_allclose(
    params["out"]["kernel"].std(), 512**-0.5, rtol=0.02
  )


def test_scale_multiplies_the_logits():
  x, context = random(2, 3, 5), random(2, 4, 5, seed=1)
  plain, scaled = module(), module(scale=0.25)
  variables = random_variables(plain)
  quarter = jax.tree.map(lambda leaf: leaf, variables)
  quarter["params"]["query"]["kernel"] *= 0.25
  np.testing.assert_allclose(
    scaled.apply(variables, x, context),
    plain.apply(quarter, x, context),
    rtol=1e-5,
    atol=1e-6,
  )


def test_scaled_queries_start_like_keys():
  layer = MultiHeadDotProductAttention(num_heads=8, head_dim=64, scale=1 / 8)
  x = jnp.zeros((1, 1, 256))
  params = layer.init(jax.random.key(0), x, x)["params"]
  np.testing.assert_allclose(params["query"]["kernel"].std(), 1 / 16, rtol=0.02)


def test_biases_are_added_to_each_projection():
  layer, plain = module(use_bias=True), module()
  variables = random_variables(layer)
  x = random(2, 3, 5)
  params = variables["params"]
  names = ("query", "key", "value", "out")
  assert all(params[name].keys() == {"kernel", "bias"} for name in names)
  # A bias is the row of a kernel for a feature that is always 1.
  for seed, name in enumerate(names):
    params[name]["bias"] = random(*params[name]["bias"].shape, seed=seed)
  with_one = np.concatenate([x, np.ones((2, 3, 1), np.float32)], axis=-1)
  joined = {
    name: {
      "kernel": np.concatenate(
        [params[name]["kernel"], params[name]["bias"][None]]
      )
    }
    for name in names[:3]
  }
  wide_out = np.pad(params["out"]["kernel"], ((0, 0), (0, 1)))
  joined["out"] = {"kernel": wide_out}
  expected = plain.apply({"params": joined}, with_one, with_one)[..., :5]
  expected += params["out"]["bias"][None, None]
  np.testing.assert_allclose(
    layer.apply(variables, x, x), expected, rtol=1e-4, atol=1e-5
  )


def test_dropout_of_each_query_alone():
  layer = module(dropout_rate=0.5, broadcast_dropout=False)
  variables = random_variables(layer)
  x = np.broadcast_to(random(1, 1, 5), (1, 4, 5))
  y = layer.apply(
    variables,
    x,
    random(1, 6, 5, seed=1),
    deterministic=False,
    rngs={"dropout": jax.random.key(0)},
  )
  assert np.abs(y[:, 1:] - y[:, :1]).max() > 1e-3


def test_dropout_is_shared_by_the_queries():
  # With queries that are all alike, so are their outputs, dropout included.
  layer = module(dropout_rate=0.5)
  variables = random_variables(layer)
  x = np.broadcast_to(random(1, 1, 5), (1, 4, 5))
  run = lambda seed: layer.apply(
    variables,
    x,
    random(1, 6, 5, seed=1),
    deterministic=False,
    rngs={"dropout": jax.random.key(seed)},
  )
  y = run(0)
  np.testing.assert_allclose(y, np.broadcast_to(y[:, :1], y.shape), rtol=1e-6)
  assert (run(1) != y).any()


def test_cache_gives_what_causal_attention_gives():
  layer, length = module(), 5
  variables = random_variables(layer)
  x = random(2, length, 5)
  table = jnp.asarray(random(HEADS, 2 * length - 1, seed=1))
  causal = np.tril(np.ones((1, 1, length, length), bool))
  expected = layer.apply(variables, x, x, causal, position_bias=bias_of(table))

  _, state = layer.apply(
    variables,
    x,
    x,
    position_bias=bias_of(table),
    decode=True,
    mutable=["cache"],
  )
  shapes = jax.tree.map(jnp.shape, state["cache"])
  kv_shape = (2, HEADS, length, DIM)
  assert shapes == {
    "cached_key": kv_shape,
    "cached_value": kv_shape,
    "cache_index": (),
  }
  assert not any(leaf.any() for leaf in jax.tree.leaves(state))
  for i in range(length):
    step = x[:, i : i + 1]
    y, state = layer.apply(
      variables | state,
      step,
      step,
      position_bias=bias_of(table),
      decode=True,
      mutable=["cache"],
    )
    np.testing.assert_allclose(y, expected[:, i : i + 1], rtol=1e-4, atol=1e-5)
  assert state["cache"]["cache_index"] == length


def test_cache_refuses_several_tokens_in_a_step():
  layer = module()
  variables = random_variables(layer)
  x = random(1, 4, 5)
  _, state = layer.apply(variables, x, x, decode=True, mutable=["cache"])
  with pytest.raises(ValueError, match="one token a step, got 2"):
    layer.apply(
      variables | state, x[:, :2], x[:, :2], decode=True, mutable=["cache"]
    )


def test_kept_keys_and_values_serve_several_rows_each():
  """Cross-attention of beams: two rows of queries for each input's keys."""
  layer = module()
  variables = random_variables(layer)
  context, x = random(2, 4, 5), random(4, 1, 5, seed=1)
  mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], bool)[:, None, None, :]
  expected = layer.apply(
    variables, x, np.repeat(context, 2, 0), np.repeat(mask, 2, 0)
  )
  _, kept = layer.apply(
    variables, x[::2], context, mask, keep_kv=True, mutable=["encoded_kv"]
  )
  # The context itself is not read any more.
  found = layer.apply(variables | kept, x, context * np.nan, mask, keep_kv=True)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
