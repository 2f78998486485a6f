"""Checks of a configuration's values: each error names the field."""

from typing import Any

import jax.numpy as jnp


def compute_dtype(dtype: Any) -> jnp.dtype:
  """The dtype to compute in; refuses those that would overflow.

  Raises:
    ValueError: `dtype` is None, float16 or not a floating-point type.
  """
  if dtype is None:  # NumPy takes None for float64.
    raise ValueError("dtype=None; expected bfloat16 or float32")
  try:
    dtype = jnp.dtype(dtype)
  except TypeError:
    raise ValueError(
      f"dtype={dtype!r} is not known; use bfloat16 or float32"
    ) from None
  if dtype == jnp.float16:
    raise ValueError(
      "dtype=float16 is refused: T5's activations, and those of other models, "
      "exceed its largest value, 65504, and turn into NaN; use bfloat16 or "
      "float32"
    )
  if not jnp.issubdtype(dtype, jnp.floating):
    raise ValueError(
      f"dtype={dtype} is not floating-point; use bfloat16 or float32"
    )
  return dtype


def check_whole(field: str, value: Any, least: int) -> None:
  """Refuses what is not a whole number, or too small.

  Raises:
    ValueError: naming the field.
  """
  if type(value) is not int or value < least:
    raise ValueError(
      f"{field}={value!r}; expected a whole number, {least} or more"
    )


def check_rate(field: str, value: Any) -> None:
  """Refuses what is not a rate of dropout.

  Raises:
    ValueError: naming the field.
  """
  if not (isinstance(value, int | float) and 0 <= value < 1):
    raise ValueError(f"{field}={value!r}; expected 0 or more, below 1")


def check_choice(field: str, value: Any, choices: tuple[Any, ...]) -> None:
  """Refuses what is not one of the choices.

  Raises:
    ValueError: naming the field.
  """
  if value not in choices:
    raise ValueError(f"{field}={value!r}; expected one of {choices}")
