"""The weights of soft_top_k against a float64 bisection.

The reference knows nothing of sorting or of closed forms: it bisects on the
threshold t of w_i = min(1, exp((s_i - t) / epsilon)) until the sum is k.
"""

import functools
import inspect
import typing

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coda_jax import soft_topk
from coda_jax.soft_topk import (
  selected_soft_top_k,
  soft_top_k,
  soft_top_k_from_largest,
)

TOLERANCE = 2e-5
EPSILONS = (0.001, 0.1, 10.0)


def bisection(scores, k, epsilon, mask=None):
  """Reference for `[rows, n]` scores, in float64."""
  scores = np.asarray(scores, np.float64)
  if mask is None:
    mask = np.ones(scores.shape, bool)
  k = np.broadcast_to(np.asarray(k), scores.shape[:-1])
  weights = np.zeros(scores.shape)
  for row in range(scores.shape[0]):
    chosen = scores[row][mask[row]]
    if k[row] >= chosen.size:
      weights[row][mask[row]] = 1.0
      continue
    if k[row] == 0:
      continue

    def at(t, chosen=chosen):
      return np.exp(np.minimum(chosen - t, 0.0) / epsilon)

    low = chosen.min()
    high = chosen.max() + epsilon * np.log(chosen.size) + epsilon
    for _ in range(100):
      t = (low + high) / 2
      low, high = (t, high) if at(t).sum() >= k[row] else (low, t)
    weights[row][mask[row]] = at((low + high) / 2)
  return weights


@functools.partial(jax.jit, static_argnames=("k", "epsilon", "method", "axis"))
def solve_static(scores, k, epsilon, mask=None, method="exact", axis=-1):
  return soft_top_k(
    scores, k, epsilon=epsilon, mask=mask, method=method, axis=axis
  )


@functools.partial(jax.jit, static_argnames=("epsilon", "method"))
def solve_traced(scores, k, epsilon, mask=None, method="exact"):
  return soft_top_k(scores, k, epsilon=epsilon, mask=mask, method=method)


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@st.composite
def problems(draw):
  """Scores, integer-array k, epsilon and mask, over every scale and with ties.

  Few shapes, so that few programs are compiled; much variety within them.
  """
  n = draw(st.sampled_from((1, 7, 33)))
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  scores = rng.normal(size=(3, n))
  if draw(st.booleans()):
    scores = np.round(2 * scores)
  scores = scores * draw(st.sampled_from((0.0, 0.01, 1.0, 30.0, 4e3)))
  scores = scores + draw(st.sampled_from((0.0, -1e4, 1e4)))
  mask = rng.random((3, n)) < draw(st.sampled_from((0.0, 0.5, 0.9, 1.0)))
  k = rng.integers(0, n + 3, size=3)
  epsilon = draw(st.sampled_from(EPSILONS))
  return scores.astype(np.float32), k.astype(np.int32), epsilon, mask


@settings(max_examples=300)
@given(problems())
def test_agrees_with_bisection(problem):
  scores, k, epsilon, mask = problem
  weights = np.asarray(solve_traced(scores, k, epsilon, mask))

  assert weights.dtype == np.float32
  assert np.all((weights >= 0) & (weights <= 1))
  assert np.all(weights[~mask] == 0)
  np.testing.assert_allclose(
    weights, bisection(scores, k, epsilon, mask), rtol=0, atol=TOLERANCE
  )
  np.testing.assert_allclose(
    weights.sum(-1), np.minimum(k, mask.sum(-1)), rtol=TOLERANCE, atol=0
  )
  # Larger scores never weigh less.
  for row in range(3):
    order = np.argsort(scores[row][mask[row]], kind="stable")
    assert np.all(np.diff(weights[row][mask[row]][order]) >= 0)


@pytest.mark.parametrize("epsilon", [0.001, 1.0, 10.0])
@pytest.mark.parametrize("n, k", [(1, 1), (5, 5), (5, 0), (5, 9), (1, 0)])
def test_static_k_at_its_ends(n, k, epsilon):
  scores = normal(2, n)
  expected = np.full((2, n), float(k > 0), np.float32)
  np.testing.assert_array_equal(solve_static(scores, k, epsilon), expected)
  np.testing.assert_array_equal(
    solve_traced(scores, np.int32(k), epsilon), expected
  )


