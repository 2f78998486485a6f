"""BERT, RoBERTa and XLM-RoBERTa against transformers' torch models.

Both ways: what transformers holds is read here, and what is written here is
read by transformers. Padding stands on the right, on the left, and inside of
rows; lengths go up to the most that a model has positions for.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from coda_jax import params as params_lib
from coda_jax import partitioning, testing
from coda_jax.bert import hf
from coda_jax.bert.network import Bert
from coda_jax.checkpoints import formats, pretrained
from coda_jax.checkpoints.leaves import leaf_of, leaves_of
from coda_jax.nn.config import CodaConfig
from coda_jax.training import optimizers, setup

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = {
  "vocab_size": 90,
  "hidden_size": 24,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "intermediate_size": 40,
  "max_position_embeddings": 40,
  "attn_implementation": "eager",
}
ROBERTA = {"layer_norm_eps": 1e-5, "type_vocab_size": 1}
# (family, fields of the config); RoBERTa's usual pad is 1.
CASES = {
  "bert": ("Bert", {}),
  "bert, one layer, tanh": (
    "Bert",
    {"num_hidden_layers": 1, "hidden_act": "gelu_new", "type_vocab_size": 3},
  ),
  "bert, wide heads, relu": (
    "Bert",
    {"num_attention_heads": 1, "hidden_act": "relu", "pad_token_id": 5},
  ),
  "bert, silu": ("Bert", {"hidden_act": "silu", "type_vocab_size": 1}),
  "roberta": ("Roberta", ROBERTA),
  "roberta, another pad, two types": ("Roberta", {"pad_token_id": 3}),
  "xlm-roberta": ("XLMRoberta", ROBERTA),
}
HEADS = {
  "Model": {},
  "ForSequenceClassification": {"num_labels": 3},
  "ForTokenClassification": {"num_labels": 4},
}


def torch_model(case, ending):
  """A torch model of random weights, none of which could be swapped."""
  family, fields = CASES[case]
  torch.manual_seed(0)
  config = getattr(transformers, f"{family}Config")(
    **{**SHAPE, **fields, **HEADS.get(ending, {})}
  )
  name = f"{family}{ending}"
  config.architectures = [name]  # As save_pretrained writes it.
  model = getattr(transformers, name)(config)
  with torch.no_grad():
    for path, weight in model.named_parameters():
      if "LayerNorm.weight" in path:
        weight.copy_(1 + 0.2 * torch.randn_like(weight))
      elif weight.ndim == 1:
        weight.copy_(0.2 * torch.randn_like(weight))
      elif "embeddings" in path:
        weight.copy_(torch.randn_like(weight))
      else:
        weight.copy_(weight.shape[1] ** -0.5 * torch.randn_like(weight))
  return model.eval()


def read(model):
  """(our model, our parameters) of a torch model."""
  tensors = {k: leaf_of(v.numpy()) for k, v in model.state_dict().items()}
  config, leaves = hf.read(model.config.to_dict(), tensors, "memory")
  ours = Bert(config)
  if config.head is None:  # The pooler is for a head of sequences alone.
    leaves = {p: x for p, x in leaves.items() if not params_lib.is_added(p)}
  params = params_lib.unflatten(
    {path: jnp.asarray(leaf.read()) for path, leaf in leaves.items()}
  )
  shapes = jax.tree.map(jnp.shape, testing.random_params(ours))
  assert jax.tree.map(jnp.shape, params) == shapes
  return ours, params


def make_batch(config, lengths, padded_length, padding="right"):
  """Tokens and types as numpy arrays."""
  shape = (len(lengths), padded_length)
  rng = np.random.default_rng(0)
  # No token is padding but that which is put in.
  tokens = rng.integers(config.pad_id + 1, config.vocab_size, shape)
  types = rng.integers(0, config.num_token_types, shape)
  for row, length in enumerate(lengths):
    pads = np.arange(padded_length) >= length
    if padding == "left":
      pads = pads[::-1]
    elif padding == "inside":
      pads[1:] = rng.permutation(pads[1:])
    tokens[row, pads], types[row, pads] = config.pad_id, 0
  return {
    "encoder_input_tokens": tokens.astype(np.int32),
    "encoder_token_types": types.astype(np.int32),
  }


def run_torch(model, batch, config):
  tokens = torch.from_numpy(batch["encoder_input_tokens"]).long()
  with torch.no_grad():
    found = model(
      input_ids=tokens,
      attention_mask=(tokens != config.pad_id).long(),
      token_type_ids=torch.from_numpy(batch["encoder_token_types"]).long(),
    )
  y = found.last_hidden_state if hasattr(found, "pooler_output") else found[0]
  return y.float().numpy()


def run_ours(model, params, batch):
  run = jax.jit(
    lambda p: model.apply({"params": p}, **batch, enable_dropout=False)
  )
  return np.asarray(run(params), np.float32)


def assert_close(found, expected, batch, config, tolerance=1e-5):
  """Everywhere but at padding, whose hidden states nobody uses."""
  assert found.shape == expected.shape
  if found.ndim == 3:
    real = batch["encoder_input_tokens"] != config.pad_id
    found, expected = found[real], expected[real]
  difference = np.abs(found - expected).max()
  assert difference < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("ending", HEADS)
@pytest.mark.parametrize("case", CASES)
def test_outputs(case, ending):
  reference = torch_model(case, ending)
  model, params = read(reference)
  longest = model.config.max_length
  for lengths, padded_length, padding in [
    ((longest, 9, 1), longest, "right"),
    ((7, 4), 13, "right"),
    ((longest, 9, 1), longest, "left"),
    ((12, 9, 3), 20, "inside"),
  ]:
    if ending == "ForSequenceClassification" and padding == "left":
      continue  # transformers would classify by the padding.
    batch = make_batch(model.config, lengths, padded_length, padding)
    assert_close(
      run_ours(model, params, batch),
      run_torch(reference, batch, model.config),
      batch,
      model.config,
    )


@pytest.mark.parametrize("ending", HEADS)
@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_bfloat16(case, ending):
  """As far from float32 as torch's own bfloat16 is, or little more."""
  reference = torch_model(case, ending)
  model, params = read(reference)
  half = Bert(dataclasses.replace(model.config, dtype="bfloat16"))
  batch = make_batch(model.config, (40 - 2, 9, 3), 40 - 2)
  expected = run_torch(reference, batch, model.config)
  theirs = run_torch(reference.to(torch.bfloat16), batch, model.config)
  ours = run_ours(half, params, batch)
  assert_close(ours, expected, batch, model.config, 3e-2)
  real = batch["encoder_input_tokens"] != model.config.pad_id
  error, error_of_torch = (
    np.abs(y - expected)[real if y.ndim == 3 else ...].mean()
    for y in (ours, theirs)
  )
  assert error < 1.5 * error_of_torch


