"""`--compile_for` of the entry points: what a run would need on a TPU slice."""

import argparse
import dataclasses
import functools
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from coda_jax import arguments, backbones, cli
from coda_jax import params as params_lib
from coda_jax.checkpoints import files, folders
from coda_jax.compiling import estimate, plan, programs, variants
from coda_jax.formatting import format_seconds
from coda_jax.objectives import Objective
from coda_jax.objectives.classify import Classify
from coda_jax.objectives.of_model import objective_of
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import optimizers, setup

# Options of the entry points that only make sense where something runs.
_RUNNING = ("--dry_run", *cli.PROCESS_OPTIONS)


@dataclasses.dataclass(frozen=True)
class Options:
  """The options that the command line gives.

  Attributes:
    slices: such as ("v5e:2x4", "v5e:4x4").
    methods: of `variants.METHODS`; none takes the run's own.
    reductions: r of the methods that route; none takes the run's own.
    json_path: file to write the rows to, or None.
  """

  slices: tuple[str, ...]
  methods: tuple[str, ...] = ()
  reductions: tuple[float, ...] = ()
  json_path: str | None = None


def run(
  function: Callable[..., Any],
  compile_it: Callable[..., int],
  program: str,
  description: str | None,
  argv: Sequence[str] | None,
  otherwise: Callable[[Sequence[str]], int] | None = None,
) -> int:
  """Runs an entry point or, with --compile_for, compiles its programs.

  Args:
    function: the function that the entry point runs; see `cli.run`.
    compile_it: takes `Options`, and those arguments of `function` it needs.
    program: how the entry point is called.
    description: for its usage message.
    argv: the arguments; None takes the process's.
    otherwise: runs the arguments without --compile_for; by default, `cli.run`
      of `function` does.

  Returns:
    The exit code.
  """
  options, rest = take(sys.argv[1:] if argv is None else argv)
  if options:
    instead = functools.partial(compile_it, options)
    return cli.run(function, program, description, rest, instead=instead)
  if otherwise:
    return otherwise(rest)
  return cli.run(function, program, description, rest)


def take(argv: Sequence[str]) -> tuple[Options | None, list[str]]:
  """Takes these options from a command line.

  Args:
    argv: the arguments.

  Returns:
    The options, None without --compile_for; and the arguments that are left.

  Raises:
    SystemExit: options that can't be read, or not together (argparse).
  """
  parser = argparse.ArgumentParser(
    prog="--compile_for",
    usage="--compile_for=v5e:2x2,v5e:2x4 [--compile_methods=full,coda] "
    "[--compile_reductions=3,5] [--compile_json=FILE]",
    add_help=False,
    allow_abbrev=False,
  )
  parser.add_argument("--compile_for", type=_words)
  parser.add_argument("--compile_methods", type=_words)
  parser.add_argument("--compile_reductions", type=_numbers)
  parser.add_argument("--compile_json")
  flags, rest = parser.parse_known_args(argv)
  given = [f"--{name}" for name, x in vars(flags).items() if x is not None]
  if flags.compile_for is None:
    if given:
      parser.error(f"{given[0]} needs --compile_for, which says what for")
    return None, list(argv)
  for word in rest:
    if word.partition("=")[0] in _RUNNING:
      parser.error(
        f"{word!r} does not go with --compile_for, which runs nothing, and "
        "compiles for all processes in one"
      )
  return Options(
    flags.compile_for,
    flags.compile_methods or (),
    flags.compile_reductions or (),
    flags.compile_json,
  ), rest


