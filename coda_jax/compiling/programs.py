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
from coda_jax.training import steps
from coda_jax.training.state import TrainState


def train_step(
  model: nn.Module,
  mesh: Mesh,
  transform: optax.GradientTransformation,
  *,
  trained_patterns: Sequence[str],
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  microbatches: int = 1,
  frozen_dtype: Any = "float32",
  **step_options: Any,
) -> jax.stages.Traced:
  """A step of the trainer.

  Args:
    model: of `backbones.build`.
    mesh: of the devices to compile for.
    transform: the optimizer.
    trained_patterns: see `params.split`.
    task_feature_lengths: {"inputs": n, "targets": m}, in tokens.
    batch_size: examples of the whole batch.
    microbatches: see `steps.make_train_step`.
    frozen_dtype: of the leaves that are not trained.
    **step_options: further arguments of `steps.make_train_step`.

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
  rows = partitioning.batch_sharding(mesh)
  state_places = partitioning.state_shardings(state, places)
  step = steps.make_train_step(
    model,
    transform,
    microbatches=microbatches,
    shardings=state_places,
    **step_options,
  )
  with partitioning.under(mesh):
    return step.trace(
      _placed(state, state_places),
      _placed(frozen, frozen_places, jnp.dtype(frozen_dtype)),
      {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        for name, shape in _batch_shapes(
          batch_size, task_feature_lengths
        ).items()
      },
      _key(mesh),
    )


def eval_step(
  model: nn.Module,
  mesh: Mesh,
  *,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
) -> jax.stages.Traced:
  """The loss of a batch; for the arguments see `train_step`."""
  params, rows = _inference(model, mesh, batch_size)
  shapes = _batch_shapes(batch_size, task_feature_lengths)
  with partitioning.under(mesh):
    return steps.make_eval_step(model).trace(
      params,
      {
        name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
        for name, shape in shapes.items()
      },
    )


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


def _batch_shapes(
  batch_size: int, lengths: Mapping[str, int]
) -> dict[str, tuple[int, int]]:
  """The arrays of seqio's EncDecFeatureConverter, without packing."""
  targets = (batch_size, lengths["targets"])
  return {
    "encoder_input_tokens": (batch_size, lengths["inputs"]),
    "decoder_input_tokens": targets,
    "decoder_target_tokens": targets,
    "decoder_loss_weights": targets,
  }
