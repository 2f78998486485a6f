import subprocess
import sys

import pytest
import tensorflow as tf

from coda_jax.training import tf_iterator

# The first four elements are there at once, the fifth never.
_HANGS = """
import time
import tensorflow as tf
from coda_jax.training import tf_iterator

def slow(i):
  if i >= 4:
    print("hangs", flush=True)
    time.sleep(1000)
  return i

dataset = tf.data.Dataset.range(9).map(
  lambda i: tf.numpy_function(slow, [i], tf.int64)
)
tf_iterator._PATIENCE = 1.0
elements = tf_iterator.read(dataset.prefetch(8))
print([int(next(elements)) for _ in range(4)], flush=True)
time.sleep(1)  # The fifth is being read.
{end}
print("closed", flush=True)
tf_iterator.exit(3)
"""


@pytest.mark.parametrize("end", ["elements.close()", "del elements"])
def test_a_read_that_hangs_does_not_keep_the_process(end):
  result = subprocess.run(
    [sys.executable, "-c", _HANGS.format(end=end)],
    capture_output=True,
    text=True,
    timeout=100,
  )
  assert "[0, 1, 2, 3]" in result.stdout, result.stderr
  assert "hangs" in result.stdout
  assert "closed" in result.stdout, result.stderr
  assert result.returncode == 3
  assert "did not close in time" in result.stderr


def test_reading_to_the_end():
  dataset = tf.data.Dataset.range(3)
  assert [int(i) for i in tf_iterator.read(dataset)] == [0, 1, 2]
  assert list(tf_iterator.read(dataset.take(0))) == []
  with pytest.raises(SystemExit) as ended:
    tf_iterator.exit(2)
  assert ended.value.code == 2
