"""The use of an encoder with a head: its arguments, its logits, its labels."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax import Array

from coda_jax import backbones
from coda_jax.data import texts
from coda_jax.nn.config import Conditional
from coda_jax.objectives import Batch

# Arguments of the model. Where a batch is made by hand, only the first is
# needed.
ARGUMENTS = ("encoder_input_tokens", "encoder_token_types", "encoder_mask")


def check(
  head: str, labels: Sequence[str], features: Mapping[str, Any], config: Any
) -> None:
  """Checks that a model reads a task's inputs, and has a head for its labels.

  Args:
    head: the kind of head, "classification" or "token_classification".
    labels: in the order of the head's outputs.
    features: the `output_features` of a seqio task.
    config: of the model. One that is not of this package is not asked for its
      head.

  Raises:
    ValueError: naming what does not fit.
  """
  texts.check_vocabulary(
    features["inputs"].vocabulary, config.vocab_size, repr("inputs")
  )
  if not isinstance(config, Conditional):
    return  # A model of the caller's own.
  found = config.head_fields
  if found.get("head") != head:
    raise ValueError(
      f"LABELS={labels!r} need a model with a head for {head}, but this is a "
      f"{backbones.of(config).title} with head={found.get('head')!r}; use "
      f"models/bert.gin with HEAD={head!r}, or a checkpoint of such a model"
    )
  if found["num_labels"] != len(labels) or (
    found["labels"] and found["labels"] != tuple(labels)
  ):
    raise ValueError(
      f"LABELS={labels!r}, but the model was made for {found['num_labels']} "
      f"labels {found['labels'] or ''}; set LABELS to these, in their order"
    )


def check_logits(
  labels: Sequence[str], logits: Array, dims: Sequence[str]
) -> None:
  """Checks the shape of a model's logits.

  Args:
    labels: in their order.
    logits: of the model.
    dims: names of the dimensions before that of the labels.

  Raises:
    ValueError: another shape.
  """
  if logits.ndim != len(dims) + 1 or logits.shape[-1] != len(labels):
    raise ValueError(
      f"LABELS={labels!r} are {len(labels)}, and the model gives logits of "
      f"shape {logits.shape}; expected [{', '.join(dims)}, {len(labels)}]: "
      "give its head as many outputs"
    )


def inputs(batch: Batch) -> dict[str, Any]:
  """The arrays of a batch that are arguments of a model, by name."""
  return {name: batch[name] for name in ARGUMENTS if name in batch}


def mask(model: nn.Module, batch: Batch) -> Array:
  """bool [batch, length], True for the tokens that are not padding."""
  if "encoder_mask" in batch:
    return batch["encoder_mask"].astype(bool)
  # Padding is not 0 for all models: batches of a converter have a mask.
  return batch["encoder_input_tokens"] != getattr(model.config, "pad_id", 0)


@functools.partial(jax.jit, static_argnames="model")
def logits(params: Any, arguments: Batch, *, model: nn.Module) -> Array:
  """The logits of a model, without dropout, for its `inputs` of a batch."""
  return model.apply({"params": params}, **arguments, enable_dropout=False)