@pytest.mark.parametrize("case", ["bert", "roberta", "xlm-roberta"])
def test_left_padding_is_classified_by_the_first_real_token(case):
  reference = torch_model(case, "ForSequenceClassification")
  model, params = read(reference)
  batch = make_batch(model.config, (12, 5), 12, "left")
  hidden = run_torch(reference.base_model, batch, model.config)
  first = torch.from_numpy(hidden[[0, 1], [0, 7]])[:, None]
  with torch.no_grad():
    if case == "bert":
      first = reference.bert.pooler(first)
    expected = reference.classifier(first).numpy()
  assert_close(run_ours(model, params, batch), expected, batch, model.config)


@pytest.mark.parametrize(
  ("case", "pad_id", "longest"),
  [("bert", 0, 512), ("roberta", 1, 510), ("xlm-roberta", 3, 508)],
)
def test_every_length_near_the_limit(case, pad_id, longest, monkeypatch):
  """512 rows of positions, of which RoBERTa has pad + 1 that no token takes."""
  fields = {"max_position_embeddings": 512, "pad_token_id": pad_id}
  fields |= {"num_hidden_layers": 1}
  monkeypatch.setitem(CASES, case, (CASES[case][0], CASES[case][1] | fields))
  reference = torch_model(case, "Model")
  model, params = read(reference)
  assert model.config.max_length == longest
  for length in (longest - 1, longest):
    batch = make_batch(model.config, (length, length - 2), length)
    assert_close(
      run_ours(model, params, batch),
      run_torch(reference, batch, model.config),
      batch,
      model.config,
    )
  batch = make_batch(model.config, (longest + 1,), longest + 1)
  with pytest.raises(ValueError, match=f"{longest + 1} tokens;.*for {longest}"):
    run_ours(model, params, batch)
  # transformers can't either.
  with pytest.raises((IndexError, RuntimeError)):
    run_torch(reference, batch, model.config)


@pytest.mark.parametrize("attention", ["k_to_k", "k_to_all"])
@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_routing_every_token_is_the_torch_model_too(case, attention):
  """k = n with unit weights, and adapters that add nothing."""
  reference = torch_model(case, "ForTokenClassification")
  dense, params = read(reference)
  coda = CodaConfig(reduction=1 + 1e-6, bottleneck_dim=4, attention=attention)
  model = Bert(dataclasses.replace(dense.config, coda=coda))
  leaves = params_lib.flatten(testing.random_params(model))
  leaves = {
    path: jnp.zeros_like(leaf) if "/up/" in path else leaf
    for path, leaf in leaves.items()
  }
  leaves |= params_lib.flatten(params)
  batch = make_batch(model.config, (12, 7), 13)
  assert_close(
    run_ours(model, params_lib.unflatten(leaves), batch),
    run_torch(reference, batch, model.config),
    batch,
    model.config,
  )


