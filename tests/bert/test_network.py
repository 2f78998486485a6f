"""BERT's network: routing, padding, loops, dropout, dtypes, and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import partitioning, testing
from coda_jax.bert.encoder import EncoderLayer
from coda_jax.bert.network import Bert
from coda_jax.nn import coda as coda_lib
from coda_jax.nn.config import CodaConfig

CODA = CodaConfig(reduction=2.0, bottleneck_dim=4, epsilon=0.5)
K_TO_ALL = CodaConfig(
  reduction=2.0, bottleneck_dim=4, epsilon=0.5, attention="k_to_all"
)
CODAS = {"dense": None, "k_to_k": CODA, "k_to_all": K_TO_ALL}
FAMILIES = {
  "bert": {"family": "bert", "pad_id": 0},
  "roberta": {"family": "roberta", "pad_id": 1},
}
HEAD = {"head": "classification", "num_labels": 3}


def make_model(coda="dense", family="bert", **overrides):
  """A tiny model; `coda` is a name in CODAS, or a `CodaConfig`."""
  coda = CODAS.get(coda, coda)
  fields = {"coda": coda, **FAMILIES[family], **overrides}
  return Bert(testing.tiny_bert_config(**fields))


def make_batch(model, lengths=(9, 6), padding=2, left=False):
  """Rows of random tokens and types, padded at the end or the beginning."""
  config, width = model.config, max(lengths) + padding
  tokens = np.full((len(lengths), width), config.pad_id, np.int32)
  types = np.zeros_like(tokens)
  for row, length in enumerate(lengths):
    rng = np.random.default_rng(row)
    place = slice(width - length, width) if left else slice(length)
    tokens[row, place] = rng.integers(2, config.vocab_size, length)
    types[row, place] = rng.integers(0, config.num_token_types, length)
  return {"encoder_input_tokens": tokens, "encoder_token_types": types}


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def apply(model, params, batch, method="__call__", routing=False, rngs=None):
  return model.apply(
    {"params": params},
    **batch,
    enable_dropout=rngs is not None,
    rngs=rngs,
    return_routing=routing,
    method=getattr(model, method),
  )


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, params, batch, rngs=None):
  def loss(params):
    return jnp.square(apply(model, params, batch, rngs=rngs)).mean()

  return jax.grad(loss)(params)


def dropout_rng(seed):
  return {"dropout": jax.random.key(seed, impl="unsafe_rbg")}


def is_real(model, batch):
  return batch["encoder_input_tokens"] != model.config.pad_id


def assert_close(found, expected, tolerance=1e-5):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def test_shapes_and_dtypes():
  batch = make_batch(make_model())
  for fields, shape in [
    ({}, (2, 11, 15)),
    (HEAD, (2, 3)),
    ({"head": "token_classification", "num_labels": 5}, (2, 11, 5)),
  ]:
    model = make_model(dtype="bfloat16", **fields)
    params = testing.random_params(model)
    y = jax.eval_shape(lambda p, m=model: apply(m, p, batch), params)
    hidden = jax.eval_shape(
      lambda p, m=model: apply(m, p, batch, "encode"), params
    )
    assert y.shape == shape
    assert y.dtype == (jnp.float32 if fields else jnp.bfloat16)
    assert (hidden.shape, hidden.dtype) == ((2, 11, 15), jnp.bfloat16)


def test_coda_moves_no_parameter_of_the_backbone():
  dense, coda = (
    params_lib.flatten(testing.random_params(make_model(name, **HEAD)))
    for name in ("dense", "k_to_k")
  )
  assert dense.keys() < coda.keys()
  assert all("/adapter/" in p or "/router/" in p for p in coda.keys() - dense)


def test_routing_has_an_entry_a_layer():
  coda = CodaConfig(reduction=3, layer_reductions=((1, 1), (2, 2)))
  model = make_model(coda, num_encoder_layers=3, **HEAD)
  batch = make_batch(model, padding=0)
  params = testing.random_params(model)
  for method in ("__call__", "encode"):
    _, routing = jax.eval_shape(
      lambda p, m=method: apply(model, p, batch, m, True), params
    )
    assert routing[1] is None
    assert [routing[i].indices.shape for i in (0, 2)] == [(2, 3), (2, 5)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("coda", CODAS)
def test_padding_changes_nothing(coda, family):
  model = make_model(coda, family)
  params = testing.random_params(model)
  short, long = (make_batch(model, (9, 6), padding) for padding in (0, 7))
  expected, found = (apply(model, params, b) for b in (short, long))
  real = is_real(model, short)
  assert_close(found[:, :9][real], expected[real])


@pytest.mark.parametrize("coda", CODAS)
def test_roberta_may_be_padded_on_the_left(coda):
  """Its positions count tokens; the head takes the first that is real."""
  model = make_model(coda, "roberta", **HEAD)
  params = testing.random_params(model)
  right, left = (make_batch(model, left=left) for left in (False, True))
  for method in ("encode", "__call__"):
    expected, found = (apply(model, params, b, method) for b in (right, left))
    if method == "encode":
      expected = expected[is_real(model, right)]
      found = found[is_real(model, left)]
    assert_close(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_routing_every_token_is_the_dense_model(attention, family):
  coda = CodaConfig(
    reduction=1 + 1e-6, bottleneck_dim=0, attention=attention, epsilon=0.5
  )
  routed, dense = (make_model(c, family) for c in (coda, "dense"))
  params = testing.random_params(routed)
  batch = make_batch(dense)
  real = is_real(dense, batch)
  found, routing = apply(routed, params, batch, routing=True)
  assert [selection.mask.sum() for selection in routing] == [15, 15]
  leaves = params_lib.flatten(params)
  plain = {p: x for p, x in leaves.items() if "/router/" not in p}
  expected = apply(dense, params_lib.unflatten(plain), batch)
  assert_close(found[real], expected[real])


@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
def test_layer_adds_the_delta_of_the_selected_tokens(attention):
  """k-to-k: of them alone; k-to-all: their rows of the dense layer's."""
  config = testing.tiny_bert_config()
  coda = CodaConfig(
    reduction=2.5, bottleneck_dim=4, epsilon=1.0, attention=attention
  )
  layer = coda_lib.CodaLayer(EncoderLayer(config, parent=None), coda)
  x = np.random.default_rng(0).standard_normal((2, 10, 15)).astype(np.float32)
  init = functools.partial(layer.init, jax.random.key(0))
  params = testing.random_leaves(jax.eval_shape(init, x)["params"])
  y, selection = jax.jit(lambda p: layer.apply({"params": p}, x))(params)
  block = EncoderLayer(config)

  def delta(tokens):
    mask = np.ones(tokens.shape[:2], bool)
    out = block.apply(
      {"params": params}, tokens, mask, True, method=coda_lib.dense
    )
    return np.asarray(out - tokens)

  hidden = np.maximum(x @ np.asarray(params["adapter"]["down"]["kernel"]), 0)
  expected = x + hidden @ np.asarray(params["adapter"]["up"]["kernel"])
  for row, indices in enumerate(np.asarray(selection.indices)):
    weights = np.asarray(selection.weights)[row, :, None]
    if attention == "k_to_k":
      change = delta(x[row : row + 1, indices])[0]
    else:
      change = delta(x[row : row + 1])[0, indices]
    expected[row, indices] += weights * change
  assert selection.indices.shape == (2, 4)
  assert_close(y, expected)


