"""Hugging Face's names and configs of BERTs, without torch."""

import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.bert import hf
from coda_jax.bert.network import Bert
from coda_jax.checkpoints.leaves import leaf_of, leaves_of
from coda_jax.nn.config import CodaConfig

FAMILIES = {
  "bert": {"family": "bert"},
  "roberta": {"family": "roberta", "pad_id": 1, "norm_epsilon": 1e-5},
  "xlm-roberta": {"family": "xlm-roberta", "pad_id": 1, "num_token_types": 1},
}
HEADS = {
  "none": {},
  "classification": {"head": "classification", "num_labels": 3},
  "token_classification": {
    "head": "token_classification",
    "num_labels": 12,
    "head_dropout_rate": 0.3,
  },
}


def written(family="bert", head="none", dtype_name="float32", **overrides):
  """(model, its leaves, fields, tensors)."""
  config = testing.tiny_bert_config(
    **{**FAMILIES[family], **HEADS[head], **overrides}
  )
  params = testing.random_params(Bert(config))
  fields, tensors = hf.write(config, leaves_of(params), dtype_name)
  return config, params_lib.flatten(params), fields, tensors


def assert_equal(leaves, expected):
  assert leaves.keys() == expected.keys()
  for path, leaf in expected.items():
    assert leaves[path].shape == leaf.shape
    np.testing.assert_array_equal(leaves[path].read(), leaf, err_msg=path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_what_was_written_comes_back(family, head):
  config, expected, fields, tensors = written(family, head)
  found, leaves = hf.read(fields, tensors, "memory")
  assert found == config
  assert_equal(leaves, expected)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_activation_comes_back(activation):
  config, _, fields, tensors = written(activation=activation)
  assert hf.read(fields, tensors, "memory")[0] == config
  assert fields["hidden_act"] == activation


@pytest.mark.parametrize(
  ("name", "activation"),
  [
    ("gelu", "gelu"),
    ("gelu_python", "gelu"),
    ("gelu_new", "gelu_new"),
    ("gelu_pytorch_tanh", "gelu_new"),
    ("gelu_fast", "gelu_new"),
    ("swish", "silu"),
  ],
)
def test_activations_by_other_names(name, activation):
  _, _, fields, tensors = written()
  config, _ = hf.read(fields | {"hidden_act": name}, tensors, "memory")
  assert config.activation == activation


def test_names_by_hand():
  for head, names in {
    "none": {
      "embeddings.word_embeddings.weight": "token_embedder/embedding",
      "embeddings.position_embeddings.weight": "token_embedder/position",
      "embeddings.token_type_embeddings.weight": "token_embedder/token_type",
      "embeddings.LayerNorm.bias": "embedder_norm/bias",
      "encoder.layer.1.attention.self.key.bias": (
        "encoder/layers_1/attention/key/bias"
      ),
      "encoder.layer.0.attention.output.LayerNorm.weight": (
        "encoder/layers_0/attention_norm/scale"
      ),
      "encoder.layer.0.output.LayerNorm.bias": (
        "encoder/layers_0/mlp_norm/bias"
      ),
    },
    "classification": {
      "bert.embeddings.LayerNorm.weight": "embedder_norm/scale",
      "bert.pooler.dense.bias": "encoder/head/dense/bias",
      "classifier.bias": "encoder/head/logits_dense/bias",
    },
  }.items():
    _, leaves, _, tensors = written("bert", head)
    for name, path in names.items():
      np.testing.assert_array_equal(tensors[name].read(), leaves[path])


def test_matrices_are_transposed():
  for family, head, names in [
    (
      "bert",
      "classification",
      {
        "bert.encoder.layer.1.attention.output.dense.weight": (
          "encoder/layers_1/attention/out/kernel"
        ),
        "bert.encoder.layer.0.intermediate.dense.weight": (
          "encoder/layers_0/mlp/wi/kernel"
        ),
        "bert.encoder.layer.1.output.dense.weight": (
          "encoder/layers_1/mlp/wo/kernel"
        ),
        "bert.pooler.dense.weight": "encoder/head/dense/kernel",
        "classifier.weight": "encoder/head/logits_dense/kernel",
      },
    ),
    (
      "roberta",
      "classification",
      {
        "roberta.encoder.layer.0.attention.self.query.weight": (
          "encoder/layers_0/attention/query/kernel"
        ),
        "classifier.dense.weight": "encoder/head/dense/kernel",
        "classifier.out_proj.weight": "encoder/head/logits_dense/kernel",
      },
    ),
    (
      "xlm-roberta",
      "token_classification",
      {"classifier.weight": "encoder/head/logits_dense/kernel"},
    ),
  ]:
    _, leaves, _, tensors = written(family, head)
    for name, path in names.items():
      np.testing.assert_array_equal(tensors[name].read(), leaves[path].T)


@pytest.mark.parametrize("family", FAMILIES)
def test_prefix_and_old_names_of_norms(family):
  config, expected, fields, tensors = written(family)
  prefix = "bert." if family == "bert" else "roberta."
  old = {
    prefix
    + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
      "LayerNorm.bias", "LayerNorm.beta"
    ): leaf
    for name, leaf in tensors.items()
  }
  assert sum(name.endswith("gamma") for name in old) == 5
  found, leaves = hf.read(fields, old, "memory")
  assert found == config
  assert_equal(leaves, expected)


