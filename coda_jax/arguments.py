"""Checks of the arguments of train, evaluate and infer.

Gin binds whatever a user writes. Without a check, a wrong value would fail at
its first use: late, or without naming the argument.
"""

import math
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn

from coda_jax import decoding, quantization
from coda_jax.checkpoints.leaves import DTYPES
from coda_jax.nn.checks import compute_dtype

# Which of two results of an evaluation is better.
BEST_MODES = ("max", "min")


class Kind(NamedTuple):
  """The values that an argument may have.

  Attributes:
    expected: in words.
    fits: whether a value is that.
  """

  expected: str
  fits: Callable[[Any], bool]


def check(arguments: Mapping[str, Any]) -> None:
  """Checks the arguments that are known here, before anything is built.

  Args:
    arguments: of a function, by name.

  Raises:
    ValueError: naming the macro, or the argument if it has none.
  """
  for name, kind in _KINDS.items():
    if name in arguments and not kind.fits(arguments[name]):
      shown = _SHOWN.get(name, name.upper())
      raise ValueError(f"{shown}={arguments[name]!r}; expected {kind.expected}")
  if "dtype" in arguments:
    compute_dtype(arguments["dtype"])
  batch_size, parts = arguments.get("batch_size"), arguments.get("microbatches")
  if parts and batch_size % parts:
    raise ValueError(
      f"batch_size={batch_size} does not divide into microbatches={parts}; "
      "choose a divisor"
    )
  check_generate(arguments.get("generate") or {})


def check_generate(
  generate: Mapping[str, Any], source: str = "GENERATE has "
) -> None:
  """Checks what a program may give `coda_jax.generate`.

  Args:
    generate: arguments of `coda_jax.generate`, by name.
    source: where they are from, to start a message with.

  Raises:
    ValueError: naming the argument; or it is method "sample".
  """
  for name, value in generate.items():
    if name not in _GENERATE:
      raise ValueError(
        f"{source}{name!r}; expected some of {sorted(_GENERATE)}, the "
        "arguments of coda_jax.generate"
      )
    kind = _GENERATE[name]
    if not kind.fits(value):
      raise ValueError(f"{source}{name}={value!r}; expected {kind.expected}")


def _is_whole(value: Any) -> bool:
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
  # Neither NaN nor infinity is a valid setting.
  is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return is_real and math.isfinite(value)


def _is_sequence(value: Any) -> bool:
  return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_path(value: Any) -> bool:
  return isinstance(value, str | os.PathLike) and bool(os.fspath(value))


def _is_pattern(value: Any) -> bool:
  try:
    re.compile(value)
  except (TypeError, re.error):
    return False
  return isinstance(value, str)


def _are_lengths(value: Any) -> bool:
  return (
    isinstance(value, Mapping)
    and "inputs" in value
    and value.keys() <= {"inputs", "targets"}
    and all(map(_COUNT.fits, value.values()))
  )


def _are_labels(value: Sequence[Any]) -> bool:
  return all(isinstance(x, str) and x for x in value) and len(
    set(value)
  ) == len(value)


def _are_steps(value: Any) -> bool:
  if not _is_sequence(value) or len(value) != 2:
    return False
  return all(map(_COUNT.fits, value)) and value[0] <= value[1]


def _whole(least: int) -> Kind:
  return Kind(
    f"a whole number, {least} or more",
    lambda value: _is_whole(value) and value >= least,
  )


def _number(least: float) -> Kind:
  return Kind(
    f"a number, {least} or more",
    lambda value: _is_number(value) and value >= least,
  )


def _one_of(choices: Sequence[str]) -> Kind:
  return Kind(
    f"one of {tuple(choices)}",
    lambda value: isinstance(value, str) and value in choices,
  )


def _optional(kind: Kind) -> Kind:
  return Kind(
    f"{kind.expected}, or None",
    lambda value: value is None or kind.fits(value),
  )


_COUNT, _PERIOD, _REDUCTION = _whole(1), _whole(0), _number(1)
_PATH = Kind("a path", _is_path)
_LOCAL = Kind(
  "a path of this machine's file system, such as the folder where a bucket is "
  "mounted",
  lambda value: _is_path(value) and "://" not in os.fspath(value),
)
_TEXT = Kind("a text", lambda value: isinstance(value, str))
_FLAG = Kind("True or False", lambda value: isinstance(value, bool))
_SHARE = Kind(
  "0 or more, below 1", lambda value: _is_number(value) and 0 <= value < 1
)

