"""The parameter tree of every published size, against golden files.

A file a family, a line a leaf, the layers of a stack folded into one:

  "encoder/layers_*/attention/key/kernel":
    "8 x float32[512, 384] embed, joined_kv"

A change here is a change of the checkpoint format. Rewrite the files with
`python tests/golden/test_parameter_trees.py`, and say in the commit why.
"""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from coda_jax import params as params_lib
from coda_jax.bert.config import BertConfig
from coda_jax.bert.network import Bert
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.config import T5Config
from coda_jax.t5.network import Transformer

FOLDER = pathlib.Path(__file__).parent
FAMILIES = {
  "t5_1_0": {"vocab_size": 32128, "logits_via_embedding": True},
  "t5_1_1": {"vocab_size": 32128, "mlp_activations": ("gelu", "linear")},
  "mt5": {"vocab_size": 250112, "mlp_activations": ("gelu", "linear")},
  "umt5": {
    "vocab_size": 256384,
    "mlp_activations": ("gelu", "linear"),
    "relpos_bias_per_layer": True,
  },
  "byt5": {"vocab_size": 384, "mlp_activations": ("gelu", "linear")},
}
# Encoder and decoder layers, d_model, heads, head size, d_ff.
V1_1 = {
  "small": (8, 8, 512, 6, 64, 1024),
  "base": (12, 12, 768, 12, 64, 2048),
  "large": (24, 24, 1024, 16, 64, 2816),
  "xl": (24, 24, 2048, 32, 64, 5120),
  "xxl": (24, 24, 4096, 64, 64, 10240),
}
SIZES = {
  "t5_1_0": {
    "small": (6, 6, 512, 8, 64, 2048),
    "base": (12, 12, 768, 12, 64, 3072),
    "large": (24, 24, 1024, 16, 64, 4096),
    "3b": (24, 24, 1024, 32, 128, 16384),
    "11b": (24, 24, 1024, 128, 128, 65536),
  },
  "t5_1_1": V1_1,
  "mt5": V1_1,
  # There is no large; in xl and xxl nothing is new.
  "umt5": {size: V1_1[size] for size in ("small", "base")},
  "byt5": {
    "small": (12, 4, 1472, 6, 64, 3584),
    "base": (18, 6, 1536, 12, 64, 3968),
    "large": (36, 12, 1536, 16, 64, 3840),
    "xl": (36, 12, 2560, 32, 64, 6720),
    "xxl": (36, 12, 4672, 64, 64, 12352),
  },
}
ALL = [(family, size) for family in SIZES for size in SIZES[family]]
# The BERTs: family, vocabulary, token types, pad id.
BERTS = {
  "bert": ("bert", 30522, 2, 0),
  "roberta": ("roberta", 50265, 1, 1),
  "xlm_roberta": ("xlm-roberta", 250002, 1, 1),
}
# Layers, width, heads, d_ff.
BERT_SIZES = {"base": (12, 768, 12, 3072), "large": (24, 1024, 16, 4096)}
ALL_BERTS = [(family, size) for family in BERTS for size in BERT_SIZES]
# What is added to BERT Base.
BERT_ADDED = {
  "classification": {"head": "classification", "num_labels": 2},
  "token_classification": {"head": "token_classification", "num_labels": 9},
  "coda": {"coda": CodaConfig(reduction=3)},
}
# What is added to T5 1.1 Base.
ADDED = {
  "adapter": CodaConfig(reduction=1),
  "coda": CodaConfig(reduction=3),
  "coda_last_layers": CodaConfig(
    reduction=1, layer_reductions=tuple((i, 5) for i in range(6, 12))
  ),
  "lora": CodaConfig(
    reduction=1, bottleneck_dim=0, lora=LoraConfig(targets=("query", "wi_0"))
  ),
}


def make_config(family, size):
  encoder, decoder, emb_dim, heads, head_dim, mlp_dim = SIZES[family][size]
  return T5Config(
    num_encoder_layers=encoder,
    num_decoder_layers=decoder,
    emb_dim=emb_dim,
    num_heads=heads,
    head_dim=head_dim,
    mlp_dim=mlp_dim,
    **FAMILIES[family],
  )


