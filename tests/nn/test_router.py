"""Routers: budgets and statistics by hand, weights by their definitions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.nn import router as router_lib
from coda_jax.nn.config import CodaConfig
from coda_jax.nn.router import Router, Selection

RULES = ("soft_top_k", "sigmoid", "truncation", "random")


def lengths_mask(lengths, n):
  return np.arange(n)[None, :] < np.array(lengths)[:, None]


def random(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def apply(router, params, x, mask, rngs):
  return router.apply({"params": params}, x, mask, rngs=rngs)


def route(rule, x, mask, reduction=3.0, kernel=None, rngs=None, **config):
  router = Router(CodaConfig(router=rule, **config), reduction)
  params = {"kernel": kernel} if rule in ("soft_top_k", "sigmoid") else {}
  return apply(router, params, x, mask, rngs)


def test_product_by_parts_is_that_of_float32():
  x = jnp.asarray(random(3, 7, 768), jnp.bfloat16)
  kernel = jnp.asarray(random(768, seed=1))
  exact = np.asarray(x).astype(np.float64) @ np.asarray(kernel, np.float64)
  found = router_lib.product_by_parts(x, kernel)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, exact, 1e-5, 2e-5)

  def plain(x, kernel):
    return jnp.matmul(x.astype(jnp.float32), kernel)

  found, expected = (
    jax.grad(lambda *args: jnp.sum(jnp.sin(f(*args))), (0, 1))(x, kernel)  # noqa: B023
    for f in (router_lib.product_by_parts, plain)
  )
  for ours, its, tolerance in zip(found, expected, (1e-2, 1e-3), strict=True):
    assert ours.dtype == its.dtype
    ours, its = (array.astype(jnp.float32) for array in (ours, its))
    np.testing.assert_allclose(ours, its, tolerance, tolerance)


def test_budget_by_hand():
  mask = lengths_mask([0, 1, 2, 3, 4, 7, 8], 8)
  for reduction, expected in [
    (3.0, [0, 1, 1, 1, 2, 3, 3]),
    (2.5, [0, 1, 1, 2, 2, 3, 4]),
    (1.0, [0, 1, 2, 3, 4, 7, 8]),
    (100.0, [0, 1, 1, 1, 1, 1, 1]),
  ]:
    budget = router_lib.budget(mask, reduction)
    assert budget.dtype == jnp.int32
    np.testing.assert_array_equal(budget, expected)
    assert router_lib.capacity(8, reduction) == expected[-1]


@pytest.mark.parametrize("reduction", [3.0, 4.7, 7.0, 13.0])
def test_budget_does_not_depend_on_padding(reduction):
  """XLA's float division once gave 4 tokens of 21 at r = 7, padded or not."""
  n = 300
  budget = router_lib.budget(lengths_mask(range(n + 1), n), reduction)
  capacities = [router_lib.capacity(i, reduction) for i in range(n + 1)]
  np.testing.assert_array_equal(budget, capacities)
  if reduction.is_integer():
    expected = [-(-i // int(reduction)) for i in range(n + 1)]
    np.testing.assert_array_equal(budget, expected)


@pytest.mark.parametrize("rule", RULES)
def test_selection_fields(rule):
  """Slots beyond the budget are empty; no padding is ever selected."""
  lengths, n = [10, 7, 1, 0], 10
  mask = lengths_mask(lengths, n)
  selection = route(rule, random(4, n, 5), mask, kernel=random(5, seed=1))
  assert [f.name for f in dataclasses.fields(selection)] == [
    "indices",
    "weights",
    "mask",
  ]
  assert selection.indices.shape == selection.mask.shape == (4, 4)
  assert selection.indices.dtype == jnp.int32
  assert selection.weights.dtype == jnp.float32
  assert selection.mask.dtype == jnp.bool_
  filled = [[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
  np.testing.assert_array_equal(selection.mask, np.array(filled, bool))
  for row, length in enumerate(lengths):
    slots = np.asarray(selection.mask[row])
    assert len(set(np.asarray(selection.indices[row]))) == 4
    assert (selection.indices[row] >= 0).all()
    assert (selection.indices[row] < n).all()
    assert (selection.indices[row][slots] < length).all()
    assert (selection.weights[row][slots] > 0).all()
    assert (selection.weights[row][~slots] == 0).all()


def test_learned_router_takes_the_highest_scores():
  x, kernel, mask = random(2, 9, 5), random(5, seed=1), lengths_mask([9, 5], 9)
  scores = x.astype(np.float64) @ kernel
  for rule in ("soft_top_k", "sigmoid"):
    selection = route(rule, x, mask, kernel=kernel)
    assert selection.indices[0].tolist() == np.argsort(-scores[0])[:3].tolist()
    best = np.argsort(-scores[1, :5])[:2]
    assert selection.indices[1, :2].tolist() == best.tolist()


def test_scores_are_float32_on_every_platform():
  """On accelerators the default is less, for float32 inputs too."""
  x, kernel, mask = random(1, 4, 5), random(5, seed=1), np.ones((1, 4), bool)
  router = Router(CodaConfig(router="sigmoid"), 2.0)
  program = apply.lower(router, {"kernel": kernel}, x, mask, None).as_text()
  assert "precision = [HIGHEST, HIGHEST]" in program


def test_sigmoid_weights():
  x, kernel, mask = random(2, 9, 5), random(5, seed=1), lengths_mask([9, 5], 9)
  selection = route("sigmoid", x, mask, kernel=kernel)
  scores = np.take_along_axis(
    x.astype(np.float64) @ kernel, np.asarray(selection.indices), axis=1
  )
  expected = np.where(selection.mask, 1 / (1 + np.exp(-scores)), 0)
  np.testing.assert_allclose(selection.weights, expected, rtol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_sequences_that_lose_no_token_have_weight_1(rule):
  x, kernel = random(3, 4, 5), random(5, seed=1)
  selection = route(rule, x, lengths_mask([2, 1, 3], 4), 1.5, kernel=kernel)
  # ceil(2 / 1.5) = 2 of 2, 1 of 1; but 2 of 3.
  np.testing.assert_array_equal(selection.weights[:2, :2], [[1, 1], [1, 0]])
  if rule == "sigmoid":
    assert (selection.weights[2, :2] < 1).all()


def soft_weights(scores, k, epsilon):
  """min(1, exp((s - t) / epsilon)), t found by bisection so they sum to k."""
  if k >= len(scores):
    return np.ones(len(scores))
  at = lambda t: np.exp(np.minimum((scores - t) / epsilon, 0))
  low, high = scores.min(), scores.max() + epsilon * np.log(len(scores))
  for _ in range(100):
    t = (low + high) / 2
    low, high = (t, high) if at(t).sum() > k else (low, t)
  return at(low)


@pytest.mark.parametrize("epsilon", [0.03, 1.0])
def test_soft_top_k_weights_sum_to_the_budget_before_selection(epsilon):
  lengths, budgets = [12, 7, 1], [4, 3, 1]
  x, kernel = random(3, 12, 5), random(5, seed=1)
  selection = route(
    "soft_top_k", x, lengths_mask(lengths, 12), kernel=kernel, epsilon=epsilon
  )
  for row, (length, k) in enumerate(zip(lengths, budgets, strict=False)):
    scores = x[row, :length].astype(np.float64) @ kernel
    expected = np.sort(soft_weights(scores, k, epsilon))[::-1][:k]
    np.testing.assert_allclose(selection.weights[row, :k], expected, rtol=1e-4)


def test_iterative_method_is_used_when_asked_for():
  # At epsilon 0.02 the iteration falls short of its constraint.
  x, kernel, mask = random(1, 60, 5), random(5, seed=1), np.ones((1, 60), bool)
  exact, iterative = (
    route(
      "soft_top_k",
      x,
      mask,
      kernel=kernel,
      epsilon=0.02,
      soft_top_k_method=method,
    )
    for method in ("exact", "iterative")
  )
  np.testing.assert_array_equal(exact.indices, iterative.indices)
  assert iterative.weights.sum() < 0.99 * exact.weights.sum()


def test_truncation_takes_the_first_tokens():
  x, mask = random(2, 8, 5), lengths_mask([8, 4], 8)
  selection = route("truncation", x, mask)
  np.testing.assert_array_equal(selection.indices[0], [0, 1, 2])
  np.testing.assert_array_equal(selection.indices[1, :2], [0, 1])
  np.testing.assert_array_equal(selection.weights, [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize("rule", ("truncation", "random"))
def test_nothing_is_learned_without_scores(rule):
  router = Router(CodaConfig(router=rule), 3.0)
  variables = router.init(
    jax.random.key(0), jnp.ones((1, 6, 4)), jnp.ones((1, 6), bool)
  )
  assert not variables


def test_random_router_draws_from_its_own_rng():
  x, mask = random(2, 30, 5), np.ones((2, 30), bool)
  draw = lambda seed: np.asarray(
    route("random", x, mask, rngs={"routing": jax.random.key(seed)}).indices
  )
  np.testing.assert_array_equal(draw(0), draw(0))
  assert (draw(0) != draw(1)).any()
  assert (draw(0)[0] != draw(0)[1]).any()
  # Without an rng: the same in every call, whatever the tokens.
  fixed = [route("random", x + i, mask).indices for i in range(2)]
  np.testing.assert_array_equal(*fixed)


def test_random_router_is_uniform():
  mask = lengths_mask([6], 8)
  keys = jax.random.split(jax.random.key(0), 600)
  scores = jax.jit(jax.vmap(lambda key: router_lib.random_scores(key, (1, 8))))(
    keys
  )
  take = jax.vmap(lambda s: router_lib.select(s, mask, 2.0)[1][0, :3])
  counts = np.bincount(np.asarray(take(scores)).ravel(), minlength=8)
  # 600 draws of 3 out of 6 take each token 300 times, deviation 12.
  assert (np.abs(counts[:6] - 300) < 5 * 12).all()
  assert (counts[6:] == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_selection_does_not_depend_on_padding(rule):
  x, kernel = random(2, 20, 5), random(5, seed=1)
  rngs = {"routing": jax.random.key(3)}
  short, long = (
    route(
      rule, x[:, :n], lengths_mask([9, 6], n), 2.0, kernel=kernel, rngs=rngs
    )
    for n in (9, 20)
  )
  for row, k in enumerate([5, 3]):
    np.testing.assert_array_equal(short.indices[row, :k], long.indices[row, :k])
    np.testing.assert_allclose(
      short.weights[row, :k], long.weights[row, :k], rtol=1e-5
    )
    assert not long.mask[row, k:].any()


def test_statistics_by_hand():
  mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
  first = Selection(
    indices=jnp.array([[2, 0], [1, 0]], jnp.int32),
    weights=jnp.array([[1.0, 0.5], [0.75, 0.0]]),
    mask=jnp.array([[True, True], [True, False]]),
  )
  second = Selection(
    indices=jnp.array([[2], [0]], jnp.int32),
    weights=jnp.array([[0.25], [0.5]]),
    mask=jnp.array([[True], [True]]),
  )
  routing = (first, None, second)
  # Of 3 layers, the dense one takes every token, padding aside.
  np.testing.assert_allclose(
    router_lib.layer_share(routing, mask),
    np.array([[2, 1, 3, 1], [2, 2, 0, 0]]) / 3,
    rtol=1e-6,
  )
  # Weights sum to 3 over 6 tokens in 2 routed layers and 5 selected ones. The
  # dense layer takes them all, so that without it 2 of 6 are never selected.
  expected = {
    "mean_weight": 3 / 12,
    "sum_over_k": 3 / 5,
    "selected_share": 5 / 12,
    "never_selected": 0.0,
  }
  for layers, never in ((routing, 0), ((first, second), 2 / 6)):
    statistics = router_lib.routing_statistics(layers, mask)
    assert statistics.keys() == expected.keys()
    for name, value in (expected | {"never_selected": never}).items():
      np.testing.assert_allclose(statistics[name], value, rtol=1e-6)
      assert statistics[name].dtype == jnp.float32
  assert router_lib.routing_statistics((None, None), mask) == {}


def test_statistics_of_padding_alone_are_finite():
  mask = np.zeros((1, 3), bool)
  selection = route("truncation", random(1, 3, 5), mask)
  statistics = router_lib.routing_statistics([selection], mask)
  assert all(np.isfinite(value) for value in statistics.values())


@pytest.mark.parametrize("epsilon", [0.03, 1.0])
@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("rule", RULES)
def test_ends_always_pass(rule, method, epsilon):
  x, kernel = jnp.asarray(random(4, 12, 6)), jnp.asarray(random(6, seed=1))
  # Padding on either side, and a sequence of one token.
  mask = lengths_mask([12, 8, 12, 1], 12)
  mask[2, :3] = False
  first, last = np.array([0, 0, 3, 0]), np.array([11, 7, 11, 0])
  config = {"epsilon": epsilon, "soft_top_k_method": method}
  found = route(rule, x, mask, kernel=kernel, always_ends=True, **config)
  for row in range(4):
    slots = found.indices[row], found.weights[row]
    taken = dict(zip(*map(np.asarray, slots), strict=True))
    assert taken[first[row]] == taken[last[row]] == 1.0
    assert mask[row, list(taken)][: found.mask[row].sum()].all()
  # The others keep their order.
  plain = route(rule, x, mask, kernel=kernel, **config)
  for row in range(3):
    ends = {first[row], last[row]}
    inner = [
      [i for i in np.asarray(s.indices[row])[s.mask[row]] if i not in ends]
      for s in (found, plain)
    ]
    shorter = min(map(len, inner))
    assert inner[0][:shorter] == inner[1][:shorter]


def test_ends_always_pass_teaches_nothing_about_them():
  x, mask = jnp.asarray(random(1, 6, 4)), lengths_mask([6], 6)
  router = Router(CodaConfig(always_ends=True, epsilon=1.0), 2.0)

  def total(x):
    params = {"kernel": jnp.ones(4)}
    weights = router.apply({"params": params}, x, mask).weights
    return (weights * jnp.arange(3.0)[None, :]).sum()

  gradient = jax.grad(total)(x)
  assert not gradient[0, [0, 5]].any() and gradient[0, 1:5].any()