def test_no_scores():
  assert soft_top_k(jnp.zeros((2, 0)), 3).shape == (2, 0)
  assert soft_top_k(jnp.zeros((2, 0)), jnp.asarray([1, 2])).shape == (2, 0)


@pytest.mark.parametrize("k", [1, 100, 511])
@pytest.mark.parametrize("epsilon", [0.001, 0.03, 10.0])
def test_router_sized_static_k(k, epsilon):
  scores = normal(4, 512)
  weights = solve_static(scores, k, epsilon)
  np.testing.assert_allclose(
    weights, bisection(scores, k, epsilon), rtol=0, atol=TOLERANCE
  )
  np.testing.assert_allclose(weights.sum(-1), k, rtol=TOLERANCE)


def test_all_scores_equal():
  weights = solve_static(np.full((1, 8), -1e4, np.float32), 3, 0.001)
  np.testing.assert_array_equal(weights, 3 / 8)


def test_extreme_scores():
  scores = np.array([[1e4, -1e4, 0.0, 1e4, -1e4]], np.float32)
  np.testing.assert_array_equal(
    solve_static(scores, 3, 0.001), [[1, 0, 1, 1, 0]]
  )
  np.testing.assert_array_equal(
    solve_static(scores, 4, 0.001), [[1, 0.5, 1, 1, 0.5]]
  )


def test_wholly_masked_row():
  scores = normal(2, 6)
  mask = np.array([[False] * 6, [True] * 6])
  weights = solve_static(scores, 2, 1.0, mask)
  np.testing.assert_array_equal(weights[0], 0)
  np.testing.assert_allclose(
    weights[1:], bisection(scores[1:], 2, 1.0), atol=TOLERANCE
  )


@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf, 1e30])
def test_masked_scores_do_not_leak(filler, method):
  scores, k = normal(3, 9), np.array([2, 5, 9], np.int32)
  mask = np.random.default_rng(1).random((3, 9)) < 0.6
  filled = np.where(mask, scores, np.float32(filler))
  np.testing.assert_array_equal(
    solve_traced(filled, k, 0.1, mask, method),
    solve_traced(scores, k, 0.1, mask, method),
  )


def test_no_nan_in_between_either():
  scores = jnp.asarray(normal(2, 6))
  mask = jnp.array([[False] * 6, [True] * 6])
  with jax.debug_nans(True):
    soft_top_k(scores, 2, epsilon=0.1, mask=mask)  # not under jit, on purpose


def test_minus_infinity_is_a_mask():
  scores = normal(2, 7)
  mask = np.array([[True, False] * 3 + [True], [False] * 7])
  np.testing.assert_array_equal(
    solve_static(np.where(mask, scores, -np.inf), 2, 1.0),
    solve_static(scores, 2, 1.0, mask),
  )


def test_nan_is_not_hidden():
  scores = np.array([[0.0, np.nan, 1.0]], np.float32)
  assert np.isnan(solve_static(scores, 1, 1.0)).any()


def test_k_broadcasts():
  scores = normal(2, 3, 8)
  k = np.array([[1, 2, 3]], np.int32)
  expected = bisection(
    scores.reshape(6, 8), np.broadcast_to(k, (2, 3)).reshape(6), 0.5
  ).reshape(2, 3, 8)
  for budget in (k, k.astype(np.int8)):
    np.testing.assert_allclose(
      solve_traced(scores, budget, 0.5), expected, atol=TOLERANCE
    )
  # Known before tracing, it needs no full sort.
  program = jax.make_jaxpr(lambda s: soft_top_k(s, k, epsilon=0.5))(scores)
  assert "k=3" in str(program)
  np.testing.assert_allclose(
    jax.jit(lambda s: soft_top_k(s, k, epsilon=0.5))(scores),
    expected,
    atol=TOLERANCE,
  )


