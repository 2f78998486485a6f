"""A finetuning step of the trainer as something to time."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from coda_jax import analysis, initialise
from coda_jax import params as params_lib
from coda_jax.benchmarking.timing import Call
from coda_jax.objectives import Batch, Objective
from coda_jax.training import optimizers, state, steps

# A step of finetuning, and one in which CoDA learns from the dense model.
PARTS = ("train", "distil")


def train_batch(tokens: jax.Array, targets: jax.Array) -> Batch:
  """A batch for the trainer of int32 [batch, length] and [batch, targets]."""
  return {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": jnp.ones_like(targets),
  }


def train_step(
  model: nn.Module, params: Any, batch: Batch, objective: Objective
) -> Call:
  """Compiles a step with the trainer's own gradient and Adafactor.

  Args:
    model: of `backbones.build`; `params.TASK_PATTERNS` are trained.
    params: has the leaves of `model`; others are left out, and none is changed.
    batch: of int32 arrays, as the trainer reads it.
    objective: of the loss.

  Returns:
    A call that takes the next step on the same batch and returns the metrics
    of `steps.make_train_step`. FLOPs and memory are the compiler's count.
  """
  leaves = params_lib.flatten(params)
  own = params_lib.flatten(initialise.abstract_params(model))
  trained, frozen = params_lib.split(
    params_lib.unflatten({path: leaves[path] for path in own}),
    params_lib.TASK_PATTERNS,
  )
  frozen = {**frozen, **objective.constants(trained)}
  # The step gives its state away, and other models have the same leaves.
  trained = jax.tree.map(jnp.copy, trained)
  optimizer = optimizers.adafactor(optimizers.constant())
  current = state.TrainState.create(trained, optimizer)
  rest = (frozen, batch, jax.random.key(0))
  step = steps.make_train_step(model, optimizer, objective)
  step = step.lower(current, *rest).compile()

  def run() -> steps.Metrics:
    nonlocal current
    current, metrics = step(current, *rest)
    return metrics

  return Call(run, step.cost_analysis()["flops"], analysis.peak_bytes(step))
