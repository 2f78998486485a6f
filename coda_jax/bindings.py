"""Which gin file or flag set a value, so that an error can say so.

gin keeps values, not where they come from. So the files are parsed once more,
with gin's own parser, for names, values and places alone.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gin import config_parser

_LONGEST_VALUE = 60


class Reference(str):
  """A %MACRO or a @function(), as it is written."""

  __repr__ = str.__str__


class Binding(NamedTuple):
  """A value that a file or a flag set.

  Attributes:
    name: of the macro, or of a parameter as it is written there.
    value: with a `Reference` for what gin would replace.
    place: such as "in schedules/adapter.gin" or "on the command line".
  """

  name: str
  value: Any
  place: str

  def __str__(self) -> str:
    value = repr(self.value)
    if len(value) > _LONGEST_VALUE:
      value = f"{value[:_LONGEST_VALUE]}..."
    return f"{self.name} = {value} {self.place}"


# Keys are macros, or "function.parameter", after "scope/" if it has one. They
# leave out the function's module, which files name in several ways.
Bindings = Mapping[str, Binding]


def read(
  files: Sequence[str],
  flags: Sequence[tuple[str, str]],
  folders: Sequence[str],
) -> Bindings:
  """The binding of each name that holds at the end.

  Args:
    files: gin files, in their order.
    flags: (name, value as gin writes it), after the files.
    folders: where files are looked for, in this order.
  """
  bindings = {}
  for file in files:
    bindings |= _of_file(file, folders)
  for name, value in flags:
    statements = _statements(f"{name} = {value}")
    bindings |= _of_statement(next(statements), "on the command line")
  return bindings


def explain(error: str, bindings: Bindings, function: str) -> str:
  """An error's first message, with the places that set what it names.

  Args:
    error: the text of an exception, with what gin adds to it: the functions
      that it was calling.
    bindings: of `read`.
    function: the name of the outermost function.

  Returns:
    The message without what gin adds, and after it, in brackets, each macro
    whose value it mentions and each one that sets a parameter that it names.
  """
  message, *calls = re.split(r"\n\s*In call to configurable ", error)
  message = message.strip()
  known = {key.rpartition(".")[0] for key in bindings}
  functions = [name for call in calls for name in _names(call)]
  functions += [name for name in re.findall(r"\w+", message) if name in known]
  functions.append(function)
  keys = _named(message, bindings, functions)
  keys = keys or _quoted(message, bindings, functions)
  found = dict.fromkeys(str(_source(key, bindings)) for key in keys)
  return f"{message} ({', '.join(found)})" if found else message


def _named(
  message: str, bindings: Bindings, functions: Sequence[str]
) -> list[str]:
  """The keys that a message names, in its order, such as by "steps=12"."""
  found = []
  for match in re.finditer(r"[A-Za-z_][\w.]*", message):
    *owner, name = match[0].strip(".").split(".")[-2:]
    after = message[match.end() :]
    keys = []
    if owner:
      keys = [f"{owner[0]}.{name}"]
    elif name.isupper() and re.match(r"\s?[=[]| / | is | has ", after):
      # First the parameter, which may be set to something else than the macro.
      keys = [*(f"{owner}.{name.lower()}" for owner in functions), name]
    elif re.match(r"\s?=| / ", after):
      keys = [f"{owner}.{name}" for owner in functions]
    found += [key for key in keys if key in bindings][:1]
  return found


def _quoted(
  message: str, bindings: Bindings, functions: Sequence[str]
) -> list[str]:
  """The keys of texts that a message quotes, before what it expected."""
  wrong = message.partition("expected")[0]

  def is_quoted(key: str) -> bool:
    value = _source(key, bindings).value
    return type(value) is str and repr(value) in wrong

  return [
    key
    for key in bindings
    if key.rpartition(".")[0] in functions and is_quoted(key)
  ]


def _source(key: str, bindings: Bindings) -> Binding:
  """The binding that a value comes from: that of the macro, if it is one."""
  binding = bindings[key]
  while isinstance(binding.value, Reference):
    macro = binding.value.removeprefix("%")
    if macro not in bindings:
      break
    binding = bindings[macro]
  return binding


def _names(call: str) -> list[str]:
  """The function that gin was calling, in its scope and without."""
  name = re.match(r"'([^']*)'", call)[1].rpartition(".")[2]
  scope = re.search(r"in scope '([^']*)'", call)
  return [f"{scope[1]}/{name}", name] if scope else [name]


def _of_file(file: str, folders: Sequence[str]) -> Bindings:
  bindings = {}
  paths = (os.path.join(folder, file) for folder in folders)
  with open(next(path for path in paths if os.path.isfile(path))) as opened:
    for statement in _statements(opened.read()):
      if isinstance(statement, config_parser.IncludeStatement):
        bindings |= _of_file(statement.filename, folders)
      elif isinstance(statement, config_parser.BindingStatement):
        bindings |= _of_statement(statement, f"in {file}")
  return bindings


def _of_statement(
  statement: config_parser.BindingStatement, place: str
) -> Bindings:
  scope = f"{statement.scope}/" if statement.scope else ""
  name = key = f"{scope}{statement.selector}"
  if statement.arg_name:
    name = f"{name}.{statement.arg_name}"
    function = statement.selector.rpartition(".")[2]
    key = f"{scope}{function}.{statement.arg_name}"
  return {key: Binding(name, statement.value, place)}


def _statements(text: str) -> Iterator[Any]:
  return iter(config_parser.ConfigParser(text, _AsWritten()))


class _AsWritten(config_parser.ParserDelegate):
  """Keeps references as they are written, whatever they refer to."""

  def configurable_reference(self, scoped_configurable_name, evaluate):
    return Reference(f"@{scoped_configurable_name}{'()' if evaluate else ''}")

  def macro(self, macro_name):
    return Reference(f"%{macro_name}")
