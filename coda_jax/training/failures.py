"""The cause of a failure, told by the process that fails to all others.

Without it they wait in a collective that never ends, until jax aborts them
with a message that does not know the cause. It goes through jax's coordination
service, since the main thread of the others may be in that collective.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
from jax._src import distributed

_KEY = "coda_jax/failure"

# Seconds: between two looks at the key; for a process to report an error of its
# own, such as one that all have; and for the others to end before the first.
_PERIOD, _GRACE, _STAY = 0.5, 2.0, 5.0


def tell(message: str, code: int) -> None:
  """Tells the other processes; only the first failure of all is kept.

  Args:
    message: the cause.
    code: the exit code of all processes.
  """
  told = {"process": jax.process_index(), "code": code, "message": message}
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    _client().key_value_set(_KEY, json.dumps(told))


def cause() -> tuple[str, int] | None:
  """A message on what another process has told, and its exit code."""
  try:
    told = json.loads(_client().key_value_try_get(_KEY))
  except jax.errors.JaxRuntimeError:  # Nothing yet, or the service is gone.
    return None
  if told["process"] == jax.process_index():
    return None
  message = (
    f"process {jax.process_index()} of {jax.process_count()} ends: process "
    f"{told['process']} failed: {told['message']}"
  )
  return message, told["code"]


@contextlib.contextmanager
def watched() -> Iterator[None]:
  """Ends this process, with the cause, once another one has failed."""
  stop = threading.Event()

  def watch() -> None:
    while not stop.wait(_PERIOD):
      failure = cause()
      if failure and not stop.wait(_GRACE):
        print(failure[0], file=sys.stderr)
        end(failure[1])

  thread = threading.Thread(target=watch, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stop.set()
    thread.join()


def end(code: int) -> NoReturn:
  """Ends the process without jax, which would wait for the others, or abort.

  The first process runs the service: it stays until the others have ended.
  """
  sys.stdout.flush()
  sys.stderr.flush()
  if jax.process_index() == 0:
    time.sleep(_STAY)
  os._exit(code)


def _client() -> Any:
  return distributed.global_state.client
