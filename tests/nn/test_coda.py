"""CodaLayer against the paper's equations, written as loops in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn import coda
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.encoder import EncoderLayer

EMB, HEADS, HEAD_DIM, MLP, BOTTLENECK = 8, 2, 3, 10, 4
SHAPES = {
  "pre_attention_layer_norm/scale": (EMB,),
  "attention/query/kernel": (EMB, HEADS * HEAD_DIM),
  "attention/key/kernel": (EMB, HEADS * HEAD_DIM),
  "attention/value/kernel": (EMB, HEADS * HEAD_DIM),
  "attention/out/kernel": (HEADS * HEAD_DIM, EMB),
  "pre_mlp_layer_norm/scale": (EMB,),
  "mlp/wi_0/kernel": (EMB, MLP),
  "mlp/wi_1/kernel": (EMB, MLP),
  "mlp/wo/kernel": (MLP, EMB),
  "adapter/down/kernel": (EMB, BOTTLENECK),
  "adapter/up/kernel": (BOTTLENECK, EMB),
  "router/kernel": (EMB,),
}
# The relative position bias of a key d tokens after the query: BIAS[:, 19 + d].
BIAS = np.random.default_rng(7).standard_normal((HEADS, 39))
LENGTHS = (9, 7, 1, 0)


def random_params(seed=0):
  rng = np.random.default_rng(seed)
  return {
    path: 0.5 * rng.standard_normal(shape) for path, shape in SHAPES.items()
  }


def random_tokens(lengths=LENGTHS, n=9, seed=1):
  """Tokens that don't depend on the padding, and what is padding."""
  x = np.random.default_rng(seed).standard_normal((20, len(lengths), EMB))
  x = np.moveaxis(x, 0, 1)[:, :n]
  return x, np.arange(n)[None, :] < np.array(lengths)[:, None]


def make_layer(reduction=2.0, **config):
  shape = testing.tiny_config(
    emb_dim=EMB, num_heads=HEADS, head_dim=HEAD_DIM, mlp_dim=MLP
  )
  coda_config = CodaConfig(
    **{"reduction": reduction, "bottleneck_dim": BOTTLENECK, **config}
  )
  return coda.CodaLayer(EncoderLayer(shape, parent=None), coda_config)


@functools.partial(jax.jit, static_argnums=0)
def jitted(layer, params, x, mask, table):
  variables = {"params": params_lib.unflatten(params)}
  return layer.apply(variables, x, mask, bias_table=table)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.value_and_grad, argnums=(1, 2))
def jitted_gradients(layer, params, x, mask, table, direction):
  return jnp.sum(jitted(layer, params, x, mask, table)[0] * direction)


def run(layer, params, x, mask, function=jitted, **kwargs):
  """Calls the jitted `function` in float32."""
  params = {path: jnp.float32(leaf) for path, leaf in params.items()}
  n = x.shape[1]
  table = jnp.float32(BIAS[:, 20 - n : 19 + n])
  return function(layer, params, jnp.float32(x), mask, table, **kwargs)


def gradients(layer, params, x, mask, direction):
  """Gradients of sum(y * direction): of the parameters, of x."""
  direction = jnp.float32(direction)
  loss, grads = run(
    layer, params, x, mask, jitted_gradients, direction=direction
  )
  assert np.isfinite(loss)
  return grads


def rms_norm(x, scale):
  return x / np.sqrt(np.mean(x**2) + 1e-6) * scale


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def soft_weights(scores, k, epsilon):
  if k == len(scores):
    return np.ones(k)
  at = lambda t: np.exp(np.minimum((scores - t) / epsilon, 0))
  low, high = scores.min(), scores.max() + epsilon * np.log(len(scores))
  for _ in range(100):
    t = (low + high) / 2
    low, high = (t, high) if at(t).sum() > k else (low, t)
  return at(low)


