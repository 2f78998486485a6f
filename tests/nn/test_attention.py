"""Attention against loops in float64; masks, biases and the decode cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.nn import attention, layers
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


def test_attention_equals_loops():
  query = random(2, HEADS, 4, DIM, seed=1)
  key, value = (random(2, HEADS, 6, DIM, seed=s) for s in (2, 3))
  bias = random(2, HEADS, 4, 6, seed=4)
  mask = np.random.default_rng(5).random((2, HEADS, 4, 6)) < 0.6
  mask[..., 0] = True
  found = attention.dot_product_attention(query, key, value, mask, bias)
  expected = attend(query, key, value, mask, bias)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def small_blocks(monkeypatch):
  """Attention of more than two queries is in blocks of two."""
  monkeypatch.setattr(attention, "_LOGITS_IN_CACHE", 1)
  monkeypatch.setattr(attention, "_QUERY_BLOCK", 2)


@pytest.mark.parametrize("queries", [1, 2, 4, 5])
@pytest.mark.parametrize("shape", ["own", "shared", "none"])
def test_queries_in_blocks_equal_loops(small_blocks, queries, shape):
  query = random(2, HEADS, queries, DIM, seed=1)
  key, value = (random(2, HEADS, 6, DIM, seed=s) for s in (2, 3))
  whole = (2, HEADS, queries, 6)
  mask, bias = np.ones(whole, bool), np.zeros(whole, np.float32)
  given = (None, None)
  if shape != "none":
    # Masks of padding are the same for every query; biases may be.
    of = (2, HEADS, queries, 6) if shape == "own" else (2, 1, 1, 6)
    bias = random(*of, seed=4)
    mask = np.random.default_rng(5).random(of) < 0.6
    mask[..., 0] = True
    given = (mask, bias)
    mask, bias = (np.broadcast_to(x, whole) for x in given)
  attention_of = jax.jit(attention.dot_product_attention)
  found = attention_of(query, key, value, *given)
  expected = attend(query, key, value, mask, bias)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_gradient_is_the_same_in_blocks(small_blocks):
  query, key, value, weights = (
    random(2, HEADS, 5, DIM, seed=s) for s in range(4)
  )
  mask = np.arange(5) < np.array([3, 5])[:, None, None, None]
  bias = random(1, HEADS, 5, 5, seed=5)

  def gradients(attend):
    return jax.grad(
      lambda q, k, v, b: (attend(q, k, v, mask, b) * weights).sum(),
      argnums=(0, 1, 2, 3),
    )(query, key, value, bias)

  def plain(query, key, value, mask, bias):
    logits = jnp.einsum("bhqd,bhkd->bhqk", query, key) + bias
    weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf))
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value)

  for found, expected in zip(
    gradients(attention.dot_product_attention), gradients(plain), strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 9, 40, 300])
def test_bias_by_comparison_is_the_bias_by_index(length):
  buckets = layers.distance_buckets(length, bidirectional=True)
  table = layers.RelativePositionBiases(HEADS).apply(
    {"params": {"rel_embedding": jnp.asarray(random(HEADS, 32))}}, buckets
  )
  rng = np.random.default_rng(length)
  k = min(length, 50)
  rows = [rng.permutation(length)[:k] for _ in range(3)]
  positions = jnp.asarray(np.stack(rows), jnp.int32)
  expected = attention.bias_from_table(table, positions, positions)
  distance = positions[:, None, :] - positions[:, :, None]
  edges = layers.bucket_edges(length)
  found = attention.bias_by_comparison(table, distance, edges)
  np.testing.assert_array_equal(found, expected)

  weights = random(3, HEADS, k, k)
  gradient, expected_gradient = (
    jax.grad(lambda table, f=f: (f(table) * weights).sum())(table)
    for f in (
      lambda table: attention.bias_by_comparison(table, distance, edges),
      lambda table: attention.bias_from_table(table, positions, positions),
    )
  )
  # The table's columns of a bucket are one parameter.
  embed = lambda g: jax.vjp(
    lambda p: layers.RelativePositionBiases(HEADS).apply(
      {"params": {"rel_embedding": p}}, buckets
    ),
    jnp.asarray(random(HEADS, 32)),
  )[1](g)[0]
  np.testing.assert_allclose(
    embed(gradient), embed(expected_gradient), rtol=1e-4, atol=1e-4
  )


def test_edges_are_where_t5_changes_its_bucket():
  # Raffel et al.: 8 exact distances, then 8 buckets to 128, each 2^0.5 wider.
  wide = [8 * 2 ** (i / 2) for i in range(1, 8)]
  expected = [*range(1, 9), *(int(np.ceil(x)) for x in wide)]
  assert list(layers.bucket_edges(512)) == sorted(set(expected))
  assert layers.bucket_edges(10) == (1, 2, 3, 4, 5, 6, 7, 8)


def test_softmax_is_float32_in_bfloat16():
  # 300 equal keys: a bfloat16 sum of their weights would stop at 256.
  query = jnp.zeros((1, 1, 1, DIM), jnp.bfloat16)
  key = jnp.zeros((1, 1, 300, DIM), jnp.bfloat16)
  value = jnp.ones((1, 1, 300, DIM), jnp.bfloat16)
  found = attention.dot_product_attention(query, key, value)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(found.astype(jnp.float32), 1.0, rtol=2**-7)
  # A difference of 0.5 at 1000 is lost in bfloat16, whose step there is 4.
  query = jnp.array([[[[1.0, 1.0]]]], jnp.bfloat16)
  key = jnp.array([[[[1000.0, 0.5], [1000.0, 0.0]]]], jnp.bfloat16)
  value = jnp.array([[[[1.0, 0.0], [0.0, 1.0]]]], jnp.bfloat16)
  found = attention.dot_product_attention(query, key, value)
  expected = [1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(0.5))]
  np.testing.assert_allclose(found[0, 0, 0].astype(np.float32), expected, 0.01)


@pytest.mark.parametrize("keys", [3, 128, 129, 200])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_average_on_tpu(keys, dtype):
  weights = np.exp(random(2, HEADS, 5, keys))
  value = jnp.asarray(random(2, HEADS, keys, DIM), dtype)
  found = attention.average_on_tpu(jnp.asarray(weights), value)
  assert found.dtype == jnp.float32
  exact = weights.astype(np.float64)
  exact /= exact.sum(-1, keepdims=True)
  exact = exact @ np.asarray(value).astype(np.float64)
  tolerance = 1e-5 if dtype == jnp.float32 else 4e-3
  np.testing.assert_allclose(found, exact, tolerance, tolerance)


def test_row_without_keys_gives_no_nan():
  x = random(1, HEADS, 3, DIM)
  mask = jnp.zeros((1, 1, 3, 3), bool)

  def total(x):
    return attention.dot_product_attention(x, x, x, mask).sum()

  assert np.isfinite(total(x))
  assert np.isfinite(jax.grad(total)(x)).all()


def test_bias_is_looked_up_at_the_given_positions():
  length = 7
  table = jnp.asarray(random(HEADS, 2 * length - 1))
  query_positions = np.array([[6, 0, 3], [2, 5, 1]])
  key_positions = np.array([[4, 6], [0, 5]])
  found = attention.bias_from_table(table, query_positions, key_positions)
  assert found.shape == (2, HEADS, 3, 2)
  for b, h, i, j in np.ndindex(found.shape):
    distance = key_positions[b, j] - query_positions[b, i]
    assert found[b, h, i, j] == table[h, length - 1 + distance]


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
  found = layer.apply(variables, x, context, mask, bias_table=table)

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
  expected = layer.apply(variables, x, x, causal, bias_table=table)

  _, state = layer.apply(
    variables, x, x, bias_table=table, decode=True, mutable=["cache"]
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
      bias_table=table,
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
