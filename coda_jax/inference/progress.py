"""The progress and the speed of inference, on standard error."""

import sys
import time


class Progress:
  """A bar on a terminal, a line every few seconds elsewhere.

  Rates are means over the whole, compiling included.
  """

  def __init__(self, *, done: int, bar: bool, period: float = 10.0):
    """Starts the clock.

    Args:
      done: how many inputs an earlier run has answered.
      bar: show a bar.
      period: seconds between lines.
    """
    from tqdm import tqdm

    self._examples = self._tokens = 0
    self._start = self._reported = time.perf_counter()
    self._period = period
    self._bar = (
      tqdm(initial=done, unit=" examples", dynamic_ncols=True) if bar else None
    )

  def add(self, examples: int, tokens: int) -> None:
    """Counts a finished batch: its inputs, and tokens read and written."""
    self._examples += examples
    self._tokens += tokens
    now = time.perf_counter()
    if self._bar is not None:
      seconds = max(now - self._start, 1e-9)
      self._bar.set_postfix_str(
        f"{self._tokens / seconds:,.0f} tokens/s", refresh=False
      )
      self._bar.update(examples)
    elif now - self._reported >= self._period:
      self._reported = now
      self.say(self.summary())

  def summary(self) -> str:
    """Examples so far, examples a second and tokens a second."""
    seconds = max(time.perf_counter() - self._start, 1e-9)
    return (
      f"{self._examples:,} examples  {self._examples / seconds:,.1f} "
      f"examples/s  {self._tokens / seconds:,.0f} tokens/s"
    )

  def say(self, text: str) -> None:
    """Prints a line without disturbing the bar."""
    if self._bar is None:
      print(text, file=sys.stderr, flush=True)
    else:
      self._bar.write(text, file=sys.stderr)

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()