def reference(params, x, lengths, reduction, attention, rule, epsilon=0.03):
  """Y = X + Adapter(X_norm) + m * Z_cond, token by token; selected tokens."""
  p, y, selected = params, np.zeros_like(x), []
  for b, length in enumerate(lengths):
    x_norm = [rms_norm(t, p["pre_attention_layer_norm/scale"]) for t in x[b]]
    for i, t in enumerate(x_norm):
      hidden = np.maximum(t @ p["adapter/down/kernel"], 0)
      y[b, i] = x[b, i] + hidden @ p["adapter/up/kernel"]
    k = math.ceil(length / reduction)
    scores = np.array([t @ p["router/kernel"] for t in x_norm[:length]])
    if rule == "truncation":
      scores, m = -np.arange(length), np.ones(length)
    elif k == length:  # nothing is dropped: the dense layer, at full weight
      m = np.ones(length)
    elif rule == "sigmoid":
      m = 1 / (1 + np.exp(-scores))
    elif length:
      m = soft_weights(scores, k, epsilon)
    chosen = sorted(range(length), key=lambda i: -scores[i])[:k]
    selected.append(chosen)
    seen = chosen if attention == "k_to_k" else range(length)
    for i in chosen:
      z = np.zeros(EMB)
      for h in range(HEADS):
        part = slice(h * HEAD_DIM, (h + 1) * HEAD_DIM)
        query = x_norm[i] @ p["attention/query/kernel"][:, part]
        logits = []
        for j in seen:
          key = x_norm[j] @ p["attention/key/kernel"][:, part]
          logits.append(query @ key + BIAS[h, 19 + j - i])
        shares = np.exp(np.array(logits) - max(logits))
        shares /= shares.sum()
        for j, share in zip(seen, shares, strict=False):
          value = x_norm[j] @ p["attention/value/kernel"][:, part]
          z += share * value @ p["attention/out/kernel"][part]
      t = rms_norm(x[b, i] + z, p["pre_mlp_layer_norm/scale"])
      hidden = gelu(t @ p["mlp/wi_0/kernel"]) * (t @ p["mlp/wi_1/kernel"])
      y[b, i] += m[i] * (z + hidden @ p["mlp/wo/kernel"])
  return y, selected


@pytest.mark.parametrize("rule", ["soft_top_k", "sigmoid", "truncation"])
@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_layer_equals_the_equations(attention, rule):
  params, (x, mask) = random_params(), random_tokens()
  layer = make_layer(2.5, attention=attention, router=rule, epsilon=0.5)
  y, selection = run(layer, params, x, mask)
  expected, selected = reference(
    params, x, LENGTHS, 2.5, attention, rule, epsilon=0.5
  )
  for row, chosen in enumerate(selected):
    assert selection.indices[row, : len(chosen)].tolist() == chosen
    assert selection.mask[row].sum() == len(chosen)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_parameters_keep_the_paths_of_the_block():
  x, mask = random_tokens()
  layer = make_layer()
  table = jnp.zeros((HEADS, 17))
  shapes = jax.eval_shape(
    functools.partial(layer.init, bias_table=table), jax.random.key(0), x, mask
  )
  leaves = params_lib.flatten(shapes["params"])
  assert {path: leaf.shape for path, leaf in leaves.items()} == SHAPES


@pytest.mark.parametrize("reduction", [1.0, 1.0 + 1e-6])
@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_all_tokens_with_weight_one_are_the_dense_layer(attention, reduction):
  """r = 1 skips the router; just above 1 it routes every token there is."""
  params, (x, mask) = random_params(), random_tokens()
  layer = make_layer(reduction, attention=attention)
  y, selection = run(layer, params, x, mask)
  if reduction == 1.0:
    assert selection is None
  else:
    np.testing.assert_array_equal(selection.mask.sum(axis=1), LENGTHS)
    np.testing.assert_array_equal(selection.weights[selection.mask], 1.0)

  p = {path: jnp.float32(leaf) for path, leaf in params.items()}
  dense = layer.block.apply(
    {"params": params_lib.unflatten(p)},
    jnp.float32(x),
    mask,
    deterministic=True,
    bias_table=jnp.float32(BIAS[:, 11:28]),
    method=coda.dense,
  )
  x_norm = rms_norm_rows(x, params["pre_attention_layer_norm/scale"])
  hidden = np.maximum(x_norm @ params["adapter/down/kernel"], 0)
  expected = dense + np.float32(hidden @ params["adapter/up/kernel"])
  np.testing.assert_allclose(y[mask], expected[mask], rtol=1e-4, atol=1e-5)


def rms_norm_rows(x, scale):
  return np.apply_along_axis(rms_norm, -1, x, scale)


def test_unselected_tokens_are_x_plus_adapter_to_the_bit():
  """The same program with a block that adds 0 gives them the same bits."""
  params, (x, mask) = random_params(), random_tokens()
  layer = make_layer(3.0)
  y, selection = run(layer, params, x, mask)
  silent = params | {
    path: np.zeros(SHAPES[path])
    for path in ("attention/out/kernel", "mlp/wo/kernel")
  }
  adapted, _ = run(layer, silent, x, mask)
  selected = np.zeros(mask.shape, bool)
  for row in range(len(LENGTHS)):
    selected[row, selection.indices[row][selection.mask[row]]] = True
  np.testing.assert_array_equal(y[~selected], adapted[~selected])
  assert (np.abs(y - adapted)[selected] > 1e-3).any(axis=-1).all()