def compile_training(
  options: Options,
  *,
  model: nn.Module,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  learning_rate: optimizers.Schedule,
  optimizer: optimizers.Optimizer = optimizers.adafactor,
  trained_patterns: Sequence[str] = params_lib.ALL_PATTERNS,
  frozen_dtype: str = "float32",
  reductions: Sequence[float] = (),
  objective: Objective = Seq2Seq(),
  microbatches: int = 1,
  mesh: Mapping[str, int] | None = None,
  initial_checkpoint_path: str | None = None,
) -> int:
  """Compiles a step of `loop.train`, whose arguments these are."""
  arguments.check(locals())
  try:
    model, lines = setup.inherit(model, initial_checkpoint_path)
  except FileNotFoundError:  # Compiling needs no parameters.
    lines = [
      f"INITIAL_CHECKPOINT_PATH={initial_checkpoint_path} does not exist here; "
      "compiling the model of the gin files"
    ]
  for line in lines:
    print(line)
  shapes = _shapes(task_feature_lengths, batch_size)

  def step(variant: variants.Variant, mesh: Any) -> jax.stages.Traced:
    return programs.train_step(
      variant.model,
      mesh,
      optimizer(learning_rate),
      objective=objective,
      trained_patterns=variant.trained_patterns,
      **shapes,
      frozen_dtype=frozen_dtype,
      microbatches=microbatches,
    )

  given = variants.as_given(model, trained_patterns, reductions)
  return _run(
    options,
    model,
    given,
    {"train": step},
    mesh,
    {"batch_size / microbatches": batch_size // microbatches},
  )


def compile_evaluation(
  options: Options,
  *,
  checkpoint_path: str,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  initial_checkpoint_path: str | None = None,
  reductions: Sequence[float] | None = None,
  objective: Objective = Seq2Seq(),
  dtype: str = "float32",
  mesh: Mapping[str, int] | None = None,
) -> int:
  """Compiles what `evaluate.evaluate`, whose arguments these are, runs."""
  arguments.check(locals())
  given = {"objective": objective, **_shapes(task_feature_lengths, batch_size)}
  model = _model(checkpoint_path, initial_checkpoint_path, dtype)
  return _run(
    options,
    model,
    variants.as_given(model, reductions=reductions or ()),
    {
      "loss": lambda one, mesh: programs.eval_step(one.model, mesh, **given),
      "predict": lambda one, mesh: programs.predict(one.model, mesh, **given),
    },
    mesh,
    {"batch_size": batch_size},
  )


def compile_inference(
  options: Options,
  *,
  checkpoint_path: str,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  initial_checkpoint_path: str | None = None,
  reduction: float | None = None,
  mode: str = "predict",
  generate: Mapping[str, Any] | None = None,
  dtype: str = "float32",
  mesh: Mapping[str, int] | None = None,
) -> int:
  """Compiles what `predict.infer`, whose arguments these are, runs."""
  arguments.check(locals())
  shapes = _shapes(task_feature_lengths, batch_size)
  model = _model(checkpoint_path, initial_checkpoint_path, dtype)
  own = [] if reduction is None else [reduction]
  objective = objective_of(model.config)
  run = {
    "predict": lambda one, mesh: programs.generate(
      one.model, mesh, **shapes, **(generate or {})
    ),
    "score": lambda one, mesh: programs.score(one.model, mesh, **shapes),
  }
  if isinstance(objective, Classify):
    run = {
      "predict": lambda one, mesh: programs.predict(
        one.model, mesh, objective=objective, **shapes
      )
    }
  if mode not in run:
    raise ValueError(f"MODE={mode!r}; expected one of {tuple(run)}")
  given = variants.as_given(model, reductions=own)
  return _run(
    options,
    model,
    given,
    {mode: run[mode]},
    mesh,
    {"batch_size": batch_size},
  )


def _run(
  options: Options,
  model: nn.Module,
  given: Sequence[variants.Variant],
  to_compile: plan.Programs,
  mesh: Mapping[str, int] | None,
  batches: Mapping[str, int],
) -> int:
  """Compiles, prints and writes; returns the exit code."""
  if options.json_path:
    _check_writable(pathlib.Path(options.json_path))
  # No device is used; and a TPU that is at hand stays free.
  jax.config.update("jax_platforms", "cpu")
  if options.methods or options.reductions:
    methods = options.methods or [given[0].method]
    given = variants.by_methods(model, methods, options.reductions)
  mesh = mesh or {"data": -1}
  rows = []
  for row in plan.compile_for(options.slices, given, to_compile, mesh, batches):
    rows.append(row)
    took = format_seconds(row["compile_seconds"])
    print(
      f"{row['program']} of {row['method']}, r = {row['reductions']}, "
      f"{row['slice']}: compiled in {took}",
      flush=True,
    )
    if options.json_path:  # Each may take minutes, and the next one fail.
      files.write_json(
        pathlib.Path(options.json_path), {"note": estimate.NOTE, "rows": rows}
      )
  print(estimate.table(rows))
  if exchanged := estimate.collectives(rows):
    print(f"\n{exchanged}\n")
  print("\n".join(plan.summary(rows, options.slices)))
  print(estimate.NOTE)
  return 0 if plan.all_fit(rows) else 1


def _model(path: str, backbone_path: str | None, dtype: str) -> nn.Module:
  """The model of the first checkpoint at `path`, without its parameters."""
  config = folders.read_config(folders.find(path)[0], backbone_path)
  return backbones.build(dataclasses.replace(config, dtype=dtype))


def _shapes(lengths: Mapping[str, int], batch_size: int) -> dict[str, Any]:
  """The arguments of every program that describe the data."""
  return {"task_feature_lengths": lengths, "batch_size": batch_size}


def _check_writable(path: pathlib.Path) -> None:
  """Before compiling takes its minutes, for what it finds would be lost."""
  try:
    if path.is_dir():
      raise IsADirectoryError("it is a folder; name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=path.parent).close()
  except OSError as error:
    raise OSError(f"--compile_json={path} can't be written: {error}") from error


def _words(text: str) -> tuple[str, ...]:
  words = tuple(word.strip() for word in text.split(",") if word.strip())
  if not words:
    raise argparse.ArgumentTypeError("is empty; expected one or more, as A,B")
  return words


def _numbers(text: str) -> tuple[float, ...]:
  try:
    return tuple(float(word) for word in _words(text))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"is {text!r}; expected numbers, such as 3,5,8"
    ) from None
