"""The programs of training and inference, traced from shapes alone.

They are the programs of the entry points, for devices of another machine:
nothing is allocated, read or computed.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from coda_jax import decoding, initialise, partitioning
from coda_jax import params as params_lib
from coda_jax.objectives import Objective
from coda_jax.training import steps
from coda_jax.training.state import TrainState


def train_step(
  model: nn.Module,
  mesh: Mesh,
  transform: optax.GradientTransformation,
  *,
  objective: Objective,
  trained_patterns: Sequence[str],
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  microbatches: int = 1,
  frozen_dtype: Any = "float32",
) -> jax.stages.Traced:
  """A step of the trainer.

  Args:
    model: of `backbones.build`.
    mesh: of the devices to compile for.
    transform: the optimizer.
    objective: gives the loss.
    trained_patterns: see `params.split`.
    task_feature_lengths: {"inputs": n, "targets": m}, in tokens.
    batch_size: examples of the whole batch.
    microbatches: see `steps.make_train_step`.
    frozen_dtype: of the leaves that are not trained.

  Raises:
    ValueError: the mesh does not divide the model or the batch.
  """
  places = partitioning.shardings(model, mesh)
  partitioning.check_batch(
    batch_size // microbatches, mesh, "batch_size / microbatches"
  )
  trained, frozen = params_lib.split(
    initialise.abstract_params(model), trained_patterns
  )
  state = jax.eval_shape(lambda x: TrainState.create(x, transform), trained)
  _, frozen_places = params_lib.split(places, trained_patterns)
  state_places = partitioning.state_shardings(state, places)
  step = steps.make_train_step(
    model,
    transform,
    objective,
    microbatches=microbatches,
    shardings=state_places,
  )
  constants = jax.eval_shape(objective.constants, trained)
  everywhere = jax.tree.map(lambda _: partitioning.replicated(mesh), constants)
  with partitioning.under(mesh):
    return step.trace(
      _placed(state, state_places),
      {
        **_placed(frozen, frozen_places, jnp.dtype(frozen_dtype)),
        **_placed(constants, everywhere),
      },
      _batch(objective, model, mesh, batch_size, task_feature_lengths),
      _key(mesh),
    )


def eval_step(
  model: nn.Module,
  mesh: Mesh,
  *,
  objective: Objective,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
) -> jax.stages.Traced:
  """The loss of a batch; for the arguments see `train_step`."""
  params, _ = _inference(model, mesh, batch_size)
  batch = _batch(objective, model, mesh, batch_size, task_feature_lengths)
  with partitioning.under(mesh):
    return steps.make_eval_step(model, objective).trace(params, batch)


def predict(
  model: nn.Module,
  mesh: Mesh,
  *,
  objective: Objective,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
) -> jax.stages.Traced:
  """The answers to a batch; for the arguments see `train_step`."""
  params, _ = _inference(model, mesh, batch_size)
  batch = _batch(objective, model, mesh, batch_size, task_feature_lengths)
  call = functools.partial(
    objective.predict, model, max_length=task_feature_lengths.get("targets", 1)
  )
  with partitioning.under(mesh):
    return jax.jit(call).trace(params, batch)


def generate(
  model: nn.Module,
  mesh: Mesh,
  *,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  **options: Any,
) -> jax.stages.Traced:
  """`coda_jax.generate` of a batch.

  Args:
    model: of `backbones.build`.
    mesh: of the devices to compile for.
    task_feature_lengths: {"inputs": n, "targets": m}, in tokens.
    batch_size: inputs of the whole batch.
    **options: further arguments of `decoding.generate`.

  Raises:
    ValueError: the mesh does not divide the model or the batch.
  """
  call = functools.partial(
    decoding.generate,
    max_length=task_feature_lengths["targets"],
    **options,
  )
  return _call(call, model, mesh, batch_size, task_feature_lengths["inputs"])


def encode(
  model: nn.Module, mesh: Mesh, *, length: int, batch_size: int
) -> jax.stages.Traced:
  """The encoder alone, with weights in the dtype of its computation.

  Args:
    model: of `backbones.build`.
    mesh: of the devices to compile for.
    length: of the inputs, in tokens.
    batch_size: inputs of the whole batch.

  Raises:
    ValueError: the mesh does not divide the model or the batch.
  """

  def call(model: nn.Module, params: Any, tokens: Any) -> jax.Array:
    return model.apply(
      {"params": params}, tokens, enable_dropout=False, method="encode"
    )

  return _call(call, model, mesh, batch_size, length, dtype=model.config.dtype)


def score(
  model: nn.Module,
  mesh: Mesh,
  *,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
) -> jax.stages.Traced:
  """The log probability of targets; for the arguments see `generate`."""
  lengths = (task_feature_lengths["inputs"], task_feature_lengths["targets"])
  return _call(decoding.score, model, mesh, batch_size, *lengths)


def _call(
  function: Any,
  model: nn.Module,
  mesh: Mesh,
  batch_size: int,
  *lengths: int,
  dtype: Any = None,
) -> jax.stages.Traced:
  params, rows = _inference(model, mesh, batch_size, dtype)
  tokens = [
    jax.ShapeDtypeStruct((batch_size, length), jnp.int32, sharding=rows)
    for length in lengths
  ]
  with partitioning.under(mesh):
    return jax.jit(functools.partial(function, model)).trace(params, *tokens)


def _inference(
  model: nn.Module, mesh: Mesh, batch_size: int, dtype: Any = None
):
  places = partitioning.shardings(model, mesh)
  partitioning.check_batch(batch_size, mesh)
  params = _placed(initialise.abstract_params(model), places, dtype)
  return params, partitioning.batch_sharding(mesh)


def _placed(tree: Any, places: Any, dtype: Any = None) -> Any:
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, dtype or leaf.dtype, sharding=place
    ),
    tree,
    places,
  )


def _key(mesh: Mesh) -> jax.ShapeDtypeStruct:
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.ShapeDtypeStruct(
    key.shape, key.dtype, sharding=partitioning.replicated(mesh)
  )


def _batch(
  objective: Objective,
  model: nn.Module,
  mesh: Mesh,
  batch_size: int,
  lengths: Mapping[str, int],
) -> dict[str, jax.ShapeDtypeStruct]:
  rows = partitioning.batch_sharding(mesh)
  shapes = objective.shapes(model.config, batch_size, lengths)
  return {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    for name, x in shapes.items()
  }
