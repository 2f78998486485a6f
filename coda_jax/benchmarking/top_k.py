"""Soft top-k and the selection by it, without a model around them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from coda_jax import soft_topk
from coda_jax.benchmarking.timing import Call, Subject
from coda_jax.nn import config, router

PARTS = ("soft_top_k", "soft_top_k_gradient")


def subjects(
  part: str,
  *,
  reduction: float,
  batch: int,
  length: int,
  epsilon: float = config.CodaConfig.epsilon,
) -> list[Subject]:
  """The weights of the selected tokens, computed as a router computes them.

  Args:
    part: "soft_top_k", forward, compared with the selection alone; or
      "soft_top_k_gradient", forward and backward, compared with the paper's
      iteration, since a selection alone has no gradient.
    reduction: r; k is ceil(length / r).
    batch: rows of scores.
    length: scores a row.
    epsilon: the softness.
  """
  scores = jax.random.normal(jax.random.key(0), (batch, length))
  rules = {
    "selection": lambda s: _select(s, reduction)[0],
    "iterative": lambda s: _iterative(s, reduction, epsilon),
    "exact": lambda s: _exact(s, reduction, epsilon),
  }
  if part == "soft_top_k_gradient":
    del rules["selection"]
    rules = {name: _gradient(rule) for name, rule in rules.items()}
  return [
    Subject(
      {"method": name, "reduction": reduction},
      functools.partial(_call, rule, scores),
    )
    for name, rule in rules.items()
  ]


def _select(scores: jax.Array, reduction: float):
  return router.select(scores, jnp.ones(scores.shape, bool), reduction)


def _exact(scores: jax.Array, reduction: float, epsilon: float) -> jax.Array:
  largest, indices, _ = _select(scores, reduction)
  return soft_topk.selected_soft_top_k(
    scores, largest, indices, largest.shape[-1], epsilon=epsilon
  )


def _iterative(scores: jax.Array, reduction: float, epsilon: float):
  largest, indices, _ = _select(scores, reduction)
  weights = soft_topk.soft_top_k(
    scores, largest.shape[-1], epsilon=epsilon, method="iterative"
  )
  return jnp.take_along_axis(weights, indices, axis=-1)


def _gradient(rule: Callable[[jax.Array], jax.Array]):
  return jax.grad(lambda scores: jnp.sum(jnp.sin(rule(scores))))


def _call(rule: Callable[[jax.Array], jax.Array], scores: jax.Array) -> Call:
  compiled = jax.jit(rule)
  return Call(lambda: compiled(scores))
