"""On the 8 CPU devices of conftest.py, which stand in for accelerators."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from coda_jax import initialise, partitioning, testing
from coda_jax import params as params_lib
from coda_jax.checkpoints.bank import AdapterBank
from coda_jax.nn.coda import CodaLayer
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.objectives import seq2seq
from coda_jax.t5.config import T5Config
from coda_jax.t5.encoder import EncoderLayer
from coda_jax.t5.network import Transformer
from coda_jax.training import optimizers, state

# No two of these are alike, so that a shape says what an array is of.
BATCH, LENGTH, TARGETS = 16, 24, 12
CONFIG = T5Config(
  vocab_size=64,
  emb_dim=40,
  num_heads=8,
  head_dim=8,
  mlp_dim=56,
  num_encoder_layers=1,
  num_decoder_layers=1,
  dropout_rate=0.0,
)
METHODS = {
  "k_to_k": CodaConfig(reduction=2, bottleneck_dim=32),
  "k_to_all": CodaConfig(
    reduction=2, bottleneck_dim=32, attention="k_to_all", dispatch="one_hot"
  ),
  "adapter": CodaConfig(reduction=1, bottleneck_dim=32),
  "lora": CodaConfig(reduction=1, bottleneck_dim=0, lora=LoraConfig()),
}
# Every way to make 8 of three numbers.
MESHES = [
  (data, fsdp, 8 // data // fsdp)
  for data in (1, 2, 4, 8)
  for fsdp in (1, 2, 4, 8)
  if data * fsdp <= 8
]


def make_model(method):
  return Transformer(dataclasses.replace(CONFIG, coda=METHODS[method]))


def make_tokens(length, seed):
  rng = np.random.default_rng(seed)
  tokens = rng.integers(2, 64, (BATCH, length)).astype(np.int32)
  lengths = rng.integers(length // 2, length + 1, (BATCH, 1))
  return np.where(np.arange(length)[None, :] < lengths, tokens, 0)


TOKENS = make_tokens(LENGTH, 0)
BATCH_OF_TOKENS = {
  "encoder_input_tokens": TOKENS,
  "decoder_input_tokens": make_tokens(TARGETS, 1),
  "decoder_target_tokens": make_tokens(TARGETS, 1),
}


def loss(model, params, batch):
  logits = model.apply({"params": params}, **batch, enable_dropout=False)
  return seq2seq.cross_entropy(logits, batch["decoder_target_tokens"]).mean()


@pytest.fixture(scope="module")
def on_one_device():
  found = {}

  def compute(method):
    if method not in found:
      model = make_model(method)
      params = testing.random_params(model)
      function = jax.jit(jax.value_and_grad(lambda p, b: loss(model, p, b)))
      found[method] = params, function(params, BATCH_OF_TOKENS)
    return found[method]

  return compute


@pytest.mark.parametrize(
  ("method", "sizes"),
  [
    *(("k_to_k", sizes) for sizes in MESHES),
    ("k_to_all", (1, 8, 1)),
    ("k_to_all", (2, 2, 2)),
    ("adapter", (2, 2, 2)),
    ("lora", (2, 2, 2)),
  ],
)
def test_every_mesh_gives_the_same_gradients(on_one_device, method, sizes):
  params, (expected_loss, expected) = on_one_device(method)
  model = make_model(method)
  mesh = partitioning.make_mesh(*sizes)
  shardings = partitioning.shardings(model, mesh)
  rows = partitioning.batch_sharding(mesh)
  placed = jax.device_put(params, shardings)
  batch = partitioning.place_batch(
    BATCH_OF_TOKENS, BATCH, np.arange(BATCH), rows
  )
  with partitioning.under(mesh):
    found_loss, found = jax.jit(
      jax.value_and_grad(lambda p, b: loss(model, p, b)),
      out_shardings=(None, shardings),
    )(placed, batch)
  np.testing.assert_allclose(found_loss, expected_loss, rtol=1e-5)
  expected = params_lib.flatten(expected)
  for path, leaf in params_lib.flatten(found).items():
    np.testing.assert_allclose(leaf, expected[path], atol=1e-5, err_msg=path)


def test_layers_in_a_loop_on_a_mesh_give_the_same_gradients():
  """Stacked, recomputed and shared, as the configurations for TPUs have it."""
  coda = METHODS["k_to_k"]
  plain, looped = (
    Transformer(
      dataclasses.replace(
        CONFIG,
        num_encoder_layers=2,
        coda=coda,
        scan_layers=looped,
        remat=looped,
      )
    )
    for looped in (False, True)
  )
  params = testing.random_params(plain)
  expected = jax.jit(jax.grad(lambda p, b: loss(plain, p, b)))(
    params, BATCH_OF_TOKENS
  )
  mesh = partitioning.make_mesh(2, 2, 2)
  shardings = partitioning.shardings(looped, mesh)
  rows = partitioning.batch_sharding(mesh)
  with partitioning.under(mesh):
    found = jax.jit(
      jax.grad(lambda p, b: loss(looped, p, b)), out_shardings=shardings
    )(jax.device_put(params, shardings), jax.device_put(BATCH_OF_TOKENS, rows))
  expected = params_lib.flatten(expected)
  for path, leaf in params_lib.flatten(found).items():
    np.testing.assert_allclose(leaf, expected[path], atol=1e-5, err_msg=path)


def collectives(text):
  """(kind, shape) of every collective in a compiled program."""
  found = []
  for line in text.splitlines():
    match = re.search(
      r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|"
      r"collective-permute|ragged-all-to-all)(-start)?\(",
      line,
    )
    if match:
      for shape in re.findall(r"\w+\[([\d,]*)\]", match[1]):
        found.append((match[2], tuple(map(int, re.findall(r"\d+", shape)))))
  return found


def collectives_of_a_layer(coda, sizes):
  """Those of its forward and backward pass."""
  layer = CodaLayer(EncoderLayer(CONFIG, parent=None), coda)
  table = jnp.ones((8, 2 * LENGTH - 1))
  x = jax.random.normal(jax.random.key(0), (BATCH, LENGTH, 40))
  mask = jnp.asarray(TOKENS > 0)
  variables = jax.eval_shape(
    lambda: layer.init(jax.random.key(0), x, mask, bias_table=table)
  )
  mesh = partitioning.make_mesh(*sizes)
  axes = jax.tree.map(
    lambda x: x.names,
    variables["params_axes"],
    is_leaf=lambda x: hasattr(x, "names"),
  )
  rules = dict(partitioning.RULES)
  places = {
    path.removesuffix("_axes"): jax.NamedSharding(
      mesh, PartitionSpec(*(rules[name] for name in names))
    )
    for path, names in params_lib.flatten(axes).items()
  }
  places = params_lib.unflatten(places)
  rows = partitioning.batch_sharding(mesh)

  def total(params, x, mask, table):
    y, _ = layer.apply({"params": params}, x, mask, bias_table=table)
    return (y**2).sum()

  with partitioning.under(mesh):
    text = (
      jax.jit(
        jax.grad(total, (0, 1)),
        in_shardings=(places, rows, rows, None),
        out_shardings=(places, rows),
      )
      .lower(variables["params"], x, mask, table)
      .compile()
      .as_text()
    )
  return collectives(text)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 4, 1)])
@pytest.mark.parametrize(
  ("attention", "dispatch"),
  [("k_to_k", "gather"), ("k_to_all", "one_hot")],
)
def test_a_coda_layer_sends_no_token_around(attention, dispatch, sizes):
  """Forward and backward: parameters and their gradients, and nothing else."""
  coda = CodaConfig(
    reduction=2, bottleneck_dim=32, attention=attention, dispatch=dispatch
  )
  found = collectives_of_a_layer(coda, sizes)
  assert found  # Gradients are summed over the devices, at least.
  rows = {BATCH, BATCH // 8}
  lengths = {LENGTH, LENGTH // 2}  # And rows of tokens in one axis:
  tokens = rows | lengths | {n * length for n in rows for length in lengths}
  assert [f for f in found if not tokens.isdisjoint(f[1])] == []


@pytest.mark.parametrize(
  ("attention", "dispatch"),
  [("k_to_k", "gather"), ("k_to_all", "one_hot")],
)
def test_sharing_heads_sends_what_the_dense_layer_sends(attention, dispatch):
  """Sums over the parts of a layer, fewer tokens of them, and nothing more."""

  def of_tokens(reduction):
    coda = CodaConfig(
      reduction=reduction,
      bottleneck_dim=32,
      attention=attention,
      dispatch=dispatch,
    )
    found = collectives_of_a_layer(coda, (2, 1, 4))
    return [f for f in found if not {LENGTH, LENGTH // 2}.isdisjoint(f[1])]

  whole, routed = (BATCH // 2, LENGTH, 40), (BATCH // 2, LENGTH // 2, 40)
  dense, coda = of_tokens(1), of_tokens(2)
  assert dense and set(dense) == {("all-reduce", whole)}
  assert set(coda) == {("all-reduce", whole), ("all-reduce", routed)}
  assert len(coda) == len(dense)


def test_a_bank_on_a_mesh(on_one_device):
  """Each example has its own adapter, and stays on its device."""
  params, _ = on_one_device("k_to_k")
  model = make_model("k_to_k")
  one, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  trained = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), one)
  bank = AdapterBank(model, frozen, trained, ("a", "b", "c"), "")
  task_ids = np.arange(BATCH) % 3

  def encode(bank, task_ids, tokens):
    return bank.apply(
      lambda p, x: model.apply({"params": p}, x, None, False, method="encode"),
      task_ids,
      tokens,
    )

  def run(trained, frozen, task_ids, tokens):
    bank_ = dataclasses.replace(bank, trained=trained, frozen=frozen)
    return encode(bank_, task_ids, tokens)

  expected = jax.jit(run)(trained, frozen, task_ids, TOKENS)
  mesh = partitioning.make_mesh(fsdp=8)
  shardings = partitioning.shardings(model, mesh)
  _, frozen_places = params_lib.split(shardings, params_lib.TASK_PATTERNS)
  rows = partitioning.batch_sharding(mesh)
  args = (
    jax.device_put(trained, partitioning.replicated(mesh)),
    jax.device_put(frozen, frozen_places),
    *jax.device_put((task_ids, TOKENS), rows),
  )
  with partitioning.under(mesh):
    compiled = jax.jit(run, out_shardings=rows).lower(*args).compile()
  np.testing.assert_allclose(compiled(*args), expected, atol=1e-5)
  # But for the embedding, which is cut along what it looks up.
  tokens = [f for f in collectives(compiled.as_text()) if LENGTH in f[1]]
  assert all(kind in ("all-to-all", "all-gather") for kind, _ in tokens)
  gathered = [shape for kind, shape in tokens if kind == "all-gather"]
  assert all(40 not in shape and 64 not in shape for shape in gathered)


def test_the_training_state_follows_its_parameters():
  model = make_model("k_to_k")
  mesh = partitioning.make_mesh(2, 2, 2)
  shardings = partitioning.shardings(model, mesh)
  abstract = initialise.abstract_params(model)
  for optimizer in (optimizers.adamw, optimizers.adafactor):
    transform = optimizer(optimizers.constant())
    wide = jax.tree.map(lambda x: x, abstract)
    before = jax.eval_shape(
      lambda p, t=transform: state.TrainState.create(p, t), wide
    )
    places = partitioning.state_shardings(before, shardings)
    assert jax.tree.structure(places) == jax.tree.structure(before)
    assert places.trained == shardings
    assert places.step.spec == PartitionSpec()
    jax.tree.map(lambda x, place: place.shard_shape(x.shape), before, places)
    moments = [
      place.spec
      for path, place in jax.tree_util.tree_leaves_with_path(places.opt_state)
      if "wi" in jax.tree_util.keystr(path) and place.spec != PartitionSpec()
    ]
    expected = PartitionSpec("fsdp", "model")
    assert moments and all(spec == expected for spec in moments)


def test_fresh_parameters_do_not_depend_on_the_mesh():
  model = make_model("lora")
  mesh = partitioning.make_mesh(1, 4, 2)
  shardings = partitioning.shardings(model, mesh)
  key = jax.random.key(3)
  with partitioning.under(mesh):
    found = initialise.init_params(model, key, shardings)
  kernel = found["encoder"]["layers_0"]["mlp"]["wi"]["kernel"]
  assert kernel.addressable_shards[0].data.shape == (10, 28)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    found,
    initialise.init_params(model, key),
  )


def test_rows_are_where_the_mesh_has_them():
  mesh = partitioning.make_mesh(2, 2, 2)
  sharding = partitioning.batch_sharding(mesh)
  rows = partitioning.rows_here(8, sharding)
  np.testing.assert_array_equal(rows, np.arange(8))
  x = np.arange(24).reshape(8, 3)
  placed = partitioning.place_batch({"x": x}, 8, rows, sharding)["x"]
  np.testing.assert_array_equal(placed, x)
  assert placed.addressable_shards[0].data.shape == (2, 3)


@pytest.mark.parametrize(
  ("sizes", "message"),
  [
    ({"data": 3}, r"data=3.*and there are 8; choose .*\[1, 2, 4, 8\]"),
    ({"data": 16}, "needs a multiple of 16 devices, and there are 8"),
    ({"data": -1, "model": -1}, "-1 twice"),
    ({"fsdp": 0}, "fsdp=0.*expected whole numbers, 1 or more, or -1"),
    ({"fsdp": 2.0}, "fsdp=2.0.*expected whole numbers"),
  ],
)
def test_meshes_that_the_devices_do_not_make(sizes, message):
  with pytest.raises(ValueError, match=message):
    partitioning.make_mesh(**sizes)


def test_the_free_axis_takes_what_is_left():
  assert partitioning.make_mesh(-1, 2, 1).shape == {
    "data": 4,
    "fsdp": 2,
    "model": 1,
  }
  assert partitioning.make_mesh().size == 1


def test_meshes_that_the_model_does_not_fit(monkeypatch):
  model = Transformer(dataclasses.replace(CONFIG, num_heads=6, mlp_dim=60))
  with pytest.raises(
    ValueError,
    match=r"model=4 does not divide 6 of .*rel_embedding \(6, 32\); choose "
    r"model from \[1, 2\]",
  ):
    partitioning.shardings(model, partitioning.make_mesh(model=4))
  with pytest.raises(ValueError, match=r"fsdp=.*choose fsdp from \[1, 2, 4"):
    devices = jax.devices()[:3]
    partitioning.shardings(model, partitioning.make_mesh(1, 3, 1, devices))
  rules = [rule for rule in partitioning.RULES if rule[0] != "embed"]
  monkeypatch.setattr(partitioning, "RULES", rules)
  with pytest.raises(ValueError, match="logical axis 'embed', for which"):
    partitioning.shardings(model, partitioning.make_mesh())


def test_batches_that_the_mesh_does_not_share():
  mesh = partitioning.make_mesh(2, 2, 2)
  partitioning.check_batch(8, mesh)
  with pytest.raises(
    ValueError, match=r"size=6 .*data=2 x fsdp=2 = 4.*multiple of 4, .*4 or 8"
  ):
    partitioning.check_batch(6, mesh)
