"""Several processes that train one model: starting them, and agreeing.

All processes run the same program on the same arguments, and meet in what they
compute. The first alone writes and prints; what only it can know, it tells.
"""

import contextlib
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from coda_jax import params as params_lib
from coda_jax.training import failures

# Seconds without a heartbeat before a process counts as lost.
_PATIENCE = 30

_DONE, _FAILED = -1, -2
_ERRORS = {"OSError": OSError, "ValueError": ValueError}


@contextlib.contextmanager
def joined(
  address: str | None = None,
  count: int | None = None,
  index: int | None = None,
) -> Iterator[None]:
  """Makes this process one of several, until the body ends.

  If another one is lost, it says so and ends the process with code 1: the data
  on the others can't be used any more, nor waited for. If another one fails, it
  says why and ends the process with the other one's exit code.

  Args:
    address: HOST:PORT of the first process; None asks the platform, as TPU pods
      and Slurm can tell.
    count: number of processes; None asks the platform.
    index: this process's, from 0; None asks the platform.

  Raises:
    ValueError: `address` is not HOST:PORT.
    ConnectionError: the processes can't be found, or do not fit together.
  """
  if address is not None and not re.fullmatch(r".+:\d+", address):
    raise ValueError(
      f"--coordinator_address={address}; expected HOST:PORT of the first "
      "process, such as host0:1234"
    )
  try:
    jax.distributed.initialize(
      address,
      count,
      index,
      initialization_timeout=10 * _PATIENCE,
      heartbeat_timeout_seconds=_PATIENCE,
      # On a busy machine a process that is alive may take long to end.
      shutdown_timeout_seconds=10 * _PATIENCE,
    )
  except (ValueError, RuntimeError) as error:
    raise ConnectionError(
      f"could not join the other processes: {error}; where the platform does "
      "not tell jax of them, give each the same --coordinator_address and "
      "--num_processes, and a --process_id of its own, from 0 on"
    ) from error
  try:
    with failures.watched():
      yield
  except jax.errors.JaxRuntimeError as error:
    known = failures.cause()
    lost = (
      f"process {jax.process_index()} of {jax.process_count()} ends: another "
      "process was lost, or the connection to it. Start all of them again, in "
      "any number, to resume from the last checkpoint. The first line of the "
      f"error: {str(error).splitlines()[0]}"
    )
    message, code = known or (lost, 1)
    print(message, file=sys.stderr)
    # No way back to the others: not even ending in order.
    failures.end(code)
  except Exception as error:
    traceback.print_exc()
    failures.tell(f"{type(error).__name__}: {error}", 1)
    failures.end(1)


def is_first() -> bool:
  """Whether this process is the one that writes and prints."""
  return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
  """Calls `make` in the first process; returns or raises the same in all.

  Args:
    make: called in the first process only; its result is what JSON can hold.

  Raises:
    OSError, ValueError: whatever `make` has raised of these.
  """
  if jax.process_count() == 1:
    return make()
  said: dict[str, Any] = {}
  if is_first():
    try:
      said = {"value": make()}
    except (OSError, ValueError) as error:
      kind = "OSError" if isinstance(error, OSError) else "ValueError"
      said = {"error": kind, "message": str(error)}
  encoded = np.frombuffer(json.dumps(said).encode(), np.uint8)
  size = int(_broadcast(np.int32(encoded.size)))
  if not is_first():
    encoded = np.zeros(size, np.uint8)
  said = json.loads(_broadcast(encoded).tobytes())
  if "error" in said:
    raise _ERRORS[said["error"]](said["message"])
  return said["value"]


def fetch(array: Any) -> np.ndarray:
  """A whole array in every process, whichever of them hold it.

  Where it is not in each process, all of them must ask for it.
  """
  if not (array.is_fully_addressable or array.is_fully_replicated):
    everywhere = NamedSharding(array.sharding.mesh, PartitionSpec())
    array = jax.jit(lambda x: x, out_shardings=everywhere)(array)
  return np.asarray(array)


def write_together(
  params: params_lib.Params, write: Callable[[Mapping[str, Any]], None]
) -> None:
  """Has the first process write parameters that all of them hold.

  All processes call it. One leaf at a time comes together, when `write` asks
  for it; no process ever holds all.

  Args:
    params: nested mapping of arrays.
    write: called in the first process, with a tree of what NumPy can make
      arrays of.

  Raises:
    OSError: the first process could not write.
  """
  if jax.process_count() == 1:
    write(params)
    return
  leaves = list(params_lib.flatten(params).items())
  if is_first():
    end = _FAILED
    try:
      write(
        params_lib.unflatten(
          {path: _Shared(i, leaf) for i, (path, leaf) in enumerate(leaves)}
        )
      )
      end = _DONE
    finally:
      _broadcast(np.int32(end))
    return
  while (asked := int(_broadcast(np.int32(0)))) >= 0:
    fetch(leaves[asked][1])
  if asked == _FAILED:
    raise OSError("the first process could not save; it says why")


class _Shared:
  """An array that all processes hold, for the first one to read."""

  def __init__(self, number: int, array: jax.Array):
    self._number, self._array = number, array
    self.shape, self.dtype, self.size = array.shape, array.dtype, array.size

  def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
    _broadcast(np.int32(self._number))
    return np.asarray(fetch(self._array), dtype)


def _broadcast(value: Any) -> np.ndarray:
  return multihost_utils.broadcast_one_to_all(value)