@pytest.mark.parametrize("fields", [{"remat": True}, {"scan_layers": True}])
@pytest.mark.parametrize("coda", CODAS)
def test_loop_and_remat_change_no_number(coda, fields):
  plain, other = make_model(coda, **HEAD), make_model(coda, **HEAD, **fields)
  params = testing.random_params(plain)
  shapes = jax.tree.map(jnp.shape, testing.random_params(other))
  assert shapes == jax.tree.map(jnp.shape, params)
  batch = make_batch(plain)
  expected, routing = apply(plain, params, batch, routing=True)
  found, other_routing = apply(other, params, batch, routing=True)
  assert_close(found, expected)
  for a, b in zip(routing, other_routing, strict=True):
    if coda != "dense":
      np.testing.assert_array_equal(a.indices, b.indices)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    gradients(other, params, batch),
    gradients(plain, params, batch),
  )


@pytest.mark.parametrize("fields", [{}, {"remat": True}])
def test_every_parameter_learns(fields):
  model = make_model("k_to_k", dropout_rate=0.2, **HEAD, **fields)
  params = testing.random_params(model)
  grads = gradients(model, params, make_batch(model), dropout_rng(0))
  for path, grad in params_lib.flatten(grads).items():
    assert np.isfinite(grad).all(), path
    # What is added to every key changes no softmax.
    if not path.endswith("key/bias"):
      assert np.abs(grad).max() > 0, path


