"""FLOPs of programs worked by hand."""

import jax
import jax.numpy as jnp

from coda_jax.flops import matrix_flops

X, W = jnp.ones((3, 4)), jnp.ones((4, 4))
ONE = 2 * 3 * 4 * 4


def count(function, *args):
  return matrix_flops(jax.make_jaxpr(function)(*args))


def test_products():
  assert count(jnp.matmul, X, W) == ONE
  # [2, 3, 5] x [2, 5, 7] -> [2, 3, 7]
  batched = lambda a, b: jnp.einsum("bij,bjk->bik", a, b)
  found = count(batched, jnp.ones((2, 3, 5)), jnp.ones((2, 5, 7)))
  assert found == 2 * 2 * 3 * 5 * 7
  assert count(lambda x: jnp.tanh(x) + x, X) == 0


def test_loops_branches_and_what_is_recomputed():
  def loop(x, w):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)[0]

  assert count(loop, X, W) == 5 * ONE
  branch = lambda x, w: jax.lax.cond(
    x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w
  )
  assert count(branch, X, W) == 2 * ONE
  layer = lambda x: jnp.tanh(jnp.tanh(x @ W) @ W)
  plain, again = (
    count(jax.jit(jax.grad(lambda x, f=f: f(x).sum())), X)
    for f in (layer, jax.checkpoint(layer))
  )
  assert plain == 4 * ONE  # Two forward, two back.
  assert again > plain


def test_until():
  step = lambda x: x @ W
  until = lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, step, x)
  assert count(until, X) == ONE