_KINDS = {
  # What is made, and where.
  "model": Kind(
    "a model, such as @network.Transformer()",
    lambda value: isinstance(value, nn.Module),
  ),
  "objective": Kind(
    "an objective, such as @seq2seq.Seq2Seq()",
    lambda value: callable(getattr(value, "sums", None)),
  ),
  "model_dir": _LOCAL,
  "checkpoint_path": _PATH,
  "initial_checkpoint_path": _optional(_PATH),
  "eval_output_dir": _LOCAL,
  "infer_output_dir": _LOCAL,
  "save_dtype": _one_of(DTYPES),
  "frozen_dtype": _one_of(DTYPES),
  # Data.
  "mixture_or_task_name": _optional(_TEXT),
  "split": _TEXT,
  "eval_split": _TEXT,
  "path": _LOCAL,
  "input_template": _TEXT,
  "target_template": _optional(_TEXT),
  "pair_template": _optional(_TEXT),
  "skip_bad_rows": _FLAG,
  "task_feature_lengths": Kind(
    "{'inputs': n, 'targets': m}, each a positive whole number; the first "
    "alone where a task has no targets",
    _are_lengths,
  ),
  "batch_size": _COUNT,
  "eval_batch_size": _optional(_COUNT),
  "eval_examples": _optional(_COUNT),
  "num_examples": _optional(_COUNT),
  "pack": _FLAG,
  "window": _COUNT,
  # Training.
  "train_steps": _COUNT,
  "warmup_steps": _PERIOD,
  "peak": _number(0),
  "learning_rate": Kind("a schedule, such as @optimizers.constant()", callable),
  "optimizer": Kind("an optimizer, such as @optimizers.adafactor", callable),
  "trained_patterns": Kind(
    "regular expressions, such as %params.TASK_PATTERNS",
    lambda value: _is_sequence(value) and all(map(_is_pattern, value)),
  ),
  "seed": _whole(0),
  # Objectives.
  "z_loss": _number(0),
  "label_smoothing": _SHARE,
  "generate": _optional(
    Kind(
      "arguments of coda_jax.generate, such as {'method': 'beam'}",
      lambda value: isinstance(value, Mapping),
    )
  ),
  "labels": Kind(
    "the texts of a task's targets in brackets, each once, such as ('no', "
    "'yes')",
    lambda value: _is_sequence(value) and bool(value) and _are_labels(value),
  ),
  # The loop.
  "microbatches": _COUNT,
  "router_start_batches": _PERIOD,
  "mesh": _optional(
    Kind(
      "{'data': n, 'fsdp': m}, how many devices each",
      lambda value: isinstance(value, Mapping),
    )
  ),
  "log_period": _PERIOD,
  "eval_period": _PERIOD,
  "checkpoint_period": _PERIOD,
  "keep": _COUNT,
  "best_metric": _optional(_TEXT),
  "best_mode": _one_of(BEST_MODES),
  "early_stop_steps": _optional(_COUNT),
  "profile_steps": _optional(
    Kind("(first, last) steps, counted from 1", _are_steps)
  ),
  "predict": _FLAG,
  # Running a model.
  "reduction": _optional(_REDUCTION),
  "reductions": _optional(
    Kind(
      "numbers, 1 or more, in brackets, such as (1, 2, 3, 5, 8)",
      lambda value: _is_sequence(value) and all(map(_REDUCTION.fits, value)),
    )
  ),
  "weights": Kind(
    f"some of {quantization.WEIGHTS}, such as ('float',)",
    lambda value: (
      _is_sequence(value) and all(w in quantization.WEIGHTS for w in value)
    ),
  ),
  "metric": _optional(_TEXT),
  "repeats": _PERIOD,
}

# Arguments whose macros have other names, and those without one.
_SHOWN = {
  "num_examples": "EVAL_EXAMPLES",
  "path": "INPUT_PATH",
  "repeats": "TIMING_REPEATS",
  "trained_patterns": "TRAINED",
  "window": "predict.infer.window",
} | {
  name: f"loop.train.{name}"
  for name in (
    "best_mode",
    "eval_batch_size",
    "eval_split",
    "keep",
    "pack",
    "predict",
    "profile_steps",
  )
}

_GENERATE = {
  "method": Kind(
    f"one of {decoding.DETERMINISTIC}, which give the same answers each time; "
    "to draw samples, call coda_jax.generate with an rng",
    lambda value: isinstance(value, str) and value in decoding.DETERMINISTIC,
  ),
  "temperature": _number(0),
  "top_k": _optional(_COUNT),
  "top_p": _optional(
    Kind("in (0, 1]", lambda value: _is_number(value) and 0 < value <= 1)
  ),
  "num_beams": _COUNT,
  "alpha": _number(0),
  "eos_id": Kind("a whole number", _is_whole),
}
