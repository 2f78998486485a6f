"""Encoder and logits against the T5 of PyTorch transformers, built in memory.

The weights go over by hand, by the names of both models, so that a mistake in
the package's own conversion can't hide here.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.nn.position_bias import relative_position_bucket
from coda_jax.t5.network import Transformer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
modeling_t5 = pytest.importorskip("transformers.models.t5.modeling_t5")

V1_0 = {"mlp_activations": ("relu",), "logits_via_embedding": True}
V1_1 = {"mlp_activations": ("gelu", "linear"), "logits_via_embedding": False}
CASES = {
  "v1.0": V1_0,
  "v1.1": V1_1,
  "v1.1 with a deep encoder": {
    **V1_1,
    "num_encoder_layers": 5,
    "num_decoder_layers": 1,
  },
  "v1.0 with wide heads": {**V1_0, "num_heads": 2, "head_dim": 24},
  "umt5": {**V1_1, "relpos_bias_per_layer": True, "num_decoder_layers": 2},
}


def torch_model(config, randomised):
  """A random torch T5 of the same shape."""
  torch.manual_seed(0)
  gated = len(config.mlp_activations) == 2
  kind = "UMT5" if config.relpos_bias_per_layer else "T5"
  model = getattr(transformers, f"{kind}ForConditionalGeneration")(
    getattr(transformers, f"{kind}Config")(
      vocab_size=config.vocab_size,
      d_model=config.emb_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_heads=config.num_heads,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      feed_forward_proj="gated-gelu" if gated else "relu",
      tie_word_embeddings=config.logits_via_embedding,
      dropout_rate=0.0,
      pad_token_id=0,
      eos_token_id=1,
      decoder_start_token_id=0,
    )
  )
  # UMT5 scales its logits by this; transformers 5 makes it true always.
  model.config.tie_word_embeddings = config.logits_via_embedding
  return randomised(model, tied=config.logits_via_embedding)


def convert(model, config):
  """torch's state dict -> our parameters, matrices transposed."""
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  leaves = {"token_embedder/embedding": state["shared.weight"]}
  if not config.logits_via_embedding:
    leaves["decoder/logits_dense/kernel"] = state["lm_head.weight"].T
  norms = {
    "encoder": ("pre_attention_layer_norm", "pre_mlp_layer_norm"),
    "decoder": (
      "pre_self_attention_layer_norm",
      "pre_cross_attention_layer_norm",
      "pre_mlp_layer_norm",
    ),
  }
  wi = (
    {"wi": "wi"}
    if len(config.mlp_activations) == 1
    else {"wi_0": "wi_0", "wi_1": "wi_1"}
  )
  for stack, depth in (
    ("encoder", config.num_encoder_layers),
    ("decoder", config.num_decoder_layers),
  ):
    for i in range(depth if config.relpos_bias_per_layer else 1):
      theirs = f"{stack}.block.{i}.layer.0.SelfAttention"
      bias = state[f"{theirs}.relative_attention_bias.weight"].T
      ours = f"{stack}/layers_{i}" if config.relpos_bias_per_layer else stack
      leaves[f"{ours}/relpos_bias/rel_embedding"] = bias
    leaves[f"{stack}/{stack}_norm/scale"] = state[
      f"{stack}.final_layer_norm.weight"
    ]
    for i in range(depth):
      ours, theirs = f"{stack}/layers_{i}", f"{stack}.block.{i}.layer"
      for j, norm in enumerate(norms[stack]):
        weight = state[f"{theirs}.{j}.layer_norm.weight"]
        leaves[f"{ours}/{norm}/scale"] = weight
      attentions = {
        "encoder": {"attention": "0.SelfAttention"},
        "decoder": {
          "self_attention": "0.SelfAttention",
          "encoder_decoder_attention": "1.EncDecAttention",
        },
      }[stack]
      for our, their in attentions.items():
        for name in ("query", "key", "value", "out"):
          weight = state[f"{theirs}.{their}.{name[0]}.weight"]
          leaves[f"{ours}/{our}/{name}/kernel"] = weight.T
      last = len(norms[stack]) - 1
      for name in (*wi, "wo"):
        weight = state[f"{theirs}.{last}.DenseReluDense.{name}.weight"]
        leaves[f"{ours}/mlp/{name}/kernel"] = weight.T
  return params_lib.unflatten({k: jnp.asarray(v) for k, v in leaves.items()})


