"""Objectives: how a batch becomes a loss, and how a model answers it.

An objective knows what a task's examples mean to a model: their arrays, their
loss and their answers. A model knows none of that. The trainer knows objectives
only by the methods of `Objective`. Gin files choose one by OBJECTIVE.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np
from flax import linen as nn
from jax import Array

if TYPE_CHECKING:
  import seqio

Batch = Mapping[str, Array | np.ndarray]


class Sums(NamedTuple):
  """The loss of a batch and what belongs to it, as sums, so that parts add up.

  Attributes:
    loss: float32 [], summed over what `weight` counts.
    weight: float32 [], what the loss is a mean over, such as target tokens.
    metrics: float32 [] each, summed in the same way.
    tokens: float32 [], the tokens that the model processes.
    routing: of the model's encoder; () if it returns none.
    mask: bool [batch, length], True for the real tokens of the encoder.
  """

  loss: Array
  weight: Array
  metrics: dict[str, Array]
  tokens: Array
  routing: Any
  mask: Any


class Objective(Protocol):
  """The use of a model for tasks of one kind.

  All methods are pure functions of their arguments and the object's fields.

  Attributes:
    token_features: the task's features that reach the model as tokens, so that
      their length and the vocabulary can lose something.
  """

  token_features: tuple[str, ...]

  def check(self, features: Mapping[str, Any], config: Any) -> None:
    """Checks that a task fits this objective and a model.

    Args:
      features: the `output_features` of a seqio task.
      config: of the model.

    Raises:
      ValueError: naming what does not fit.
    """

  def constants(self, trained: Any) -> dict[str, Any]:
    """Further parameters that `sums` needs, which training does not change.

    Args:
      trained: the trained parameters before the first step.

    Returns:
      A tree beside that of the frozen parameters; {} for none.
    """

  def converter(
    self, features: Mapping[str, Any], *, pack: bool = False
  ) -> "seqio.FeatureConverter":
    """Makes batches of a task's examples: arrays of one shape, by name.

    A row of zeros in every array is padding: it weighs nothing.

    Args:
      features: the `output_features` of the task.
      pack: put several short examples into one row.

    Raises:
      ValueError: this objective can't pack.
    """

  def shapes(
    self, config: Any, batch_size: int, lengths: Mapping[str, int]
  ) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays that `converter` makes, without packing.

    Args:
      config: of the model.
      batch_size: rows of each array.
      lengths: {"inputs": n, "targets": m}.
    """

  def sums(
    self,
    model: nn.Module,
    params: Any,
    batch: Batch,
    *,
    train: bool,
    rngs: Mapping[str, Array] | None = None,
  ) -> Sums:
    """The loss and the metrics of a batch.

    Args:
      model: applied to the batch.
      params: its parameters.
      batch: of `converter`.
      train: with dropout, and with terms of the loss that only help training.
      rngs: of dropout and routing, for training.
    """

  def predict(
    self, model: nn.Module, params: Any, batch: Batch, *, max_length: int
  ) -> Array:
    """The model's answers as an array, [batch, ...].

    Args:
      model: applied to the batch's inputs.
      params: its parameters.
      batch: of `converter`.
      max_length: the most tokens of an answer, if it has tokens.
    """

  def answers(self, predictions: np.ndarray) -> list[Any]:
    """Makes what seqio's metrics take of `predict`'s array.

    Returns:
      One answer a row: a text, or a list of tokens, which the vocabulary of the
      task's targets decodes.
    """