@pytest.mark.parametrize("ending", HEADS)
@pytest.mark.parametrize("case", CASES)
def test_transformers_reads_what_is_written_here(tmp_path, case, ending):
  reference = torch_model(case, ending)
  model, params = read(reference)
  fields, tensors = hf.write(model.config, leaves_of(params), "float32")
  (tmp_path / "config.json").write_text(json.dumps(fields))
  safetensors.numpy.save_file(
    {k: np.ascontiguousarray(leaf.read()) for k, leaf in tensors.items()},
    tmp_path / "model.safetensors",
    metadata={"format": "pt"},
  )
  # There is no pooler without the head that uses it.
  bare = {"add_pooling_layer": False} if ending == "Model" else {}
  auto = {
    "Model": transformers.AutoModel,
    "ForSequenceClassification": (
      transformers.AutoModelForSequenceClassification
    ),
    "ForTokenClassification": transformers.AutoModelForTokenClassification,
  }[ending]
  loaded, info = auto.from_pretrained(
    tmp_path, output_loading_info=True, attn_implementation="eager", **bare
  )
  assert type(loaded) is type(reference)
  assert not any(info.values()), info
  batch = make_batch(model.config, (20, 9), 20)
  expected = run_torch(reference, batch, model.config)
  found = run_torch(loaded.eval(), batch, model.config)
  np.testing.assert_array_equal(found, expected)
  ours, ours_params = read(loaded)
  assert ours.config == model.config
  jax.tree.map(np.testing.assert_array_equal, ours_params, params)


@pytest.mark.parametrize("case", ["bert", "roberta"])
def test_language_models_are_read_without_their_heads(case):
  family, fields = CASES[case]
  torch.manual_seed(0)
  config = getattr(transformers, f"{family}Config")(**SHAPE, **fields)
  classes = (
    ("ForMaskedLM", "ForPreTraining") if case == "bert" else ("ForMaskedLM",)
  )
  for ending in classes:
    reference = getattr(transformers, family + ending)(config).eval()
    model, params = read(reference)
    assert model.config.head is None
    batch = make_batch(model.config, (12, 7), 13)
    assert_close(
      run_ours(model, params, batch),
      run_torch(reference.base_model, batch, model.config),
      batch,
      model.config,
    )


def started(folder):
  """(the model of a folder with a new head, the parameters of its run)."""
  model = pretrained.model_of(
    folder, head="classification", labels=("a", "b", "c")
  )
  begun = setup.start(
    model,
    optimizers.adamw(optimizers.constant(0.1)),
    partitioning.make_mesh(),
    trained_patterns=params_lib.TASK_PATTERNS,
    initial_checkpoint_path=str(folder),
    seed=0,
  )
  return model, params_lib.merge(begun.state.trained, begun.frozen)


@pytest.mark.parametrize("ending", ["Model", "ForPreTraining"])
def test_a_new_head_starts_from_the_pooler(tmp_path, ending):
  """As in transformers, where only the layer of the logits is new."""
  torch_model("bert", ending).save_pretrained(tmp_path)
  theirs = transformers.BertForSequenceClassification.from_pretrained(
    tmp_path, num_labels=3, attn_implementation="eager"
  ).eval()
  model, params = started(tmp_path)
  # Without the pooler's leaves the configuration is the same, and so is what
  # else is read.
  plain, leaves = formats.read(tmp_path)
  assert plain.head is None and not any(map(params_lib.is_added, leaves))
  logits = params["encoder"]["head"]["logits_dense"]
  with torch.no_grad():  # The one new layer of both.
    theirs.classifier.weight.copy_(torch.tensor(np.array(logits["kernel"]).T))
    theirs.classifier.bias.copy_(torch.tensor(np.array(logits["bias"])))
  batch = make_batch(model.config, (20, 9, 1), 20)
  assert_close(
    run_ours(model, params, batch),
    run_torch(theirs, batch, model.config),
    batch,
    model.config,
  )


def test_the_head_of_a_roberta_is_new(tmp_path):
  """Its pooler is no part of such a head, in transformers either."""
  torch_model("roberta", "Model").save_pretrained(tmp_path)
  _, params = started(tmp_path)
  dense = params["encoder"]["head"]["dense"]
  assert not dense["bias"].any() and dense["kernel"].any()


@pytest.mark.parametrize("case", ["bert", "roberta", "xlm-roberta"])
def test_number_of_parameters(case):
  """Base sizes, on torch's device without memory; the pooler is not ours."""
  family = CASES[case][0]
  theirs = getattr(transformers, f"{family}Config")()
  with torch.device("meta"):
    reference = getattr(transformers, f"{family}Model")(
      theirs, add_pooling_layer=False
    )
  tensors = {
    name: leaf_of(np.broadcast_to(np.float32(0), tuple(weight.shape)))
    for name, weight in reference.state_dict().items()
  }
  config, _ = hf.read(theirs.to_dict(), tensors, "memory")
  tree = jax.eval_shape(
    Bert(config).init, jax.random.key(0), jnp.ones((1, 2), jnp.int32)
  )
  expected = sum(weight.numel() for weight in reference.parameters())
  assert params_lib.count(tree["params"]) == expected
