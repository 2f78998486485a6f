"""int8 weights, against rounding done by hand."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import decoding, testing
from coda_jax import params as params_lib
from coda_jax.t5.config import CodaConfig
from coda_jax.t5.network import Transformer

pytest.importorskip("qwix", reason="pip install 'coda_jax[int8]'")
# qwix's imports warn, and so do its constants in float32 arithmetic.
pytestmark = pytest.mark.filterwarnings("ignore")

from coda_jax import quantization  # noqa: E402


def model_and_params(**kwargs):
  config = testing.tiny_config(
    coda=CodaConfig(reduction=2, bottleneck_dim=4, **kwargs)
  )
  model = Transformer(config)
  return model, testing.random_params(model)


def at(tree, path):
  for key in path.split("/"):
    tree = tree[key]
  return tree


def rounded(small, path):
  """The kernel that int8 numbers and their scales stand for."""
  array = at(small, path).array
  assert array.qvalue.dtype == jnp.int8
  kernel = np.asarray(array.qvalue, np.float64) * np.asarray(array.scale)
  return kernel.reshape(-1, kernel.shape[-1])  # That of `out` is of heads.


def is_projection(path):
  module, leaf = path.rsplit("/", 1)
  backbone = not params_lib.matches(path, params_lib.TASK_PATTERNS)
  return backbone and leaf == "kernel" and "logits_dense" not in module


def tokens(model):
  return testing.random_tokens([7, 9], 9, model.config.vocab_size)


def test_kernels_are_rounded_by_half_a_step_at_most():
  model, params = model_and_params()
  _, small = quantization.int8(model, params)
  leaves = params_lib.flatten(params)
  projections = [path for path in leaves if is_projection(path)]
  assert len(projections) > 10
  for path in projections:
    kernel = np.asarray(leaves[path], np.float64)
    step = np.abs(kernel).max(axis=0) / 127  # of each output feature
    error = np.abs(rounded(small, path) - kernel)
    assert (error <= step / 2 * (1 + 1e-5)).all(), path
    assert error.max() > 0


@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_logits_are_those_of_rounded_kernels(attention):
  model, params = model_and_params(attention=attention)
  quantized, small = quantization.int8(model, params)
  expected_params = params_lib.unflatten(
    {
      path: jnp.asarray(rounded(small, path), jnp.float32)
      if is_projection(path)
      else leaf
      for path, leaf in params_lib.flatten(params).items()
    }
  )
  ids = tokens(model)
  found, expected, float_logits = (
    np.asarray(
      jax.jit(
        lambda p, m=m: m.apply(
          {"params": p}, ids, ids, ids, enable_dropout=False
        )
      )(p)
    )
    for m, p in (
      (quantized, small),
      (model, expected_params),
      (model, params),
    )
  )
  np.testing.assert_allclose(found, expected, atol=1e-4)
  assert np.abs(found - float_logits).max() > 1e-3


def test_what_a_task_trains_stays_as_it_is():
  model, params = model_and_params()
  _, small = quantization.int8(model, params)
  for path, leaf in params_lib.flatten(params).items():
    if not is_projection(path):
      np.testing.assert_array_equal(at(small, path), leaf, err_msg=path)


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_generate(method):
  model, params = model_and_params()
  quantized, small = quantization.int8(model, params)
  out = decoding.generate(
    quantized, small, tokens(model), max_length=5, method=method, eos_id=-1
  )
  assert out.tokens.shape == (2, 5)
  assert np.isfinite(out.scores).all()


def num_bytes(tree):
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_the_bytes_of_a_model():
  model, params = model_and_params()
  _, small = quantization.int8(model, params)
  kernels = {
    path: leaf
    for path, leaf in params_lib.flatten(params).items()
    if is_projection(path)
  }
  # Three bytes fewer a number, and a scale for each output feature.
  saved = sum(3 * leaf.size - 4 * leaf.shape[1] for leaf in kernels.values())
  assert num_bytes(small) == num_bytes(params) - saved


def test_without_qwix(monkeypatch):
  monkeypatch.setitem(sys.modules, "qwix", None)
  with pytest.raises(ModuleNotFoundError, match=r"coda_jax\[int8\]"):
    quantization.int8(*model_and_params())