@pytest.mark.parametrize("prefix", ["", "roberta."])
def test_what_no_model_uses_is_ignored(prefix):
  config, expected, fields, tensors = written("roberta")
  number = leaf_of(np.zeros((2, 2), np.float32))
  ids = leaf_of(np.arange(20)[None])
  more = {
    f"{prefix}embeddings.position_ids": ids,
    f"{prefix}embeddings.token_type_ids": ids,
    f"{prefix}pooler.dense.weight": number,
    f"{prefix}pooler.dense.bias": number,
    "cls.predictions.decoder.weight": number,
    "cls.seq_relationship.bias": number,
    "lm_head.layer_norm.weight": number,
  }
  found, leaves = hf.read(
    fields, {prefix + k: x for k, x in tensors.items()} | more, "memory"
  )
  assert found == config
  assert_equal(leaves, expected)


@pytest.mark.parametrize("head", ["none", "token_classification"])
def test_a_pooler_is_the_start_of_a_head_of_sequences(head):
  config, expected, fields, tensors = written("bert", head)
  weight, bias = np.arange(225.0).reshape(15, 15), np.arange(15.0)
  pooler = {
    "bert.pooler.dense.weight": leaf_of(weight),
    "bert.pooler.dense.bias": leaf_of(bias),
  }
  found, leaves = hf.read(fields, tensors | pooler, "memory")
  assert found == config
  expected |= {
    "encoder/head/dense/kernel": weight.T,
    "encoder/head/dense/bias": bias,
  }
  assert_equal(leaves, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family):
  config, _, fields, tensors = written(family)
  absent = {
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0 if family == "bert" else 1,
  }
  fields = {k: x for k, x in fields.items() if k not in absent}
  expected, _ = hf.read(fields | absent, tensors, "memory")
  assert hf.read(fields, tensors, "memory")[0] == expected
  none = fields | {"pad_token_id": None}
  assert hf.read(none, tensors, "memory")[0] == expected
  assert expected.max_length == config.max_length


@pytest.mark.parametrize(
  ("pad_id", "rows", "usable"), [(1, 514, 512), (3, 514, 510), (0, 513, 512)]
)
def test_usable_positions_of_roberta(pad_id, rows, usable):
  _, _, fields, tensors = written("roberta")
  fields |= {"max_position_embeddings": rows, "pad_token_id": pad_id}
  config, _ = hf.read(fields, tensors, "memory")
  assert config.max_length == usable
  assert config.first_position + usable == rows
  back, _ = hf.write(config, {}, "float32")
  assert back["max_position_embeddings"] == rows


def test_dtype_of_the_file():
  _, _, fields, _ = written(dtype_name="bfloat16")
  assert fields["torch_dtype"] == "bfloat16"


def test_labels_come_by_number():
  """JSON's keys are strings, and "10" < "2"."""
  names = {"0": "a", "10": "k", **{str(i): f"n{i}" for i in range(1, 10)}}
  assert hf.labels({"id2label": names})[9:] == ("n9", "k")
  assert hf.labels({"id2label": names})[2] == "n2"
  assert hf.labels({}) == ()
  for bad in ({"0": "a", "2": "b"}, {"x": "a"}):
    with pytest.raises(ValueError, match="id2label has the keys .*numbers 0"):
      hf.labels({"id2label": bad})


def test_number_of_labels_by_the_matrix_without_names():
  config, _, fields, tensors = written("roberta", "classification")
  del fields["id2label"]
  assert hf.read(fields, tensors, "memory")[0] == config


