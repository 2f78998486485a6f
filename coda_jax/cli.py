"""The command line of the gin-configured entry points.

Only this module, bindings, gin_constants and the entry points know gin; bad
input ends here, as one message on stderr and an exit code that is not 0.
"""

import argparse
import contextlib
import copy
import difflib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
from absl import logging

from coda_jax import bindings as bindings_lib

# Defines constants; a run's own config.gin names them without importing them.
from coda_jax import gin_constants  # noqa: F401

# Before tensorflow and its friends are imported: what they log is of no use to
# a user, and hides what is. What fails is raised too: orbax would log it first.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.set_verbosity(logging.FATAL)

# What gin raises for names, values and files that are wrong.
_GIN_ERRORS = (
  AttributeError,
  ImportError,
  NameError,
  OSError,
  RuntimeError,
  SyntaxError,
  TypeError,
  ValueError,
)


# Training takes these before its arguments come here; nothing else has them.
PROCESS_OPTIONS: Mapping[str, Mapping[str, Any]] = {
  "--distributed": {"action": "store_true"},
  "--coordinator_address": {},
  "--num_processes": {"type": int},
  "--process_id": {"type": int},
}


def run(
  function: Callable[..., Any],
  program: str,
  description: str | None,
  argv: Sequence[str] | None = None,
  *,
  instead: Callable[..., int] | None = None,
  on_failure: Callable[[str, int], None] | None = None,
) -> int:
  """Calls `function` with the bindings that the command line gives it.

  Args:
    function: a plain function; gin files bind it by its module's name.
    program: how it is called, for the usage message.
    description: for the usage message.
    argv: the arguments; None takes the process's.
    instead: called in the place of `function`, with those of its bindings that
      it has parameters for; returns the exit code.
    on_failure: told of an error that was reported, and of the exit code.

  Returns:
    The exit code: 0; 2 for bad input, which would fail again; or 1 for a loss
    that is not finite or a run that was interrupted.
  """
  explain = None

  def failed(error: BaseException, code: int) -> int:
    message = fail(error, program, explain)
    if on_failure:
      on_failure(message, code)
    return code

  try:
    set_by = configure(argv, program, description)
    explain = functools.partial(
      bindings_lib.explain, bindings=set_by, function=function.__name__
    )
    bound = configured(function)
    if instead is not None:
      bound = _with_bindings_of(function, instead)
  except _GIN_ERRORS as error:
    return failed(error, 2)
  try:
    result = bound()
  except (FloatingPointError, InterruptedError) as error:
    return failed(error, 1)
  except (ValueError, OSError, ModuleNotFoundError) as error:
    return failed(error, 2)
  return 0 if instead is None else result


def configure(
  argv: Sequence[str] | None, program: str, description: str | None
) -> bindings_lib.Bindings:
  """Parses the command line, its gin files and its bindings, in this order.

  Returns:
    Which file or flag set what.

  Raises:
    SystemExit: the command line itself is wrong (argparse).
    OSError, ValueError: see `parse_gin`.
  """
  parser = argparse.ArgumentParser(
    prog=program,
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog="--gin.NAME=VALUE binds a macro or a parameter, after the files.",
  )
  parser.add_argument("--gin_file", action="append", default=[], metavar="F")
  parser.add_argument(
    "--gin_search_paths", default="", metavar="A,B", help="searched first"
  )
  args, rest = parser.parse_known_args(argv)
  bindings = []
  for argument in rest:
    match = re.fullmatch(r"--gin\.([^=]+)=(.*)", argument, re.DOTALL)
    if argument.partition("=")[0] in PROCESS_OPTIONS:
      parser.error(
        f"{argument!r}: only python -m coda_jax.train runs in several "
        "processes; MESH shares the devices of this one"
      )
    if match is None:
      parser.error(f"{argument!r} is neither an option nor --gin.NAME=VALUE")
    bindings.append((match[1].strip(), quote(match[2])))
  if not args.gin_file:
    parser.error("--gin_file is required: --gin_file=experiments/NAME.gin")
  paths = [path for path in args.gin_search_paths.split(",") if path]
  parse_gin(args.gin_file, bindings, search_paths=paths)
  return bindings_lib.read(args.gin_file, bindings, _folders(paths))


def parse_gin(
  files: Sequence[str],
  bindings: Sequence[tuple[str, str]] = (),
  *,
  search_paths: Sequence[str] = (),
) -> None:
  """Clears gin's configuration and parses files, then bindings.

  Args:
    files: paths relative to the search paths: those given, the current folder,
      and the configurations that come with this package.
    bindings: (name, value as gin writes it).
    search_paths: further folders, searched first.

  Raises:
    OSError: a file that does not exist.
    ValueError: a name that nothing defines or uses, or a macro without a value.
  """
  gin.clear_config()
  # gin can only append to its search path, and would keep that of the last
  # call; and besides files it tries packages, logging each miss as an error.
  gin.config._LOCATION_PREFIXES[:] = _folders(search_paths)
  gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
  with quiet_imports():
    for file in files:
      gin.parse_config_file(file)
  for name, value in bindings:
    try:
      gin.parse_config(f"{name} = {value}")
    except SyntaxError as error:
      raise ValueError(
        f"--gin.{name}={value}: not a value that gin can read; expected a "
        "number, a word, a quoted string, a Python literal, %MACRO or "
        "@function()"
      ) from error
  check_macros([name for name, _ in bindings])
  gin.finalize()


