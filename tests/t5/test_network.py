"""The whole network: its signatures, masks, dropout, dtypes and caches."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer

SMALL = {"num_encoder_layers": 2, "num_decoder_layers": 1}
CODA = CodaConfig(reduction=2.0, bottleneck_dim=4, epsilon=0.5)
MODELS = ("dense", "coda")


def make_model(name, **overrides):
  coda = CODA if name == "coda" else None
  return Transformer(
    testing.tiny_config(**{**SMALL, "coda": coda, **overrides})
  )


@functools.cache
def random_params(name):
  return testing.random_params(make_model(name))


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(model, params, batch, return_routing=False, rngs=None):
  return model.apply(
    {"params": params},
    **batch,
    enable_dropout=rngs is not None,
    rngs=rngs,
    return_routing=return_routing,
  )


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, params, batch, rngs):
  def loss(params):
    return jnp.square(apply(model, params, batch, False, rngs)).sum()

  return jax.grad(loss)(params)


def dropout_rng(seed):
  # Of the two kinds of key, the one that compiles faster.
  return {"dropout": jax.random.key(seed, impl="unsafe_rbg")}


def real_logits(logits, batch):
  return logits[batch["decoder_target_tokens"] > 0]


def assert_close(found, expected, tolerance=1e-5):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def test_signatures_are_those_of_t5x():
  for method, names in {
    "__call__": "encoder_input_tokens decoder_input_tokens"
    " decoder_target_tokens encoder_segment_ids decoder_segment_ids"
    " encoder_positions decoder_positions enable_dropout decode",
    "encode": "encoder_input_tokens encoder_segment_ids enable_dropout",
    "decode": "encoded encoder_input_tokens decoder_input_tokens"
    " decoder_target_tokens encoder_segment_ids decoder_segment_ids"
    " decoder_positions enable_dropout decode max_decode_length",
  }.items():
    parameters = inspect.signature(getattr(Transformer, method)).parameters
    names = ["self", *names.split()]
    assert list(parameters)[: len(names)] == names
    assert parameters["enable_dropout"].default is True
    assert all(
      parameter.default is not inspect.Parameter.empty
      for parameter in list(parameters.values())[len(names) :]
    )


def test_coda_moves_no_parameter_of_the_backbone():
  dense, coda = (params_lib.flatten(random_params(name)) for name in MODELS)
  assert dense.keys() < coda.keys()
  assert all("/adapter/" in p or "/router/" in p for p in coda.keys() - dense)


def test_routing_has_an_entry_a_layer():
  coda = CodaConfig(reduction=3, layer_reductions=((1, 1), (2, 2)))
  model = Transformer(testing.tiny_config(num_encoder_layers=3, coda=coda))
  batch = testing.token_batch(model.config.vocab_size, (9, 6), padding=0)
  params = testing.random_params(model)
  logits, routing = jax.eval_shape(
    lambda p: apply(model, p, batch, True), params
  )
  assert logits.shape == (2, 5, 48)
  assert routing[1] is None
  assert [routing[i].indices.shape for i in (0, 2)] == [(2, 3), (2, 5)]
  encoded, same = jax.eval_shape(
    lambda p: model.apply(
      {"params": p},
      batch["encoder_input_tokens"],
      enable_dropout=False,
      return_routing=True,
      method=model.encode,
    ),
    params,
  )
  assert encoded.shape == (2, 9, 16)
  assert jax.tree.map(jnp.shape, same) == jax.tree.map(jnp.shape, routing)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name):
  model, params = make_model(name), random_params(name)
  short, long = (
    testing.token_batch(model.config.vocab_size, padding=p) for p in (0, 4)
  )
  assert_close(
    real_logits(apply(model, params, long), long),
    real_logits(apply(model, params, short), short),
  )


def test_decoder_does_not_see_what_follows():
  model, params = make_model("dense"), random_params("dense")
  batch = testing.token_batch(model.config.vocab_size, padding=0)
  logits = apply(model, params, batch)
  tokens = batch["decoder_input_tokens"].copy()
  tokens[0, 3] = 7 if tokens[0, 3] != 7 else 8
  changed = apply(model, params, batch | {"decoder_input_tokens": tokens})
  np.testing.assert_array_equal(changed[0, :3], logits[0, :3])
  assert (np.abs(changed[0, 3:] - logits[0, 3:]).max(axis=-1) > 1e-3).all()


def pack(batch):
  """The rows of `batch`, one after the other, in one row."""
  packed = {}
  for side, name in (("encoder", "input"), ("decoder", "target")):
    tokens = batch[f"{side}_{name}_tokens"]
    rows, _ = np.nonzero(tokens)
    for key in (k for k in batch if k.startswith(side)):
      # The decoder's input begins with 0: what is real is told by the target.
      packed[key] = np.pad(batch[key][tokens > 0], (0, 2))[None, :]
    packed[f"{side}_segment_ids"] = np.pad(rows + 1, (0, 2))[None, :]
  return packed


@pytest.mark.parametrize("coda", [None, CodaConfig(reduction=1)])
def test_packed_examples_do_not_mix(coda):
  model = make_model("dense", coda=coda)
  params = testing.random_params(model)
  batch = testing.token_batch(model.config.vocab_size)
  packed = pack(batch)
  assert packed["encoder_segment_ids"].tolist() == [[1] * 9 + [2] * 6 + [0, 0]]
  assert_close(
    real_logits(apply(model, params, packed), packed),
    real_logits(apply(model, params, batch), batch),
  )


def test_routed_model_refuses_packed_examples():
  model, params = make_model("coda"), random_params("coda")
  packed = pack(testing.token_batch(model.config.vocab_size))
  with pytest.raises(ValueError, match="encoder_segment_ids.*pack=False"):
    apply(model, params, packed)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_segment_ids_of_one_side_are_refused(side):
  model, params = make_model("dense"), random_params("dense")
  packed = pack(testing.token_batch(model.config.vocab_size))
  del packed[f"{side}_segment_ids"]
  with pytest.raises(ValueError, match="need both encoder_segment_ids and"):
    apply(model, params, packed)


@pytest.mark.parametrize("name", MODELS)
def test_remat_moves_no_parameter(name):
  remat = make_model(name, remat=True)
  shapes, expected = (
    jax.tree.map(jnp.shape, params)
    for params in (testing.random_params(remat), random_params(name))
  )
  assert shapes == expected


def test_remat_changes_no_gradient():
  """With dropout, which must be the same when a layer is computed again."""
  model, remat = (
    make_model("coda", dropout_rate=0.2, remat=remat) for remat in (False, True)
  )
  params = random_params("coda")
  batch = testing.token_batch(model.config.vocab_size)
  jax.tree.map(
    assert_close,
    gradients(remat, params, batch, dropout_rng(0)),
    gradients(model, params, batch, dropout_rng(0)),
  )


def test_every_parameter_learns():
  model, params = make_model("coda", dropout_rate=0.2), random_params("coda")
  batch = testing.token_batch(model.config.vocab_size)
  grads = gradients(model, params, batch, dropout_rng(0))
  for path, grad in params_lib.flatten(grads).items():
    assert np.isfinite(grad).all(), path
    assert np.abs(grad).max() > 0, path


def test_dropout():
  model = make_model("dense", dropout_rate=0.3)
  params = random_params("dense")
  batch = testing.token_batch(model.config.vocab_size)
  off = apply(model, params, batch)
  np.testing.assert_array_equal(off, apply(make_model("dense"), params, batch))
  runs = [
    apply(model, params, batch, False, dropout_rng(seed)) for seed in (0, 0, 1)
  ]
  np.testing.assert_array_equal(runs[0], runs[1])
  assert (np.abs(runs[0] - runs[2]) > 1e-3).any()
  assert (np.abs(runs[0] - off) > 1e-3).any()


@pytest.mark.parametrize("remat", [False, True])
def test_cache_gives_the_logits_of_the_whole_sequence(remat):
  model, params = make_model("coda", remat=remat), random_params("coda")
  batch = testing.token_batch(model.config.vocab_size)
  inputs, sources = batch["decoder_input_tokens"], batch["encoder_input_tokens"]
  length = inputs.shape[1]
  expected = apply(model, params, batch)

  def decode(variables, encoded, tokens):
    return model.apply(
      variables,
      encoded,
      sources,
      tokens,
      jnp.ones_like(tokens),
      enable_dropout=False,
      decode=True,
      max_decode_length=length,
      mutable=["cache"],
      method=model.decode,
    )

  variables = {"params": params}
  encoded = jax.jit(
    lambda v: model.apply(v, sources, enable_dropout=False, method=model.encode)
  )(variables)
  _, cache = jax.jit(decode)(variables, encoded, np.ones_like(inputs))
  step, logits = jax.jit(decode), []
  for i in range(length):
    output, cache = step(variables | cache, encoded, inputs[:, i : i + 1])
    logits.append(output)
  logits = np.concatenate(logits, axis=1)
  assert_close(real_logits(logits, batch), real_logits(expected, batch))


def test_cache_needs_its_length():
  model, params = make_model("dense"), random_params("dense")
  tokens, encoded = np.ones((1, 4), np.int32), np.ones((1, 4, 16), np.float32)

  def decode(variables, tokens):
    return jax.eval_shape(
      lambda v: model.apply(
        v, encoded, np.ones((1, 4), np.int32), tokens, tokens,
        enable_dropout=False, decode=True, mutable=["cache"],
        method=model.decode,
      ),
      variables,
    )  # fmt: skip

  _, cache = decode({"params": params}, tokens)
  with pytest.raises(ValueError, match="max_decode_length"):
    decode({"params": params} | cache, tokens[:, :1])


def test_packed_examples_are_not_decoded():
  model, params = make_model("dense"), random_params("dense")
  packed = pack(testing.token_batch(model.config.vocab_size))
  with pytest.raises(ValueError, match="packed examples can't be decoded"):
    jax.eval_shape(
      lambda params: model.apply(
        {"params": params},
        **packed,
        enable_dropout=False,
        decode=True,
        mutable=["cache"],
      ),
      params,
    )


def test_bfloat16_is_close_to_float32():
  model = make_model("dense", logits_via_embedding=True)
  half = make_model("dense", logits_via_embedding=True, dtype="bfloat16")
  params = testing.random_params(model)
  batch = testing.token_batch(model.config.vocab_size)
  expected, found = (apply(m, params, batch) for m in (model, half))
  assert found.dtype == expected.dtype == jnp.float32
  assert_close(found, expected, tolerance=0.05)
  assert np.abs(found - expected).max() > 1e-4  # it did compute in bfloat16


def test_bfloat16_routes_in_float32():
  half, params = make_model("coda", dtype="bfloat16"), random_params("coda")
  batch = testing.token_batch(half.config.vocab_size)
  logits, routing = apply(half, params, batch, True)
  assert np.isfinite(logits).all()
  assert logits.dtype == jnp.float32
  assert all(selection.weights.dtype == jnp.float32 for selection in routing)
  encoded = jax.eval_shape(
    lambda p: half.apply(
      {"params": p},
      batch["encoder_input_tokens"],
      enable_dropout=False,
      method=half.encode,
    ),
    params,
  )
  assert encoded.dtype == jnp.bfloat16
