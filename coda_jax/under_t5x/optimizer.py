"""Optimizers for t5x that train what a method says, and leave the rest alone.

This module does not import t5x: the caller passes t5x's objects in.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import core

from coda_jax import params as params_lib
from coda_jax.training import optimizers


class TrainedOnly:
  """Shows one of t5x's optimizers the trained leaves alone.

  It is an `OptimizerDef` to t5x. Frozen leaves have no state and do not change.
  Nothing reads their gradients, so the compiler drops them.

  Attributes:
    optimizer: a t5x `OptimizerDef`, such as its Adafactor.
    patterns: regular expressions over parameter paths, as for
      `params.matches`.
  """

  def __init__(
    self, optimizer: Any, patterns: Sequence[str] = params_lib.ALL_PATTERNS
  ):
    self.optimizer = optimizer
    self.patterns = tuple(patterns)
    # t5x checks for this attribute: Adafactor's factoring rules need the axes.
    if hasattr(optimizer, "set_param_axes"):
      self.set_param_axes = optimizer.set_param_axes

  @property
  def hyper_params(self) -> Any:
    """The wrapped optimizer's."""
    return self.optimizer.hyper_params

  def update_hyper_params(self, **overrides: Any) -> Any:
    """The wrapped optimizer's, with the trainer's learning rate in them."""
    return self.optimizer.update_hyper_params(**overrides)

  def create(self, target: Any) -> Any:
    """A t5x `Optimizer` of all parameters, with state for the trained ones."""
    created = self.optimizer.create(self._trained(target))
    return created.replace(optimizer_def=self, target=target)

  def init_state(self, params: Any) -> Any:
    """A t5x `OptimizerState` whose tree has the trained leaves."""
    return self.optimizer.init_state(self._trained(params))

  def apply_gradient(
    self, hyper_params: Any, params: Any, state: Any, grads: Any
  ) -> tuple[Any, Any]:
    """Returns (params, state) after a step; frozen leaves are the same."""
    trained, state = self.optimizer.apply_gradient(
      hyper_params, self._trained(params), state, self._trained(grads)
    )
    return _like(params, params_lib.merge(trained, params)), state

  def state_dict(self, target: Any, state: Any) -> dict[str, Any]:
    """The state as a checkpoint holds it."""
    return self.optimizer.state_dict(target, state)

  def restore_state(
    self, target: Any, state: Any, state_dict: Mapping[str, Any]
  ) -> tuple[Any, Any]:
    """The inverse of `state_dict`."""
    return self.optimizer.restore_state(target, state, state_dict)

  def derive_logical_axes(self, optimizer: Any, axes: Any) -> Any:
    """A t5x `Optimizer` with the logical axes of each leaf in its place."""
    trained = optimizer.replace(
      optimizer_def=self.optimizer, target=self._trained(optimizer.target)
    )
    derived = self.optimizer.derive_logical_axes(trained, self._trained(axes))
    return derived.replace(optimizer_def=self, target=axes)

  def _trained(self, tree: Any) -> Any:
    return _like(tree, params_lib.split(tree, self.patterns)[0])


def _like(tree: Any, new: dict[str, Any]) -> Any:
  """Freezes `new` if `tree` is frozen: t5x's trees must stay of one kind."""
  return core.freeze(new) if isinstance(tree, core.FrozenDict) else new


def of_schedule(
  optimizer: optimizers.Optimizer, learning_rate: optimizers.Schedule
) -> optax.GradientTransformation:
  """The optimizer of a file of schedules/, for t5x's `OptaxWrapper`.

  Args:
    optimizer: of `coda_jax.training.optimizers`.
    learning_rate: schedule over steps.

  Raises:
    ValueError: optax's Adafactor, whose state t5x can't place on devices.
  """
  transform = optimizer(learning_rate)
  state = jax.eval_shape(transform.init, {"x": jnp.zeros(1)})
  is_factored = functools.partial(_is_a, optax.FactoredState)
  if any(map(is_factored, jax.tree.leaves(state, is_leaf=is_factored))):
    raise ValueError(
      f"OPTIMIZER={optimizer.__name__}: t5x can't place the state of optax's "
      "Adafactor on devices; add --gin_file=t5x/optimizers/adafactor.gin after "
      "the run's file, for t5x's own, or use a schedule with AdamW, such as "
      "schedules/adapter.gin"
    )
  return transform


def _is_a(kind: type, node: Any) -> bool:
  return isinstance(node, kind)


def factor_rules(standard: Mapping[str, Any]) -> dict[str, Any]:
  """The factoring rules of Adafactor, with the axes that CoDA adds.

  Args:
    standard: t5x's `adafactor.standard_logical_factor_rules()`.
  """
  # t5x's Adafactor accepts names as well as members of its enumeration.
  return {**standard, "lora_rank": "none"}
