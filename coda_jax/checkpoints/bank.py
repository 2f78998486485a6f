"""Several tasks on one backbone: by name, or mixed in one batch."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from coda_jax import params as params_lib
from coda_jax.checkpoints import adapter
from coda_jax.nn import sharding
from coda_jax.nn.config import Conditional


@dataclasses.dataclass(frozen=True)
class AdapterBank:
  """The adapters of several tasks, each leaf stacked on a task axis.

  All tasks have the same leaves and the same `CodaConfig`, so switching tasks
  needs no compilation. Immutable: `add` and `remove` return another bank that
  shares the backbone.

  Attributes:
    model: the backbone with the tasks' `CodaConfig`.
    frozen: the backbone's parameters, which no task owns.
    trained: the tasks' own parameters; each leaf is [tasks, ...].
    names: the tasks' names, in the order of the task axis.
    backbone: the fingerprint of `frozen`.
  """

  model: nn.Module
  frozen: Mapping[str, Any]
  trained: Mapping[str, Any]
  names: tuple[str, ...]
  backbone: str

  def add(self, name: str, path: str | os.PathLike[str]) -> "AdapterBank":
    """A bank with one more task, at the end.

    Args:
      name: the task's name; a task of this name is replaced in its place.
      path: a folder that `save_adapter` wrote.

    Raises:
      FileNotFoundError: the folder does not exist.
      ValueError: another backbone or another `CodaConfig`.
    """
    model, one = adapter.read_trained(
      path, adapter.read_config(path), self.model, self.backbone
    )
    if model.config != self.model.config:
      raise ValueError(
        f"{path} has {_own(model.config)}; the bank's tasks {list(self.names)} "
        f"have {_own(self.model.config)}; the tasks of a bank need the same"
      )
    if name in self.names:
      i = self.names.index(name)
      return self._with(self.names, lambda old, leaf: old.at[i].set(leaf), one)
    return self._with(
      (*self.names, name),
      lambda old, leaf: jnp.concatenate([old, leaf[None]]),
      one,
    )

  def remove(self, name: str) -> "AdapterBank":
    """A bank without that task.

    Raises:
      KeyError: an unknown task.
      ValueError: it is the only task.
    """
    i = self.task_id(name)
    if len(self.names) == 1:
      raise ValueError(f"{name!r} is the bank's only task; a bank needs one")
    names = (*self.names[:i], *self.names[i + 1 :])
    return self._with(names, lambda leaf: jnp.delete(leaf, i, axis=0))

  def task_id(self, name: str) -> int:
    """A task's index on the task axis.

    Raises:
      KeyError: an unknown task.
    """
    if name not in self.names:
      raise KeyError(f"no task {name!r}; the bank has {list(self.names)}")
    return self.names.index(name)

  def params(self, name: str) -> dict[str, Any]:
    """The parameters of `model` for one task, for a whole batch."""
    i = self.task_id(name)
    one = jax.tree.map(lambda leaf: leaf[i], self.trained)
    return params_lib.merge(one, self.frozen)

  def apply(
    self, function: Callable[..., Any], task_ids: Array, *batch: Any
  ) -> Any:
    """Calls a function on a batch in which every example has its own task.

    All examples share the backbone's matrices; only the tasks' own parameters
    are gathered for each example. Compile the whole call with `jax.jit`.

    Args:
      function: (params, *batch) -> arrays with a leading batch axis, such as
        `lambda p, x: model.apply({"params": p}, x, method="encode")`; it is
        traced with a batch of one.
      task_ids: int [batch], indices on the task axis, from `task_id`. An index
        out of range makes its example NaN.
      *batch: arrays, or trees of arrays, with a leading batch axis.

    Returns:
      The result of `function`, for the batch.
    """

    def one(task: Any, *example: Any) -> Any:
      rows = jax.tree.map(lambda x: x[None], example)
      params = params_lib.merge(task, self.frozen)
      return jax.tree.map(lambda x: x[0], function(params, *rows))

    chosen = jax.tree.map(
      lambda leaf: leaf.at[task_ids].get(
        mode="fill", fill_value=jnp.nan, wrap_negative_indices=False
      ),
      dict(self.trained),
    )
    return sharding.map_examples(one, chosen, *batch)

  def _with(self, names, change, *others):
    trained = jax.tree.map(change, self.trained, *others)
    return dataclasses.replace(self, names=names, trained=trained)


def load_bank(
  model: nn.Module,
  params: params_lib.Params,
  paths: Mapping[str, str | os.PathLike[str]],
) -> AdapterBank:
  """Reads adapters that were trained on one backbone.

  Args:
    model: the backbone's model.
    params: its parameters.
    paths: {task name: a folder that `save_adapter` wrote}, one or more.

  Raises:
    FileNotFoundError: a folder does not exist.
    ValueError: no adapter, another backbone, or adapters of several methods.
  """
  if not paths:
    raise ValueError("an adapter bank needs one adapter or more; got none")
  (name, path), *others = paths.items()
  fields = adapter.read_config(path)
  backbone = adapter.backbone_fingerprint(params)
  adapted, trained = adapter.read_trained(path, fields, model, backbone)
  _, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  stacked = jax.tree.map(lambda leaf: leaf[None], trained)
  bank = AdapterBank(adapted, frozen, stacked, (name,), backbone)
  for name, path in others:
    bank = bank.add(name, path)
  return bank


def _own(config: Conditional) -> str:
  """The part of a configuration that an adapter brings."""
  head = config.head_fields
  return f"{config.coda} and {head}" if head else f"{config.coda}"
