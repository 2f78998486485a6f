import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.sentences import pooling

D = 4
LENGTHS = (3, 9, 1)


def batch(side="right", dtype=np.float32, seed=0):
  """Rows of 3, 9 and 1 tokens; the padding is not a number."""
  n = max(LENGTHS)
  rng = np.random.default_rng(seed)
  hidden = np.full((len(LENGTHS), n, D), np.nan, dtype)
  mask = np.zeros((len(LENGTHS), n), bool)
  rows = []
  for i, length in enumerate(LENGTHS):
    rows.append(rng.standard_normal((length, D)).astype(dtype))
    place = slice(0, length) if side == "right" else slice(n - length, n)
    hidden[i, place], mask[i, place] = rows[i], True
  return hidden, mask, rows


def expected(row, mode, start=0):
  """One row without padding, in NumPy."""
  kept = row[start:].astype(np.float64)
  if not len(kept):
    return np.zeros(D)
  weights = np.arange(1, len(row) + 1)[start:, None]
  return {
    "cls": lambda: kept[0],
    "max": lambda: kept.max(0),
    "mean": lambda: kept.mean(0),
    "mean_sqrt_len_tokens": lambda: kept.sum(0) / np.sqrt(len(kept)),
    "weightedmean": lambda: (kept * weights).sum(0) / weights.sum(),
    "lasttoken": lambda: kept[-1],
  }[mode]()


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("side", ["right", "left"])
def test_modes(side, start):
  hidden, mask, rows = batch(side)
  found = pooling.pool(hidden, mask, pooling.MODES, prompt_length=start)
  assert found.dtype == jnp.float32
  assert found.shape == (len(rows), len(pooling.MODES) * D)
  wanted = [
    np.concatenate([expected(row, mode, start) for mode in pooling.MODES])
    for row in rows
  ]
  np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)


def test_prompt_length_of_each_row():
  hidden, mask, rows = batch("left")
  starts = np.array([1, 4, 0], np.int32)
  found = pooling.pool(hidden, mask, ["weightedmean"], prompt_length=starts)
  wanted = [
    expected(*item)
    for item in zip(rows, ["weightedmean"] * 3, starts, strict=True)
  ]
  np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)


def test_order_is_the_callers():
  hidden, mask, _ = batch()
  found = pooling.pool(hidden, mask, ["mean", "cls"])
  mean = pooling.pool(hidden, mask)
  cls = pooling.pool(hidden, mask, ["cls"])
  np.testing.assert_array_equal(found, np.concatenate([mean, cls], axis=1))


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_row_does_not_depend_on_its_batch(side):
  hidden, mask, rows = batch(side)
  together = pooling.pool(hidden, mask, pooling.MODES)
  for i, row in enumerate(rows):
    alone = pooling.pool(row[None], np.ones((1, len(row)), bool), pooling.MODES)
    np.testing.assert_allclose(together[i : i + 1], alone, rtol=1e-6, atol=1e-6)


def test_sums_are_float32():
  n = 512
  hidden = jnp.full((1, n, D), 200.0, jnp.float16)  # the sum is over 65504
  mask = np.ones((1, n), np.int64)
  found = pooling.pool(hidden, mask, ["mean", "weightedmean"])
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, np.full((1, 2 * D), 200.0), rtol=1e-6)


def test_a_row_without_tokens_is_zero():
  hidden = np.full((1, 3, D), np.inf, np.float32)
  mask = np.zeros((1, 3), bool)
  found = pooling.pool(hidden, mask, pooling.MODES)
  np.testing.assert_array_equal(found, np.zeros((1, 6 * D)))


def test_no_rows():
  found = pooling.pool(
    np.zeros((0, 2, D), np.float32), np.zeros((0, 2), bool), pooling.MODES
  )
  assert found.shape == (0, 6 * D)


@pytest.mark.parametrize("modes", [[], ["mean", "average"]])
def test_unknown_mode(modes):
  hidden, mask, _ = batch()
  with pytest.raises(ValueError, match="pooling modes .*expected one or more"):
    pooling.pool(hidden, mask, modes)


def test_normalise():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0]], jnp.float32)
  wanted = [[0.6, 0.8], [0.0, 0.0], [0.1, 0.0]]
  np.testing.assert_allclose(pooling.normalise(x), wanted, rtol=1e-6)
  gradient = jax.grad(lambda x: jnp.sum(pooling.normalise(x)))(x)
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize("prompt_length", [0, 2])
@pytest.mark.parametrize("side", ["right", "left"])
def test_equals_sentence_transformers(side, prompt_length):
  torch = pytest.importorskip("torch")
  module = pytest.importorskip(
    "sentence_transformers.sentence_transformer.modules.pooling"
  )
  hidden, mask, _ = batch(side)
  hidden, mask = np.nan_to_num(hidden[:2], nan=7.0), mask[:2]
  features = {
    "token_embeddings": torch.from_numpy(hidden),
    "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    "prompt_length": prompt_length,
  }
  theirs = module.Pooling(D, pooling.MODES, include_prompt=False)(features)
  wanted = theirs["sentence_embedding"].numpy()
  found = pooling.pool(hidden, mask, pooling.MODES, prompt_length=prompt_length)
  np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)
  np.testing.assert_allclose(
    pooling.normalise(found),
    torch.nn.functional.normalize(torch.from_numpy(wanted)).numpy(),
    rtol=2e-6,
    atol=1e-6,
  )
