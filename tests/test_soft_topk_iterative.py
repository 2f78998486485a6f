"""The paper's iteration, and the page that compares it with the closed form."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest

from coda_jax.soft_topk import soft_top_k

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "soft_top_k.md"


@functools.partial(jax.jit, static_argnames=("k", "epsilon", "method"))
def solve(scores, k, epsilon, mask=None, method="iterative"):
  return soft_top_k(scores, k, epsilon=epsilon, mask=mask, method=method)


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def paper_iteration(scores, k, epsilon):
  """The paper's steps in float64, with its constants."""
  a, b, current = np.zeros((scores.shape[0], 1)), np.zeros(scores.shape), 4.0
  for _ in range(20):
    step = max(current, epsilon)
    total = np.logaddexp.reduce((scores + b) / step, axis=-1, keepdims=True)
    a = step * np.log(k) - step * total
    b = np.minimum(-scores - a, 0.0)
    current *= 0.7
  return np.exp((scores + a + b) / step)


@pytest.mark.parametrize("epsilon", [1.0, 0.02, 0.001])
def test_is_the_papers(epsilon):
  scores = normal(4, 512)
  np.testing.assert_allclose(
    solve(scores, 100, epsilon),
    paper_iteration(scores.astype(np.float64), 100, epsilon),
    atol=1e-3,
  )


def test_its_own_constants():
  scores, last = 4 * normal(2, 16), 2.0 * 0.5**2
  a, b = np.zeros((2, 1)), np.zeros((2, 16))
  for step in (2.0, 1.0, last):
    a = step * np.log(3 / np.exp((scores + b) / step).sum(-1, keepdims=True))
    b = np.minimum(-scores - a, 0.0)
  weights = soft_top_k(
    scores,
    3,
    epsilon=0.1,
    method="iterative",
    num_iterations=3,
    epsilon_init=2.0,
    epsilon_decay=0.5,
  )
  np.testing.assert_allclose(weights, np.exp((scores + a + b) / last), 1e-4)


def test_misses_its_budget_where_the_closed_form_meets_it():
  scores = normal(8, 512)
  for epsilon, low, high in ((1.0, 0.999, 1.001), (0.02, 0.7, 0.8)):
    share = float(solve(scores, 100, epsilon).sum(-1).mean()) / 100
    assert low < share < high
  exact = solve(scores, 100, 0.02, method="exact").sum(-1)
  np.testing.assert_allclose(exact, 100, rtol=2e-5)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
@pytest.mark.parametrize("epsilon", [0.001, 10.0])
def test_bounds_and_bypass(scale, epsilon):
  scores = scale * normal(4, 7)
  mask = np.arange(7) < np.array([[0], [3], [5], [7]])
  weights = np.asarray(solve(scores, 3, epsilon, mask))

  assert np.all((weights >= 0) & (weights <= 1))
  assert np.all(weights[~mask] == 0)
  np.testing.assert_array_equal(weights[:2], mask[:2])  # at most k are left
  np.testing.assert_array_equal(solve(scores, 0, epsilon, mask), 0)


def test_page_shows_what_its_code_prints(capsys):
  page = PAGE.read_text(encoding="utf-8")
  blocks = re.findall(
    r"```python\n((?:(?!```).)*)```\n+```text\n(.*?)```", page, re.S
  )
  assert len(blocks) == 2
  for code, output in blocks:
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == output