@pytest.mark.parametrize("axis", [0, 1, -2, 2])
def test_axis(axis):
  scores = normal(4, 5, 6)
  mask = np.arange(4)[:, None, None] != 1
  moved = np.moveaxis(scores, axis, -1)
  moved_mask = np.moveaxis(np.broadcast_to(mask, scores.shape), axis, -1)
  n = moved.shape[-1]
  expected = bisection(
    moved.reshape(-1, n), 2, 0.3, moved_mask.reshape(-1, n)
  ).reshape(moved.shape)
  weights = solve_static(scores, 2, 0.3, mask, axis=axis)
  np.testing.assert_allclose(
    weights, np.moveaxis(expected, -1, axis), atol=TOLERANCE
  )


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_bfloat16_is_solved_in_float32(method):
  scores = jnp.asarray(normal(2, 16), jnp.bfloat16)
  weights = solve_static(scores, 4, 0.1, method=method)
  assert weights.dtype == jnp.float32
  np.testing.assert_array_equal(
    weights, solve_static(scores.astype(jnp.float32), 4, 0.1, method=method)
  )


def test_vmap():
  scores, k = normal(3, 2, 8), np.array([1, 4, 7], np.int32)
  mapped = jax.vmap(lambda s, k: solve_traced(s, k, 0.2))(scores, k)
  np.testing.assert_array_equal(mapped, solve_traced(scores, k[:, None], 0.2))


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_shard_map(method):
  devices = len(jax.devices())
  mesh = jax.make_mesh(
    (devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  rows = jax.sharding.PartitionSpec("data")
  scores = jnp.asarray(normal(2 * devices, 8))

  def local(scores):
    return soft_top_k(scores, 3, epsilon=0.2, method=method)

  sharded = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows)

  def with_gradient(function):
    weights, pull = jax.vjp(function, scores)
    return weights, pull(jnp.sin(weights))[0]

  for ours, expected in zip(
    jax.jit(lambda: with_gradient(sharded))(),
    jax.jit(lambda: with_gradient(local))(),
    strict=True,
  ):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


# Bad input, and the annotations.


@pytest.mark.parametrize(
  "error, message, arguments",
  [
    (TypeError, "float16, whose range", {"scores": np.zeros(3, np.float16)}),
    (TypeError, "expected a floating dtype", {"scores": np.zeros(3, np.int32)}),
    (TypeError, "k is of dtype float32", {"k": np.float32(2)}),
    (TypeError, "k is of dtype bool", {"k": np.array(True)}),
    (TypeError, "k is of dtype float32", {"k": jnp.float32(2)}),
    (ValueError, "k is -1", {"k": -1}),
    (ValueError, "epsilon is 0", {"epsilon": 0}),
    (ValueError, "epsilon is nan", {"epsilon": float("nan")}),
    (ValueError, "epsilon is inf", {"epsilon": float("inf")}),
    (TypeError, "fixed at tracing", {"epsilon": jnp.float32(1.0)}),
    (TypeError, "mask is int32", {"mask": np.zeros(3, np.int32)}),
    (ValueError, "method is 'newton'", {"method": "newton"}),
    (ValueError, "num_iterations is 0", {"num_iterations": 0}),
    (ValueError, "epsilon_init is -1", {"epsilon_init": -1}),
    (ValueError, "epsilon_decay is 1.5", {"epsilon_decay": 1.5}),
  ],
)
def test_bad_input(error, message, arguments):
  defaults = {"scores": np.zeros(3, np.float32), "k": 1, "method": "iterative"}
  with pytest.raises(error, match=message):
    soft_top_k(**(defaults | arguments))


@pytest.mark.parametrize("k", [2, np.array([1, 2]), jnp.array([1, 2])])
def test_annotations(k):
  scores = jnp.asarray(normal(2, 8))
  largest, indices = jax.lax.top_k(scores, 3)
  k_array = jnp.asarray(k)
  check_annotations(soft_top_k, scores, k, mask=scores > 0)
  check_annotations(soft_top_k_from_largest, scores, largest, k_array)
  check_annotations(selected_soft_top_k, scores, largest, indices, k_array)


def check_annotations(function, *args, **kwargs):
  hints = typing.get_type_hints(
    function, vars(soft_topk) | vars(jaxtyping) | {"Array": jax.Array}
  )
  bound = inspect.signature(function).bind(*args, **kwargs).arguments

  def check():
    with jaxtyping.jaxtyped("context"):
      for name, value in bound.items():
        assert isinstance(value, hints[name]), name
      assert isinstance(function(*args, **kwargs), hints["return"])

  jax.eval_shape(check)  # Traced only, which is quicker.