def _folders(search_paths: Sequence[str]) -> list[str]:
  """Where gin files are looked for, in this order."""
  return [*search_paths, "", str(configs_dir())]


def configs_dir() -> Path:
  """The folder of gin files: in the wheel, or in the checkout."""
  package = Path(__file__).parent
  installed = package / "configs"
  return installed if installed.is_dir() else package.parent / "configs"


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
  """Drops stderr, where tensorflow reports its build while it is imported.

  No setting of tensorflow's stops that. What goes wrong is raised all the same.
  """
  saved = os.dup(2)
  with open(os.devnull, "wb") as null:
    os.dup2(null.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)


def quote(value: str) -> str:
  """Quotes a bare word, path or template, so that the shell's quotes do.

  `--gin.MODEL_DIR=runs/tiny` is then as good as
  `--gin.MODEL_DIR="'runs/tiny'"`. No other value of gin's begins like that.
  """
  word = re.fullmatch(
    r"-|([A-Za-z/~]|\.{1,2}/|\{[A-Za-z_]\w*\})[^'\"\n]*", value
  )
  if word and value not in ("True", "False", "None"):
    return repr(value)
  return value


def check_macros(given: Sequence[str]) -> None:
  """Refuses macros that are used but not set, or set but not used.

  Args:
    given: names bound on the command line.

  Raises:
    ValueError: naming them.
  """
  # Without strings, where a % would be no macro.
  text = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", gin.config_str())
  used = set(re.findall(r"%([A-Za-z_]\w*)(?![\w.])", text))
  bound = set(re.findall(r"^(\w+) = (?!%gin\.REQUIRED)", text, re.MULTILINE))
  for name in given:
    if "." not in name and name not in used:
      close = difflib.get_close_matches(name, used, n=1)
      hint = f"did you mean {close[0]}?" if close else f"known: {sorted(used)}"
      raise ValueError(f"no gin file uses the macro {name}; {hint}")
  if missing := sorted(used - bound):
    flags = " ".join(f"--gin.{name}=..." for name in missing)
    raise ValueError(
      f"required macros are not set: {', '.join(missing)}; add {flags}, or the "
      "gin file that sets them (see the header of the run's gin file)"
    )


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
  """The function with gin's bindings.

  Raises:
    ValueError: nothing is bound.
  """
  try:
    bound = gin.get_bindings(function, resolve_references=False)
  except (KeyError, ValueError):  # Not even named.
    bound = {}
  if not bound:
    raise ValueError(
      f"the gin files bind no parameter of {function.__module__}."
      f"{function.__qualname__}; add the file of runs/ for it, such as "
      "runs/finetune.gin for training"
    )
  return gin.get_configurable(function)


def _with_bindings_of(
  function: Callable[..., Any], instead: Callable[..., int]
) -> Callable[[], int]:
  """Another function, given what gin binds of the first one's parameters."""
  names = inspect.signature(instead).parameters
  bound = gin.get_bindings(function, resolve_references=False)
  # A copy is how gin makes what a reference stands for; only of what is used,
  # so that no task is registered and no data are asked for.
  return functools.partial(
    instead,
    **{name: copy.deepcopy(x) for name, x in bound.items() if name in names},
  )


def write_config(macro: str) -> None:
  """Writes `config.gin`, which describes the run by itself.

  Args:
    macro: the one whose value is the run's folder, such as "MODEL_DIR".
  """
  folder = Path(gin.query_parameter(f"{macro}/gin.macro.value"))
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.gin").write_text(gin.config_str())


def fail(
  error: BaseException,
  program: str,
  explain: Callable[[str], str] | None = None,
) -> str:
  """Reports an error on stderr in one message, and returns the message.

  Args:
    error: to report.
    program: that failed.
    explain: makes the message of the error's text.
  """
  if os.environ.get("CODA_JAX_TRACEBACK"):
    raise error
  message = explain(str(error)) if explain else str(error).strip()
  if isinstance(error, ModuleNotFoundError) and "pip install" not in message:
    message += "; install what training needs: pip install 'coda_jax[train]'"
  print(
    f"{program}: {message}\n"
    "(for the traceback, set CODA_JAX_TRACEBACK=1 in the environment)",
    file=sys.stderr,
    flush=True,
  )
  return message