def test_labels_and_matrix_must_agree():
  _, _, fields, tensors = written("bert", "classification")
  fields["id2label"] = {"0": "no", "1": "yes"}
  with pytest.raises(
    ValueError, match=r"id2label has 2 labels, and classifier.weight has 3 rows"
  ):
    hf.read(fields, tensors, "memory")


@pytest.mark.parametrize("architectures", [None, [], ["BertForMultipleChoice"]])
def test_head_that_no_class_explains_is_refused(architectures):
  _, _, fields, tensors = written("bert", "classification")
  fields["architectures"] = architectures
  with pytest.raises(
    ValueError, match=r"classifier\.\*, but architectures is .*TokenClassif"
  ):
    hf.read(fields, tensors, "memory")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"model_type": "albert"}, "model_type is 'albert'; expected one of"),
    ({"model_type": ["bert"]}, r"model_type is \['bert'\]; expected one of"),
    (
      {"position_embedding_type": "relative_key"},
      "position_embedding_type is 'relative_key'; only 'absolute'",
    ),
    ({"is_decoder": True}, "is_decoder is True; only False"),
    ({"add_cross_attention": True}, "add_cross_attention is True; only False"),
    ({"embedding_size": 8}, "embedding_size is 8; only 15"),
    ({"hidden_act": "mish"}, "hidden_act is 'mish'; expected one of"),
    ({"hidden_act": ["gelu"]}, r"hidden_act is \['gelu'\]; expected one of"),
    ({"num_attention_heads": 4}, "expected a multiple of num_heads, 4"),
    ({"hidden_size": "15"}, "emb_dim='15'; expected a whole number"),
    ({"pad_token_id": -1}, "pad_token_id=-1; expected a whole number, 0"),
    ({"max_position_embeddings": None}, "max_position_embeddings=None; expec"),
    (
      {"model_type": "roberta", "pad_token_id": 1}
      | {"max_position_embeddings": 2},
      "max_position_embeddings=2; expected a whole number, 3 or more",
    ),
  ],
)
def test_other_models_are_refused(change, message):
  _, _, fields, tensors = written()
  with pytest.raises(ValueError, match=f"x/config.json.*{message}"):
    hf.read(fields | change, tensors, "x/config.json")


def test_missing_fields_are_named():
  _, _, fields, tensors = written()
  del fields["hidden_size"], fields["vocab_size"]
  with pytest.raises(ValueError, match="x lacks vocab_size, hidden_size"):
    hf.read(fields, tensors, "x")


@pytest.mark.parametrize(
  "name",
  [
    "qa_outputs.weight",
    "encoder.layer.0.crossattention.self.query.weight",
    "encoder.layer.x.output.dense.weight",
    "embeddings.word_embeddings_projection.weight",
  ],
)
def test_unknown_tensor_is_named(name):
  _, _, fields, tensors = written()
  tensors[name] = leaf_of(np.zeros((2, 3), np.float32))
  with pytest.raises(ValueError, match=rf"does not have;.*\n.*{name} \(2, 3\)"):
    hf.read(fields, tensors, "memory")


def test_the_same_tensor_twice_is_refused():
  _, _, fields, tensors = written()
  name = "embeddings.LayerNorm.bias"
  tensors["bert.embeddings.LayerNorm.beta"] = tensors[name]
  with pytest.raises(ValueError, match=f"two tensors for {name}"):
    hf.read(fields, tensors, "memory")


def test_what_coda_adds_is_not_written():
  config = testing.tiny_bert_config(coda=CodaConfig(bottleneck_dim=4))
  leaves = leaves_of(testing.random_params(Bert(config)))
  with pytest.raises(
    ValueError, match=r"no place for these leaves(.|\n)*adapter/down/kernel"
  ):
    hf.write(config, leaves, "float32")


def test_read_parameters_run():
  """Names and shapes fit: the model of a file computes what it did."""
  config, expected, fields, tensors = written("roberta", "classification")
  found, leaves = hf.read(fields, tensors, "memory")
  tokens = np.array([[5, 9, 1]], np.int32)
  outputs = [
    Bert(c).apply(
      {"params": params_lib.unflatten(params)}, tokens, enable_dropout=False
    )
    for c, params in (
      (config, expected),
      (found, {p: jnp.asarray(leaf.read()) for p, leaf in leaves.items()}),
    )
  ]
  np.testing.assert_array_equal(*outputs)
