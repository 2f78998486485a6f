import os
import signal
import subprocess
import sys
import threading

import pytest

from coda_jax.training.process import Stopped, StopRequest, alone_in

HOLD = """
import sys, time
from coda_jax.training.process import alone_in
with alone_in(sys.argv[1]):
  print("in", flush=True)
  time.sleep(60)
"""


def test_one_process_a_folder(tmp_path):
  folder = tmp_path / "run"
  with subprocess.Popen(
    [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE
  ) as other:
    assert other.stdout.readline() == b"in\n"
    with pytest.raises(ValueError, match=f"in use by process {other.pid};"):
      with alone_in(folder):
        pass
    other.kill()
  # A killed process holds nothing.
  for _ in range(2):
    with alone_in(folder):
      assert (folder / ".lock").read_text() == str(os.getpid())


def test_sigterm_is_noticed():
  before = signal.getsignal(signal.SIGTERM)
  with StopRequest() as stop:
    assert not stop.requested
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested
  assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_interrupts_what_can_be_redone():
  with StopRequest() as stop:
    with pytest.raises(Stopped), stop.at_once():
      signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    signal.raise_signal(signal.SIGTERM)  # outside again: only noticed


def test_a_signal_just_before_long_work_prevents_it():
  with StopRequest() as stop:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped), stop.at_once():
      raise AssertionError("begun all the same")


def test_other_threads_leave_signals_alone():
  def run():
    with StopRequest() as stop:
      found.append(stop.requested)

  found = []
  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert found == [False]


# Sleeps where Python has no say, as a compiler would.
COMPILE = """
import ctypes
from coda_jax.training.process import StopRequest
with StopRequest() as stop:
  with stop.losing_nothing():
    print("in", flush=True)
    ctypes.CDLL(None).poll(None, 0, 60_000)
    while True:  # poll ends at a signal, and the handler has only noticed it.
      ctypes.CDLL(None).poll(None, 0, 60_000)
"""


def test_sigterm_ends_what_does_not_come_back():
  with subprocess.Popen(
    [sys.executable, "-c", COMPILE], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "in\n"
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=30)[0]
  assert process.returncode == 0
  assert "stopped by SIGTERM with nothing to save" in out


def test_afterwards_the_signal_is_only_noticed():
  with StopRequest() as stop:
    with stop.losing_nothing():
      pass
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested
  assert signal.set_wakeup_fd(-1) == -1