def assert_close(found, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("case", CASES)
def test_encoder_and_logits(case, randomised):
  """Longer than max_distance, so that every bucket of the bias is used."""
  config = testing.tiny_config(**CASES[case])
  reference, model = torch_model(config, randomised), Transformer(config)
  params = convert(reference, config)
  expected_shapes = jax.tree.map(jnp.shape, testing.random_params(model))
  assert jax.tree.map(jnp.shape, params) == expected_shapes

  batch = testing.token_batch(config.vocab_size, (140, 9), (135, 4), padding=1)
  sources = torch.from_numpy(batch["encoder_input_tokens"]).long()
  with torch.no_grad():
    expected = reference(
      input_ids=sources,
      attention_mask=(sources > 0).long(),
      decoder_input_ids=torch.from_numpy(batch["decoder_input_tokens"]).long(),
    )

  @jax.jit
  def run(params):
    encoded = model.apply(
      {"params": params},
      batch["encoder_input_tokens"],
      enable_dropout=False,
      method=model.encode,
    )
    logits = model.apply(
      {"params": params},
      encoded,
      **batch,
      enable_dropout=False,
      method=model.decode,
    )
    return encoded, logits

  encoded, logits = run(params)
  # What stands at padding differs, and is used by neither.
  for found, theirs, tokens in [
    (encoded, expected.encoder_last_hidden_state, "encoder_input_tokens"),
    (logits, expected.logits, "decoder_target_tokens"),
  ]:
    real = batch[tokens] > 0
    assert real.sum() > 130
    assert_close(np.asarray(found)[real], theirs.numpy()[real])


@pytest.mark.parametrize("per_layer", [False, True])
def test_routing_every_token_is_the_torch_model_too(randomised, per_layer):
  """k = n with unit weights, and adapters that add nothing."""
  coda = CodaConfig(reduction=1 + 1e-6, bottleneck_dim=4)
  config = testing.tiny_config(
    **V1_1, relpos_bias_per_layer=per_layer, num_encoder_layers=2, coda=coda
  )
  reference, model = torch_model(config, randomised), Transformer(config)
  leaves = params_lib.flatten(testing.random_params(model))
  leaves = {
    path: jnp.zeros_like(leaf) if "/up/" in path else leaf
    for path, leaf in leaves.items()
  }
  leaves |= params_lib.flatten(convert(reference, config))
  tokens = testing.random_tokens((12, 7), 13, config.vocab_size)
  encoded, routing = jax.jit(
    lambda params: model.apply(
      {"params": params},
      tokens,
      enable_dropout=False,
      return_routing=True,
      method=model.encode,
    )
  )(params_lib.unflatten(leaves))
  assert [selection.mask.sum() for selection in routing] == [19, 19]
  sources = torch.from_numpy(tokens).long()
  with torch.no_grad():
    expected = reference.encoder(sources, (sources > 0).long())[0]
  real = tokens > 0
  assert_close(np.asarray(encoded)[real], expected.numpy()[real])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_position_buckets(bidirectional):
  distances = np.arange(-1200, 1201)
  expected = modeling_t5.T5Attention._relative_position_bucket(
    torch.from_numpy(distances),
    bidirectional=bidirectional,
    num_buckets=32,
    max_distance=128,
  )
  found = relative_position_bucket(
    distances, bidirectional=bidirectional, num_buckets=32, max_distance=128
  )
  np.testing.assert_array_equal(found, expected.numpy())


@pytest.mark.parametrize("gated", [True, False])
def test_number_of_parameters(gated, randomised):
  """T5 Base, 1.1 and 1.0, on torch's device without memory."""
  config = testing.tiny_config(
    vocab_size=32128,
    emb_dim=768,
    num_heads=12,
    head_dim=64,
    mlp_dim=2048 if gated else 3072,
    num_encoder_layers=12,
    num_decoder_layers=12,
    **(V1_1 if gated else V1_0),
  )
  tokens = jnp.ones((1, 2), jnp.int32)
  tree = jax.eval_shape(
    Transformer(config).init, jax.random.key(0), tokens, tokens, tokens
  )
  with torch.device("meta"):
    reference = torch_model(config, randomised)
  expected = sum(weight.numel() for weight in reference.parameters())
  assert params_lib.count(tree["params"]) == expected