def make_bert_config(family, size, **fields):
  name, vocab_size, types, pad_id = BERTS[family]
  depth, emb_dim, heads, mlp_dim = BERT_SIZES[size]
  return BertConfig(
    family=name,
    vocab_size=vocab_size,
    num_token_types=types,
    pad_id=pad_id,
    num_encoder_layers=depth,
    emb_dim=emb_dim,
    num_heads=heads,
    mlp_dim=mlp_dim,
    **fields,
  )


@functools.cache
def init(config):
  """(path -> ShapeDtypeStruct, path -> logical axes), nothing computed."""
  tokens = jnp.ones((1, 4), jnp.int32)
  if isinstance(config, BertConfig):
    model, arguments = Bert(config), (tokens,)
  else:
    model, arguments = Transformer(config), (tokens,) * 3
  variables = jax.eval_shape(model.init, jax.random.key(0), *arguments)
  assert variables.keys() == {"params", "params_axes"}
  axes = params_lib.flatten(variables["params_axes"])
  leaves = params_lib.flatten(variables["params"])
  return leaves, {path: axes.pop(f"{path}_axes").names for path in leaves}


def describe(config):
  """One line a leaf, equal leaves of different layers counted."""
  leaves, axes = init(config)
  layers = {}
  for path, leaf in leaves.items():
    names = ", ".join(str(name) for name in axes[path])
    text = f"{leaf.dtype}{list(leaf.shape)} {names}"
    folded = re.sub(r"layers_\d+", "layers_*", path)
    layers.setdefault(folded, []).append(text)
  assert all(len(set(texts)) == 1 for texts in layers.values())
  return {path: f"{len(t)} x {t[0]}" for path, t in sorted(layers.items())}


def describe_added(name):
  """Only what is added to T5 1.1 Base, which must be there unchanged."""
  backbone = make_config("t5_1_1", "base")
  config = dataclasses.replace(backbone, coda=ADDED[name])
  lines = describe(config)
  assert describe(backbone).items() <= lines.items()
  return {p: t for p, t in lines.items() if p not in describe(backbone)}


def describe_added_to_bert(name):
  """Only what is added to BERT Base, which must be there unchanged."""
  backbone = describe(make_bert_config("bert", "base"))
  lines = describe(make_bert_config("bert", "base", **BERT_ADDED[name]))
  assert backbone.items() <= lines.items()
  return {p: t for p, t in lines.items() if p not in backbone}


def golden(name):
  return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize(("family", "size"), ALL)
def test_tree_equals_golden_file(family, size):
  if family == "mt5":  # T5 1.1 with another vocabulary
    expected = {
      path: line.replace("32128", "250112")
      for path, line in golden("t5_1_1")[size].items()
    }
  else:
    expected = golden(family)[size]
  assert describe(make_config(family, size)) == expected


@pytest.mark.parametrize("name", ADDED)
def test_added_leaves_equal_golden_file(name):
  assert describe_added(name) == golden("added")[name]


@pytest.mark.parametrize(("family", "size"), ALL_BERTS)
def test_tree_of_bert_equals_golden_file(family, size):
  expected = golden(family)[size]
  assert describe(make_bert_config(family, size)) == expected


@pytest.mark.parametrize("name", BERT_ADDED)
def test_leaves_added_to_bert_equal_golden_file(name):
  assert describe_added_to_bert(name) == golden("added_to_bert")[name]


@pytest.mark.parametrize(
  ("family", "size", "count"),
  [
    ("bert", "base", 109_482_240),
    ("bert", "large", 335_141_888),
    ("roberta", "base", 124_645_632),
    ("roberta", "large", 355_359_744),
    ("xlm_roberta", "base", 278_043_648),
    ("xlm_roberta", "large", 559_890_432),
  ],
)
def test_count_of_bert_equals_the_published_checkpoint(family, size, count):
  """Which has a pooler besides."""
  width = BERT_SIZES[size][1]
  leaves, _ = init(make_bert_config(family, size))
  assert params_lib.count(leaves) == count - (width + 1) * width


