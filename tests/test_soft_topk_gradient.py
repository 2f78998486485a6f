"""The gradients of soft_top_k, in float64 against finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from coda_jax.soft_topk import (
  selected_soft_top_k,
  soft_top_k,
  soft_top_k_from_largest,
)


@functools.partial(jax.jit, static_argnames=("epsilon", "method"))
def gradient(scores, k, epsilon, mask=None, method="exact"):
  """Of a sum of the weights with cosines for coefficients."""

  def loss(scores):
    weights = soft_top_k(scores, k, epsilon=epsilon, mask=mask, method=method)
    return jnp.sum(weights * cosines(scores.shape))

  return jax.grad(loss)(scores)


def cosines(shape):
  return np.cos(np.arange(np.prod(shape))).reshape(shape).astype(np.float32)


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def many_rows(n=12):
  """Rows of every scale and offset, with ties and masks and any k."""
  rng = np.random.default_rng(0)
  rows = []
  for scale in (0.0, 0.01, 1.0, 30.0, 1e4):
    for offset in (0.0, -1e4, 1e4):
      for share in (0.0, 0.5, 1.0):
        for digits in (0, 6):
          scores = np.round(rng.normal(size=n), digits) * scale + offset
          rows.append((scores, rng.random(n) < share, rng.integers(0, n + 3)))
  scores, mask, k = map(np.array, zip(*rows, strict=True))
  return scores.astype(np.float32), k.astype(np.int32), mask


@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("epsilon", [0.001, 0.1, 10.0])
def test_finite_and_zero_where_nothing_is_to_decide(epsilon, method):
  scores, k, mask = many_rows()
  grads = np.asarray(gradient(scores, k, epsilon, mask, method))

  assert np.all(np.isfinite(grads))
  assert np.all(grads[~mask] == 0)
  assert np.all(grads[k >= mask.sum(-1)] == 0)
  assert np.all(grads[k == 0] == 0)
  if method == "exact":  # adding a constant to the scores changes no weight
    assert np.any(grads != 0)
    rounding = 1e-6 * np.maximum(k, 1) / epsilon
    np.testing.assert_array_less(np.abs(grads.sum(-1)), rounding)


@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("filler", [np.nan, np.inf, -np.inf])
def test_masked_scores_do_not_leak(filler, method):
  scores, k = normal(3, 9), np.array([2, 5, 9], np.int32)
  mask = np.random.default_rng(1).random((3, 9)) < 0.6
  np.testing.assert_array_equal(
    gradient(np.where(mask, scores, np.float32(filler)), k, 0.1, mask, method),
    gradient(scores, k, 0.1, mask, method),
  )


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_minus_infinity_is_a_mask(method):
  scores, k = normal(3, 9), np.array([2, 3, 9], np.int32)
  mask = np.arange(9) < np.array([[0], [7], [9]])
  np.testing.assert_array_equal(
    gradient(np.where(mask, scores, -np.inf), k, 0.1, None, method),
    gradient(scores, k, 0.1, mask, method),
  )


def test_infinite_cotangent_of_zero_weights_does_not_spread():
  @jax.jit
  @jax.grad
  def entropy_gradient(scores):
    weights = soft_top_k(scores, 2, epsilon=0.01)
    return -jnp.sum(weights * jnp.log(weights), where=weights > 0)

  grads = entropy_gradient(jnp.array([0.0, 0.01, 0.02, -1e4]))
  assert np.all(np.isfinite(grads)) and np.any(np.asarray(grads) != 0)


@pytest.mark.parametrize(
  "epsilon, k, masked",
  [(1.0, 4, False), (0.1, 4, True), (0.02, 7, False)],
)
def test_finite_differences(epsilon, k, masked):
  with jax.enable_x64(True):
    scores = np.random.default_rng(3).normal(size=(2, 12))
    mask = (np.arange(12) % 5 != 1) | (not masked)

    @jax.jit
    def function(scores):
      return soft_top_k(scores, k, epsilon=epsilon, mask=mask[None])

    jacobian = jax.jit(jax.jacrev(function))(jnp.asarray(scores))
    step, differences = 1e-6 * epsilon, np.zeros((2, 12, 2, 12))
    for row, column in np.ndindex(2, 12):
      shift = np.zeros((2, 12))
      shift[row, column] = step
      differences[:, :, row, column] = (
        np.asarray(function(jnp.asarray(scores + shift)))
        - np.asarray(function(jnp.asarray(scores - shift)))
      ) / (2 * step)
  assert jacobian.dtype == jnp.float64
  np.testing.assert_allclose(jacobian, differences, atol=1e-6 / epsilon)
  assert np.abs(jacobian).max() > 1e-3 / epsilon


def test_float32_agrees_with_float64():
  scores, k = normal(3, 64), np.array([1, 20, 63], np.int32)
  single = gradient(scores, k, 0.03)
  with jax.enable_x64(True):
    coefficients = cosines(scores.shape).astype(np.float64)
    double = jax.jit(
      jax.grad(lambda s: jnp.sum(soft_top_k(s, k, epsilon=0.03) * coefficients))
    )(jnp.asarray(scores, jnp.float64))
  np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)


def test_second_derivative():
  with jax.enable_x64(True):
    scores = jnp.asarray(np.random.default_rng(5).normal(size=8))
    test_util.check_grads(
      jax.jit(lambda s: jnp.sin(3 * soft_top_k(s, 3, epsilon=0.5))),
      (scores,),
      order=2,
      modes=["rev"],
    )


def test_bfloat16_scores_have_bfloat16_gradients():
  grads = gradient(jnp.asarray(normal(2, 16), jnp.bfloat16), 4, 0.1)
  assert grads.dtype == jnp.bfloat16 and jnp.all(jnp.isfinite(grads))


def test_the_search_is_not_differentiated():
  def sum_of_squares(scores):
    return jnp.sum(soft_top_k(scores, 4) ** 2)

  scores = jnp.asarray(normal(2, 32))
  forward = str(jax.make_jaxpr(sum_of_squares)(scores))
  both = str(jax.make_jaxpr(jax.grad(sum_of_squares))(scores))
  # The weights' own is all that the gradient needs.
  assert both.count("exp ") == forward.count("exp ") > 0
  assert both.count("while[") + both.count("scan[") == 0


def test_one_top_k_serves_selection_and_weights():
  scores = jnp.asarray(normal(2, 32))
  mask = jnp.arange(32)[None, :] < jnp.array([[32], [20]])
  scores = jnp.where(mask, scores, -jnp.inf)
  k = jnp.array([8, 5])

  def from_largest(scores):
    largest, _ = jax.lax.top_k(scores, 8)
    return soft_top_k_from_largest(scores, largest, k, epsilon=0.1)

  def whole(scores):
    return soft_top_k(scores, k, epsilon=0.1)

  @functools.partial(jax.jit, static_argnums=0)
  def with_gradient(function, scores):
    weights, pull = jax.vjp(function, scores)
    return weights, *pull(jnp.sin(weights))

  for ours, expected in zip(
    with_gradient(from_largest, scores),
    with_gradient(whole, scores),
    strict=True,
  ):
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)

  # Of the selected alone: the same weights, and the same gradient of all.
  def selected(scores):
    largest, indices = jax.lax.top_k(scores, 8)
    return selected_soft_top_k(scores, largest, indices, k, epsilon=0.1)

  def looked_up(scores):
    indices = jax.lax.top_k(scores, 8)[1]
    return jnp.take_along_axis(whole(scores), indices, axis=-1)

  # As for the operator itself, also of the gradient's own.
  slope = lambda f: jax.grad(lambda s: jnp.sum(jnp.sin(f(s))))
  for function in (lambda f: f, lambda f: slope(f), lambda f: slope(slope(f))):
    np.testing.assert_allclose(
      function(selected)(scores),
      function(looked_up)(scores),
      rtol=1e-5,
      atol=1e-5,
    )
  program = str(
    jax.make_jaxpr(jax.grad(lambda s: from_largest(s).sum()))(scores)
  )
  assert program.count("top_k[") == 1 and "sort[" not in program
