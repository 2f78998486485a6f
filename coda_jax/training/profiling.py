"""How fast steps are: their rate, and a profile of some of them."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import jax


class Rate:
  """Steps a second, and the share of the time that went into waiting."""

  def __init__(self, step: int):
    self.reset(step)

  def reset(self, step: int) -> None:
    """Restarts the clock after `step`: earlier work does not count."""
    self._step, self._start, self._waited = step, time.perf_counter(), 0.0

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the body as waiting, such as for the next batch."""
    start = time.perf_counter()
    yield
    self._waited += time.perf_counter() - start

  def measure(self, step: int) -> tuple[float, float]:
    """(steps a second, share spent waiting); restarts the clock."""
    seconds = max(time.perf_counter() - self._start, 1e-9)
    rate, share = max(step - self._step, 1) / seconds, self._waited / seconds
    self.reset(step)
    return rate, share


class Profile:
  """Writes a profile of some steps for TensorBoard.

  A run that resumes or ends among these steps profiles only its own.
  """

  def __init__(self, model_dir: str | Path, steps: tuple[int, int] | None):
    """Prepares.

    Args:
      model_dir: of the run.
      steps: the first and the last, counted from 1; None for no profile.
    """
    self._folder = str(model_dir)
    self._first, self._last = steps or (0, 0)
    self._is_running = False

  @contextlib.contextmanager
  def step(self, step: int) -> Iterator[None]:
    """Around the work of a step."""
    if self._first <= step <= self._last and not self._is_running:
      jax.profiler.start_trace(self._folder)
      self._is_running = True
    yield
    if step == self._last:
      self.close()

  def close(self) -> None:
    """Writes the profile, if there is one that has not ended."""
    if self._is_running:
      jax.profiler.stop_trace()
      self._is_running = False
