"""The wrapper without t5x, by an optimizer that has its interface."""

import dataclasses
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax.training import optimizers
from coda_jax.under_t5x import optimizer


@flax.struct.dataclass
class State:
  step: int
  param_states: Any


@dataclasses.dataclass
class Optimizer:
  optimizer_def: Any
  state: Any
  target: Any

  def replace(self, **fields):
    return dataclasses.replace(self, **fields)


class Descent:
  """Plain gradient descent that remembers every gradient."""

  hyper_params = {"learning_rate": 1.0}

  def update_hyper_params(self, **overrides):
    return {**self.hyper_params, **overrides}

  def create(self, target):
    return Optimizer(self, self.init_state(target), target)

  def init_state(self, params):
    return State(0, params)

  def apply_gradient(self, hyper_params, params, state, grads):
    assert type(params) is type(grads) is type(state.param_states)
    flat, gradient = (
      params_lib.flatten(flax.core.unfreeze(tree)) for tree in (params, grads)
    )
    new = params_lib.unflatten(
      {
        p: x - hyper_params["learning_rate"] * gradient[p]
        for p, x in flat.items()
      }
    )
    if isinstance(params, flax.core.FrozenDict):
      new = flax.core.freeze(new)
    return new, State(state.step + 1, grads)

  def derive_logical_axes(self, optimizer, axes):
    assert type(optimizer.target) is type(axes)
    return optimizer.replace(state=State(None, axes), target=axes)


PARAMS = {
  "encoder": {
    "layers_0": {
      "adapter": {"up": {"kernel": jnp.ones((2, 3))}},
      "mlp": {"wo": {"kernel": jnp.ones((3, 2))}},
    },
    "encoder_norm": {"scale": jnp.ones(2)},
  }
}
TRAINED = {
  "encoder/layers_0/adapter/up/kernel",
  "encoder/encoder_norm/scale",
}
KINDS = {"dict": dict, "frozen": flax.core.freeze}


def paths(tree):
  return set(params_lib.flatten(flax.core.unfreeze(tree)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_trained_leaves_alone_move_and_have_state(kind):
  params = KINDS[kind](PARAMS)
  wrapped = optimizer.TrainedOnly(Descent(), params_lib.TASK_PATTERNS)
  created = wrapped.create(params)
  assert created.optimizer_def is wrapped and created.target is params
  assert paths(created.state.param_states) == TRAINED
  hyper_params = wrapped.update_hyper_params(learning_rate=0.5)
  new, state = wrapped.apply_gradient(
    hyper_params, params, created.state, params
  )
  assert type(new) is type(params) and paths(new) == paths(params)
  assert state.step == 1 and paths(state.param_states) == TRAINED
  for path, leaf in params_lib.flatten(flax.core.unfreeze(new)).items():
    expected = 0.5 if path in TRAINED else 1.0
    np.testing.assert_array_equal(leaf, np.full(leaf.shape, expected))
  derived = wrapped.derive_logical_axes(created, params)
  assert derived.target is params and derived.optimizer_def is wrapped
  assert paths(derived.state.param_states) == TRAINED


def test_axes_are_asked_for_where_the_optimizer_does():
  """t5x tells Adafactor the axes, and looks whether it wants them."""

  class Factored(Descent):
    def set_param_axes(self, axes):
      self.axes = axes

  assert not hasattr(optimizer.TrainedOnly(Descent()), "set_param_axes")
  inner = Factored()
  optimizer.TrainedOnly(inner).set_param_axes("axes")
  assert inner.axes == "axes"


def test_patterns_that_match_nothing_are_refused():
  wrapped = optimizer.TrainedOnly(Descent(), [r".*/lora/.*"])
  with pytest.raises(ValueError, match="match none of the 3 parameters"):
    wrapped.create(PARAMS)


def test_optax_s_adafactor_is_refused():
  rate = optimizers.constant()
  assert optimizer.of_schedule(optimizers.adamw, rate).init(PARAMS)
  with pytest.raises(ValueError, match="adafactor: t5x can't place"):
    optimizer.of_schedule(optimizers.adafactor, rate)


def test_factor_rules_keep_those_of_t5x():
  assert optimizer.factor_rules({"embed": "row"}) == {
    "embed": "row",
    "lora_rank": "none",
  }
