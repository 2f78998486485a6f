import jax
import numpy as np

from coda_jax import soft_topk
from coda_jax.benchmarking import top_k


def results(part):
  subjects = top_k.subjects(
    part, reduction=4.0, batch=3, length=40, epsilon=0.5
  )
  return {
    subject.columns["method"]: np.asarray(subject.build().run())
    for subject in subjects
  }


def test_weights_are_soft_top_ks_of_the_selected():
  found = results("soft_top_k")
  assert list(found) == ["selection", "iterative", "exact"]
  scores = jax.random.normal(jax.random.key(0), (3, 40))
  np.testing.assert_array_equal(
    found["selection"], np.sort(scores, axis=-1)[:, ::-1][:, :10]
  )
  weights = np.asarray(soft_topk.soft_top_k(scores, 10, epsilon=0.5))
  largest = np.sort(weights, axis=-1)[:, ::-1][:, :10]
  np.testing.assert_allclose(found["exact"], largest, rtol=1e-5)
  np.testing.assert_allclose(found["iterative"], largest, atol=0.05)


def test_gradients():
  found = results("soft_top_k_gradient")
  assert list(found) == ["iterative", "exact"]
  assert found["exact"].shape == (3, 40)
  assert np.abs(found["exact"]).max() > 0.01
  np.testing.assert_allclose(found["exact"], found["iterative"], atol=0.1)