@pytest.mark.parametrize(
  "rate", ["dropout_rate", "attention_dropout_rate", "head_dropout_rate"]
)
def test_dropout(rate):
  off = make_model(**HEAD, head_dropout_rate=0.0)
  model = make_model(**HEAD, **{"head_dropout_rate": 0.0, rate: 0.3})
  params = testing.random_params(model)
  batch = make_batch(model)
  expected = apply(off, params, batch)
  np.testing.assert_array_equal(apply(model, params, batch), expected)
  run = lambda seed, method="__call__": apply(
    model, params, batch, method, rngs=dropout_rng(seed)
  )
  np.testing.assert_array_equal(run(0), run(0))
  assert np.abs(run(0) - run(1)).max() > 1e-3
  same = np.array_equal(run(0, "encode"), run(1, "encode"))
  assert same == (rate == "head_dropout_rate")


def test_the_heads_dropout_is_the_models_by_default():
  model = make_model(**HEAD, dropout_rate=0.3)
  explicit = make_model(**HEAD, dropout_rate=0.3, head_dropout_rate=0.3)
  params, rng = testing.random_params(model), dropout_rng(0)
  batch = make_batch(model)
  np.testing.assert_array_equal(
    apply(model, params, batch, rngs=rng),
    apply(explicit, params, batch, rngs=rng),
  )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("coda", CODAS)
def test_row_of_padding_is_finite(coda, dtype):
  model = make_model(coda, dtype=dtype, **HEAD)
  params = testing.random_params(model)
  batch = make_batch(model, (9, 0))
  assert not is_real(model, batch)[1].any()
  assert np.isfinite(apply(model, params, batch)).all()
  hidden = apply(model, params, batch, "encode").astype(jnp.float32)
  assert np.isfinite(hidden).all()
  for grad in jax.tree.leaves(gradients(model, params, batch)):
    assert np.isfinite(grad).all()


def test_mask_and_types_by_default():
  model = make_model()
  params = testing.random_params(model)
  tokens = make_batch(model)["encoder_input_tokens"]
  plain = {"encoder_input_tokens": tokens}
  types = {"encoder_token_types": np.zeros_like(tokens)}
  mask = {"encoder_mask": tokens != 0}
  numbers = {"encoder_mask": (tokens != 0).astype(np.int32)}
  expected = apply(model, params, plain)
  for more in (types, mask, numbers):
    np.testing.assert_array_equal(apply(model, params, plain | more), expected)
  everything = apply(
    model, params, plain | {"encoder_mask": np.ones_like(tokens)}
  )
  assert np.abs(everything - expected).max() > 1e-3


def test_lists_are_taken():
  model = make_model()
  params = testing.random_params(model)
  y = model.apply(
    {"params": params}, [[5, 6, 0]], [[0, 1, 0]], [[1, 1, 0]], False
  )
  assert y.shape == (1, 3, 15)


