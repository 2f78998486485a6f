import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.checkpoints import checksums


def by_hand(x):
  bits = x.view(f"u{x.dtype.itemsize}").ravel().astype(object)
  return sum(int(b) * (2 * i + 1) for i, b in enumerate(bits)) % 2**32


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.int32, np.int8])
@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
def test_sums(dtype, shape):
  x = np.random.default_rng(0).normal(size=shape) * 100
  x = np.asarray(x).astype(dtype)
  assert checksums.of_leaves({"a": {"b": jnp.asarray(x)}}) == {
    "a/b": by_hand(np.asarray(x))
  }
  assert checksums.of_array(x) == by_hand(x)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_host_and_device_agree_on_more_than_one_block(dtype):
  x = np.random.default_rng(0).normal(size=(3, 65_537)).astype(dtype)
  (on_device,) = checksums.of_leaves([jnp.asarray(x)]).values()
  assert checksums.of_array(x) == on_device
  assert checksums.of_array(x.T) != on_device


def test_wide_numbers_count_as_pairs():
  x = np.random.default_rng(0).normal(size=(3, 5))
  assert checksums.of_array(x) == by_hand(x.view(np.uint32))


def test_any_bit_and_any_exchange_counts():
  x = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
  others = [{"y": x}, {"x": x[::-1].copy()}]
  for i in range(12):
    for bit in range(32):
      other = x.copy()
      other.view(np.uint32).ravel()[i] ^= np.uint32(1 << bit)
      others.append({"x": other})
  whole = checksums.of_all({"x": jnp.asarray(x)})
  for other in others:
    assert checksums.of_all(jax.tree.map(jnp.asarray, other)) != whole


def test_nothing():
  assert checksums.of_leaves({}) == {}
  assert isinstance(checksums.of_all(jax.tree.map(jnp.asarray, {})), int)
