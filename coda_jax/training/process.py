"""Keeps other processes out of a run's folder, and ends the run in order.

A scheduler that takes a machine back sends SIGTERM first, and kills later.
"""

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from coda_jax.training import hosts

_LOCK = ".lock"


@contextlib.contextmanager
def alone_in(
  folder: str | os.PathLike[str], name: str = "MODEL_DIR"
) -> Iterator[None]:
  """Keeps other runs of this machine out of a folder, which it makes.

  Of several processes that train together, the first holds the lock for all.
  The system frees it when the process ends, however it ends.

  Args:
    folder: of the run.
    name: of the macro that sets it, for the message.

  Raises:
    ValueError: another run is in it.
  """
  with contextlib.ExitStack() as stack:
    hosts.from_first(lambda: stack.enter_context(_locked(folder, name)))
    yield


@contextlib.contextmanager
def _locked(folder: str | os.PathLike[str], name: str) -> Iterator[None]:
  path = Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  with open(path / _LOCK, "a+") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      file.seek(0)
      raise ValueError(
        f"{name}={folder} is in use by process {file.read().strip()}; wait "
        f"until it has ended, or choose another {name}"
      ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    yield


class Stopped(Exception):
  """The process has been asked to end."""


class StopRequest:
  """Notices SIGTERM, so that a run can save before it ends.

  A context manager; outside it, and in other threads than the main one, the
  signal does what it did before. Of several processes that train together, all
  stop where one of them is asked to; jax then listens to the signal.

  Attributes:
    requested: whether the signal has come.
  """

  def __init__(self):
    self.requested = False
    self._raises = False
    self._together = jax.process_count() > 1

  def __enter__(self) -> "StopRequest":
    self._main = threading.current_thread() is threading.main_thread()
    self._main &= not self._together
    if self._main:
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *_: object) -> None:
    if self._main:
      signal.signal(signal.SIGTERM, self._previous)

  def after(self, step: int) -> bool:
    """Whether to stop after a step; the same in all processes.

    Args:
      step: the one that has been begun; asked once for each of them.
    """
    if self._together:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.requested

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """Inside, the signal raises `Stopped`: for long work that can be redone.

    So does one that came before it and has not been acted on. Several
    processes stop only after a step.
    """
    self._raises = True
    try:
      if self.requested:
        raise Stopped
      yield
    finally:
      self._raises = False

  @contextlib.contextmanager
  def losing_nothing(self) -> Iterator[None]:
    """Inside, the signal ends the process with code 0, whatever it is doing.

    For work before which everything was saved, and in which Python may not have
    a say for minutes: compiling. Several processes stop only after a step.
    """
    if not self._main:
      yield
      return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # The system's handler writes the signal's number there, at once.
    before = signal.set_wakeup_fd(writer)
    watcher = threading.Thread(target=_end_on_sigterm, args=(reader,))
    watcher.start()
    try:
      yield
    finally:
      signal.set_wakeup_fd(before)
      os.write(writer, b"\0")
      watcher.join()
      os.close(reader)
      os.close(writer)

  def _handle(self, *_: object) -> None:
    self.requested = True
    if self._raises:
      raise Stopped


def _end_on_sigterm(reader: int) -> None:
  """Reads signals' numbers until a 0."""
  while number := os.read(reader, 1)[0]:
    if number == signal.SIGTERM:
      print(
        "stopped by SIGTERM with nothing to save; the same command resumes "
        "from there",
        flush=True,
      )
      os._exit(0)