def test_layers_are_numbered_from_zero():
  paths = init(make_config("byt5", "small"))[0]
  for stack, depth in (("encoder", 12), ("decoder", 4)):
    found = {p.split("/")[1] for p in paths if p.startswith(f"{stack}/layers")}
    assert found == {f"layers_{i}" for i in range(depth)}


def test_every_dimension_has_a_logical_axis():
  configs = [make_config(*name) for name in ALL]
  configs += [
    make_bert_config("bert", "base", **fields) for fields in BERT_ADDED.values()
  ]
  for config in configs:
    leaves, axes = init(config)
    for path, leaf in leaves.items():
      assert len(axes[path]) == leaf.ndim
      assert None not in axes[path]


def count_by_hand(family, size):
  """The parameters of a T5, added up without a network."""
  encoder, decoder, d, heads, head_dim, mlp = SIZES[family][size]
  gated = family != "t5_1_0"
  attention = 4 * d * heads * head_dim
  feed_forward = (3 if gated else 2) * d * mlp
  embeddings = (2 if gated else 1) * FAMILIES[family]["vocab_size"] * d
  biases = encoder + decoder if family == "umt5" else 2
  return (
    embeddings
    + encoder * (attention + feed_forward + 2 * d)
    + decoder * (2 * attention + feed_forward + 3 * d)
    + biases * 32 * heads
    + 2 * d  # each stack's final norm
  )


@pytest.mark.parametrize(("family", "size"), ALL)
def test_count_equals_sum_by_hand(family, size):
  leaves, _ = init(make_config(family, size))
  assert params_lib.count(leaves) == count_by_hand(family, size)


@pytest.mark.parametrize(
  ("family", "size", "count"),
  [
    ("t5_1_0", "small", 60_506_624),
    ("t5_1_0", "base", 222_903_552),
    ("t5_1_0", "large", 737_668_096),
    ("t5_1_1", "small", 76_961_152),
    ("t5_1_1", "base", 247_577_856),
  ],
)
def test_count_equals_the_published_checkpoint(family, size, count):
  assert count_by_hand(family, size) == count


def test_counts_round_to_the_published_sizes():
  """Table 1 of ByT5 (2105.13626), in millions; T5's 3B and 11B (1910.10683)."""
  millions = {
    "mt5": (300, 582, 1230, 3740, 12900),
    "byt5": (300, 582, 1230, 3740, 12900),
  }
  for family, published in millions.items():
    for size, expected in zip(SIZES[family], published, strict=True):
      count = count_by_hand(family, size) / 1e6
      assert float(f"{count:.3g}") == pytest.approx(expected, rel=0.001)
  assert round(count_by_hand("t5_1_0", "3b") / 1e8) in (28, 29)
  assert round(count_by_hand("t5_1_0", "11b") / 1e9) == 11


def test_adapters_are_a_bottleneck_in_every_layer():
  backbone = make_config("t5_1_1", "base")
  leaves, _ = init(dataclasses.replace(backbone, coda=ADDED["adapter"]))
  added = params_lib.count(leaves) - count_by_hand("t5_1_1", "base")
  assert added == (12 + 12) * 2 * 768 * 64


def write_files():
  trees = {
    family: {size: describe(make_config(family, size)) for size in sizes}
    for family, sizes in SIZES.items()
    if family != "mt5"
  }
  trees |= {
    family: {
      size: describe(make_bert_config(family, size)) for size in BERT_SIZES
    }
    for family in BERTS
  }
  trees["added"] = {name: describe_added(name) for name in ADDED}
  trees["added_to_bert"] = {
    name: describe_added_to_bert(name) for name in BERT_ADDED
  }
  for name, tree in trees.items():
    text = json.dumps(tree, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
  write_files()