@pytest.mark.parametrize("family", FAMILIES)
def test_row_that_is_too_long_is_refused(family):
  model = make_model(family=family)
  params = testing.random_params(model)
  longest = {"encoder_input_tokens": np.full((1, 20), 7, np.int32)}
  assert np.isfinite(apply(model, params, longest)).all()
  longer = {"encoder_input_tokens": np.full((1, 21), 7, np.int32)}
  with pytest.raises(ValueError, match="21 tokens; the model has .*for 20"):
    apply(model, params, longer)


def test_roberta_ends_with_its_last_position():
  """Row max_length + pad_id of the table is the last token's."""
  model = make_model(family="roberta")
  params = testing.random_params(model)
  table = params["token_embedder"]["position"]
  assert table.shape == (22, 15)
  tokens = {"encoder_input_tokens": np.full((1, 20), 7, np.int32)}
  expected = apply(model, params, tokens)
  for row, changes in [(21, True), (2, True), (1, False), (0, False)]:
    # In one feature only: the norm takes away what is added to all.
    params["token_embedder"]["position"] = table.at[row, 0].add(1.0)
    found = apply(model, params, tokens)
    assert bool(np.abs(found - expected).max() > 1e-3) == changes


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"encoder_input_tokens": [[5, 48]]}, "token id 48; expected 0 to 47"),
    ({"encoder_input_tokens": [[5], [6, 7]]}, "rows have different lengths"),
    ({"encoder_token_types": [[0, 2]]}, "type 2; expected 0 to 1.*num_token"),
    ({"encoder_token_types": [[0]]}, r"shape \(1, 1\); expected \(1, 2\)"),
    ({"encoder_mask": [[1, 1, 1]]}, r"encoder_mask has the shape \(1, 3\)"),
  ],
)
def test_bad_input_is_refused(change, message):
  model = make_model()
  params = testing.random_params(model)
  batch = {"encoder_input_tokens": [[5, 6]], **change}
  with pytest.raises(ValueError, match=message):
    model.apply({"params": params}, **batch, enable_dropout=False)


@pytest.mark.parametrize("attention", [None, "k_to_k", "k_to_all"])
def test_bfloat16_is_close_to_float32(attention):
  # Every token is routed: rounding might select others.
  coda = attention and CodaConfig(
    reduction=1 + 1e-6, bottleneck_dim=4, attention=attention
  )
  model, half = (
    make_model(coda, dtype=dtype, **HEAD) for dtype in ("float32", "bfloat16")
  )
  params = testing.random_params(model)
  batch = make_batch(model)
  expected, found = (apply(m, params, batch) for m in (model, half))
  assert found.dtype == jnp.float32
  assert_close(found, expected, tolerance=0.05)
  assert np.abs(found - expected).max() > 1e-4  # it did compute in bfloat16


def test_every_dimension_has_a_rule():
  known = {name for name, _ in partitioning.RULES}
  for head in ("classification", "token_classification"):
    model = make_model("k_to_k", head=head, num_labels=3)
    tokens = np.ones((1, 8), np.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
    axes = params_lib.flatten(variables["params_axes"])
    for path, leaf in params_lib.flatten(variables["params"]).items():
      names = axes[f"{path}_axes"].names
      assert len(names) == leaf.ndim, path
      assert set(names) <= known, path


def test_sharded_model_gives_the_same_numbers():
  shape = {"emb_dim": 16, "num_heads": 4}
  model = make_model("k_to_k", **shape, **HEAD)
  params = testing.random_params(model)
  batch = make_batch(model, (9, 6, 3, 9))
  expected = apply(model, params, batch)
  mesh = partitioning.make_mesh(data=2, fsdp=2, model=2)
  with partitioning.under(mesh):
    placed = jax.device_put(params, partitioning.shardings(model, mesh))
    found = jax.jit(
      lambda p: model.apply({"params": p}, **batch, enable_dropout=False)
    )(placed)
  query = placed["encoder"]["layers_0"]["attention"]["query"]
  assert not query["kernel"].sharding.is_fully_replicated
  assert_close(np.asarray(found), expected)