def test_without_adapter_unselected_tokens_stay_as_they_are():
  params, (x, mask) = random_params(), random_tokens()
  y, selection = run(make_layer(3.0, bottleneck_dim=0), params, x, mask)
  for row, indices in enumerate(selection.indices):
    others = np.delete(np.arange(9), indices[selection.mask[row]])
    assert len(others) == 9 - selection.mask[row].sum()
    np.testing.assert_array_equal(y[row, others], np.float32(x[row, others]))


@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_padding_changes_nothing(attention):
  """Neither its amount nor what it holds."""
  params, lengths = random_params(), (9, 7, 1)
  layer = make_layer(2.0, attention=attention)
  short, _ = run(layer, params, *random_tokens(lengths, 9))
  x, mask = random_tokens(lengths, 15)
  x[~mask] = 100.0
  long, selection = run(layer, params, x, mask)
  for row, length in enumerate(lengths):
    np.testing.assert_allclose(
      short[row, :length], long[row, :length], rtol=1e-4, atol=1e-5
    )
    assert (selection.weights[row, -(-length // 2) :] == 0).all()


def test_sequences_no_longer_than_the_budget_are_dense():
  params, (x, _) = random_params(), random_tokens((1, 1), 1)
  routed, selection = run(make_layer(3.0), params, x, None)
  dense, _ = run(make_layer(1.0), params, x, None)
  np.testing.assert_array_equal(selection.weights, 1.0)
  np.testing.assert_allclose(routed, dense, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  ("attention", "rule"), [("k_to_k", "soft_top_k"), ("k_to_all", "sigmoid")]
)
def test_rows_of_padding_give_no_nan(attention, rule):
  params, (x, mask) = random_params(), random_tokens((0, 3))
  layer = make_layer(attention=attention, router=rule)
  grads = gradients(layer, params, x, mask, np.ones_like(x))
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_gather_and_one_hot_agree(attention):
  params, (x, mask) = random_params(), random_tokens()
  direction = np.random.default_rng(5).standard_normal(x.shape)
  options = {"attention": attention, "router": "sigmoid"}
  by_index, one_hot, auto = (
    make_layer(**options, dispatch=dispatch)
    for dispatch in ("gather", "one_hot", "auto")
  )
  expected, _ = run(by_index, params, x, mask)
  np.testing.assert_array_equal(run(auto, params, x, mask)[0], expected)
  found, _ = run(one_hot, params, x, mask)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    gradients(one_hot, params, x, mask, direction),
    gradients(by_index, params, x, mask, direction),
  )


def test_gather_and_scatter():
  x = jnp.arange(1.0, 25.0).reshape(2, 4, 3)
  indices = jnp.array([[3, 1], [0, 2]], jnp.int32)
  for gather, scatter in [
    (coda.gather, coda.scatter),
    (coda.gather_one_hot, coda.scatter_one_hot),
  ]:
    z = gather(x, indices)
    np.testing.assert_array_equal(z, [x[0, (3, 1), :], x[1, (0, 2), :]])
    expected = np.zeros(x.shape)
    expected[0, [3, 1]], expected[1, [0, 2]] = z
    np.testing.assert_array_equal(scatter(z, indices, 4), expected)


@pytest.mark.parametrize("rule", ["soft_top_k", "sigmoid"])
def test_router_learns_by_the_gradient_of_the_equations(rule):
  """jax.grad against differences of the float64 reference."""
  params, lengths = random_params(), (9, 7)
  x, mask = random_tokens(lengths)
  direction = np.random.default_rng(5).standard_normal(x.shape)
  layer = make_layer(3.0, router=rule, epsilon=0.7)
  grads, _ = gradients(layer, params, x, mask, direction)
  for path, index in [
    *(("router/kernel", (i,)) for i in range(EMB)),
    ("adapter/up/kernel", (1, 2)),
    ("attention/query/kernel", (3, 4)),
    ("pre_attention_layer_norm/scale", (5,)),
  ]:
    losses = []
    for step in (1e-5, -1e-5):
      moved = params | {path: params[path].copy()}
      moved[path][index] += step
      y, _ = reference(moved, x, lengths, 3.0, "k_to_k", rule, 0.7)
      losses.append((y * direction).sum())
    expected = (losses[0] - losses[1]) / 2e-5
    np.testing.assert_allclose(
      grads[path][index], expected, rtol=2e-3, atol=2e-4
    )
