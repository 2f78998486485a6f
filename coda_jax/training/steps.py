"""The jitted training and evaluation steps, of any objective."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from coda_jax import params as params_lib
from coda_jax.nn import router
from coda_jax.objectives import Batch, Objective
from coda_jax.training.state import TrainState

Metrics = dict[str, Array]


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  objective: Objective,
  *,
  microbatches: int = 1,
  shardings: TrainState | None = None,
) -> Callable[[TrainState, Any, Batch, Array], tuple[TrainState, Metrics]]:
  """Makes the jitted `step(state, frozen, batch, key)`.

  The gradient is taken with respect to `state.trained` alone, and its buffers
  are donated: the state that was passed in is gone afterwards. `key` is the
  run's key; each step folds its number in. Its metrics are means over the
  batch's `weight` (`loss` and the objective's own), `weight` and `tokens`, and
  the norms of the gradient and of the update.

  Args:
    model: of `backbones.build`.
    optimizer: of `state.trained`.
    objective: gives the loss.
    microbatches: parts of a batch whose gradients are computed one after the
      other and added up, to save memory; the mean is over the whole batch.
    shardings: of the state that it returns, `partitioning.state_shardings`;
      None leaves that to the compiler.
  """

  def loss(trained, frozen, batch, rngs):
    sums = objective.sums(
      model,
      params_lib.merge(trained, frozen),
      batch,
      train=True,
      rngs=rngs,
    )
    # Parts of a batch add up; what a router chose for each does not.
    return sums.loss, sums._replace(routing=(), mask=())

  def gradients(trained, frozen, batch, key):
    dropout_key, routing_key = jax.random.split(key)
    rngs = {"dropout": dropout_key, "routing": routing_key}
    return jax.grad(loss, has_aux=True)(trained, frozen, batch, rngs)

  def step(state, frozen, batch, key):
    key = jax.random.fold_in(key, state.step)
    if microbatches == 1:
      gradient, sums = gradients(state.trained, frozen, batch, key)
    else:

      def add(total, part):
        key, batch = part
        new = gradients(state.trained, frozen, batch, key)
        return jax.tree.map(jnp.add, total, new), None

      parts = (
        jax.random.split(key, microbatches),
        # Each of consecutive rows of every device, so that none is moved.
        jax.tree.map(
          lambda x: jnp.swapaxes(
            x.reshape(-1, microbatches, *x.shape[1:]), 0, 1
          ),
          dict(batch),
        ),
      )
      first = jax.tree.map(lambda x: x[0], parts)
      zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradients, state.trained, frozen, first[1], first[0]),
      )
      (gradient, sums), _ = jax.lax.scan(add, zeros, parts)
    mean = 1 / jnp.maximum(sums.weight, 1.0)
    gradient = jax.tree.map(lambda x: x * mean.astype(x.dtype), gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it.
      updates, opt_state = optimizer.update(
        gradient, state.opt_state, state.trained
      )
    metrics = {
      "loss": sums.loss * mean,
      **{name: value * mean for name, value in sums.metrics.items()},
      "weight": sums.weight,
      "tokens": sums.tokens,
      "grad_norm": optax.tree.norm(gradient),
      "update_norm": optax.tree.norm(updates),
    }
    state = TrainState(
      step=state.step + 1,
      trained=optax.apply_updates(state.trained, updates),
      opt_state=opt_state,
    )
    return state, metrics

  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def make_eval_step(
  model: nn.Module, objective: Objective
) -> Callable[[Any, Batch], Metrics]:
  """Makes the jitted `step(params, batch)`, without dropout.

  Its metrics are sums over the batch: `loss` and the objective's own over
  `weight`; and, where the model routes, `router.routing_statistics` times
  `input_tokens`.
  """

  def step(params, batch):
    sums = objective.sums(model, params, batch, train=False)
    tokens = sums.mask.sum().astype(jnp.float32)
    statistics = router.routing_statistics(sums.routing, sums.mask)
    return {
      "loss": sums.loss,
      **sums.metrics,
      "weight": sums.weight,
      "input_tokens": tokens,
      **{f"routing/{k}": v * tokens for k, v in statistics.items()},
    }

  return jax.jit(step)
