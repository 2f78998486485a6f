"""Token ids as a caller has them: whole numbers with an embedding each.

Compiled code looks an id that is too large, or negative, up as the nearest one
that there is, without a word. So the host checks what it has in hand; a traced
array is left as it is, and nothing is added to a program.
"""

from typing import Any

import jax
import numpy as np


def as_array(name: str, ids: Any) -> Any:
  """Makes an array of what is not one, such as a list of lists.

  Args:
    name: of the argument, for messages.
    ids: an array of NumPy or jax, returned as it is, or what NumPy makes one
      of.

  Raises:
    ValueError: the rows have different lengths.
  """
  if isinstance(ids, np.ndarray | jax.Array):
    return ids
  try:
    return np.asarray(ids)
  except ValueError as error:
    raise ValueError(
      f"{name}: the rows have different lengths; pad the shorter ones with 0 "
      "at their end"
    ) from error


def checked(name: str, ids: Any, vocab_size: int) -> Any:
  """The ids as `as_array` returns them, checked by `check`."""
  ids = as_array(name, ids)
  check(name, ids, vocab_size)
  return ids


def check(name: str, ids: Any, vocab_size: int) -> None:
  """Checks ids against the embedding that they are to be looked up in.

  Args:
    name: of the argument, for messages.
    ids: numbers of any shape. What is traced, or lies on several hosts, is not
      looked at.
    vocab_size: of the model.

  Raises:
    ValueError: one is negative, or too large.
  """
  id_ = outside(ids, vocab_size)
  if id_ is not None:
    raise ValueError(
      f"{name} has the token id {id_}; expected 0 to {vocab_size - 1}: the "
      f"model has {vocab_size} embeddings (vocab_size of its config); use the "
      "vocabulary that the model was made with (VOCABULARY)"
    )


def outside(ids: Any, size: int) -> int | None:
  """An id that is not in a table of `size` rows; None if all are.

  Also None for what is traced, or lies on several hosts.
  """
  if isinstance(ids, jax.core.Tracer):
    return None
  if isinstance(ids, jax.Array) and not ids.is_fully_addressable:
    return None
  on_host = np.asarray(ids)
  if not on_host.size:
    return None
  ends = (on_host.min(), on_host.max())
  return next((id_ for id_ in ends if not 0 <= id_ < size), None)
