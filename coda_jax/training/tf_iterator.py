"""tensorflow's datasets, read by iterators that end within a bounded time.

Closing one of tensorflow's iterators waits for the preprocessing that is under
way, which can take minutes on a busy machine, and forever where a read hangs.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax

_THREAD = "closing of the data"

# Seconds to wait for an iterator to close; alone it takes milliseconds.
_PATIENCE = 10.0


def read(dataset: Any) -> Iterator[Any]:
  """The elements of a `tf.data.Dataset`, as NumPy arrays.

  When the generator is closed, it waits at most 10 seconds for tensorflow; the
  rest of the closing is left to a thread, see `exit`.
  """
  # The only reference to the iterator: who takes it closes the iterator.
  held = [dataset.as_numpy_iterator()]
  try:
    while True:
      try:
        element = next(held[0])
      except StopIteration:
        return
      yield element
  finally:
    thread = threading.Thread(target=held.clear, name=_THREAD, daemon=True)
    thread.start()
    thread.join(_PATIENCE)


def exit(code: int) -> None:
  """Ends the process, as `sys.exit`, but waits for no iterator that hangs.

  Args:
    code: exit status.
  """
  if not any(thread.name == _THREAD for thread in threading.enumerate()):
    sys.exit(code)
  with contextlib.suppress(OSError):  # Nobody may be reading any more.
    print(
      "the data did not close in time; the process ends without it, and "
      "nothing is lost",
      file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
  jax.distributed.shutdown()  # The other processes wait for it.
  os._exit(code)
