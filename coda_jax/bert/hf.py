"""Hugging Face's BERT, RoBERTa and XLM-RoBERTa: their configs and names.

Pure functions, both ways; whoever calls them reads and writes the files.
"""

import re
from collections.abc import Mapping
from typing import Any

from coda_jax.bert.config import FAMILIES, BertConfig
from coda_jax.checkpoints import files, name_table
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.nn.checks import check_whole

MODEL_TYPES = FAMILIES
TRANSFORMERS_CLASS = "AutoModel"

# Tensors that no model here uses: buffers of old versions, RoBERTa's pooler,
# and the heads of language models.
IGNORED = (
  r"embeddings\.(position|token_type)_ids",
  r"pooler\..*",
  r"cls\..*",
  r"lm_head\..*",
)

# {name in the file: activation of `BertConfig`}; written under its own name.
_ACTIVATIONS = {
  "gelu": "gelu",
  "gelu_python": "gelu",
  "gelu_new": "gelu_new",
  "gelu_pytorch_tanh": "gelu_new",
  "gelu_fast": "gelu_new",
  "relu": "relu",
  "silu": "silu",
  "swish": "silu",
}
_CLASSES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}
# {head: how the names of such classes end}.
_ENDINGS = {
  None: "Model",
  "classification": "ForSequenceClassification",
  "token_classification": "ForTokenClassification",
}
_PREFIXES = ("bert.", "roberta.")
_REQUIRED = (
  "vocab_size",
  "hidden_size",
  "num_hidden_layers",
  "num_attention_heads",
  "intermediate_size",
  "max_position_embeddings",
)


def _linear(theirs: str, ours: str) -> name_table.Rows:
  return (
    (f"{theirs}.weight", f"{ours}/kernel", True),
    (f"{theirs}.bias", f"{ours}/bias", False),
  )


def _norm(theirs: str, ours: str) -> name_table.Rows:
  return ((f"{theirs}.LayerNorm.{{n}}", f"{ours}/{{n}}", False),)


# See `name_table`; {i} is a layer.
_WORDS = {
  "n": {"weight": "scale", "bias": "bias"},
  "p": {"query": "query", "key": "key", "value": "value"},
}
_LAYER, _OUR_LAYER = "encoder.layer.{i}", "encoder/layers_{i}"
_TABLE = (
  ("embeddings.word_embeddings.weight", "token_embedder/embedding", False),
  ("embeddings.position_embeddings.weight", "token_embedder/position", False),
  (
    "embeddings.token_type_embeddings.weight",
    "token_embedder/token_type",
    False,
  ),
  *_norm("embeddings", "embedder_norm"),
  *_linear(f"{_LAYER}.attention.self.{{p}}", f"{_OUR_LAYER}/attention/{{p}}"),
  *_linear(f"{_LAYER}.attention.output.dense", f"{_OUR_LAYER}/attention/out"),
  *_norm(f"{_LAYER}.attention.output", f"{_OUR_LAYER}/attention_norm"),
  *_linear(f"{_LAYER}.intermediate.dense", f"{_OUR_LAYER}/mlp/wi"),
  *_linear(f"{_LAYER}.output.dense", f"{_OUR_LAYER}/mlp/wo"),
  *_norm(f"{_LAYER}.output", f"{_OUR_LAYER}/mlp_norm"),
)


# The layer between BERT and the logits of sequences. RoBERTa's is another one,
# a part of its head.
_DENSE = "encoder/head/dense"
_POOLER = _linear("pooler.dense", _DENSE)


def _head_table(head: str | None, family: str) -> name_table.Rows:
  logits = "encoder/head/logits_dense"
  if head is None:
    return ()
  if head == "token_classification":
    return _linear("classifier", logits)
  if family == "bert":
    return (*_POOLER, *_linear("classifier", logits))
  return (
    *_linear("classifier.dense", _DENSE),
    *_linear("classifier.out_proj", logits),
  )


def read(
  fields: Mapping[str, Any], tensors: Mapping[str, Leaf], source: Any
) -> tuple[BertConfig, dict[str, Leaf]]:
  """Turns a checkpoint into a `BertConfig` and leaves by parameter path.

  Args:
    fields: the values of `config.json`.
    tensors: {name in the file: Leaf}. The names may begin with "bert." or
      "roberta.", and norms may have the old names, gamma and beta.
    source: the checkpoint's name, for messages.

  Returns:
    (config, {parameter path: Leaf}). There is a head where the checkpoint has
    one for the classification of sequences or tokens. A BERT without a head for
    sequences, but with a pooler, has the leaves of `encoder/head/dense` all the
    same: such a head can start from them.

  Raises:
    ValueError: a model that `Bert` can't be.
  """
  _check_fields(fields, source)
  named = {}
  for name, leaf in tensors.items():
    short = _short(name)
    if short in named:
      raise ValueError(
        f"{source} has two tensors for {short}, one of them {name}; get the "
        "checkpoint again"
      )
    named[short] = leaf
  head = _head(fields, named, source)
  num_labels = _num_labels(head, fields, named, source)
  names = labels(fields) if head else ()
  if names == _unnamed(num_labels):
    names = ()
  config = _read_config(fields, head, num_labels, names, source)
  rows = (*_TABLE, *_head_table(head, config.family))
  if config.family == "bert":
    rows += _POOLER
  leaves, unknown = {}, []
  for name, leaf in named.items():
    path, transposed = name_table.to_path(name, rows, _WORDS)
    if path is not None:
      leaves[path] = leaf.transposed() if transposed else leaf
    elif not any(re.fullmatch(pattern, name) for pattern in IGNORED):
      unknown.append(f"{name} {leaf.shape}")
  if unknown:
    raise ValueError(
      f"{source} contains tensors that a {config.family} does not have; is it "
      "another architecture?\n  " + "\n  ".join(unknown)
    )
  return config, leaves


def labels(fields: Mapping[str, Any]) -> tuple[str, ...]:
  """The names of a checkpoint's labels, in the order of its logits.

  Args:
    fields: the values of `config.json`.

  Returns:
    The values of `id2label` by number; empty if it is absent.

  Raises:
    ValueError: the numbers are not 0, 1, 2, ...
  """
  names = fields.get("id2label") or {}
  if not isinstance(names, Mapping):
    raise ValueError(f"id2label is {names!r}; expected numbers and names")
  try:
    # Keys of JSON are strings: "10" comes before "2".
    by_number = {int(number): str(name) for number, name in names.items()}
  except ValueError:
    by_number = {}
  if sorted(by_number) != list(range(len(names))):
    raise ValueError(
      f"id2label has the keys {', '.join(map(str, names))}; expected the "
      f"numbers 0 to {len(names) - 1}"
    )
  return tuple(by_number[number] for number in range(len(names)))


def write(
  config: BertConfig, leaves: Mapping[str, Leaf], dtype_name: str
) -> tuple[dict[str, Any], dict[str, Leaf]]:
  """Turns a model into the values and tensors of a Hugging Face folder.

  Args:
    config: the model's shape.
    leaves: {parameter path: Leaf}, without adapters, routers and LoRA.
    dtype_name: of the file, "float32" or "bfloat16".

  Returns:
    (the values of `config.json`, {name in the file: Leaf}). The class that
    `architectures` names loads it. A model without a head has no pooler:
    transformers loads it with `add_pooling_layer=False`, or makes a fresh one.

  Raises:
    ValueError: leaves that a model of Hugging Face's does not have.
  """
  rows = (*_TABLE, *_head_table(config.head, config.family))
  base = "bert." if config.family == "bert" else "roberta."
  tensors, unknown = {}, []
  for path, leaf in leaves.items():
    name, transposed = name_table.to_name(path, rows, _WORDS)
    if name is None:
      unknown.append(path)
      continue
    if config.head is not None and not name.startswith("classifier."):
      name = base + name
    tensors[name] = leaf.transposed() if transposed else leaf
  if unknown:
    raise ValueError(
      f"Hugging Face's {config.family} has no place for these leaves; convert "
      "the backbone alone (--backbone), and keep the adapter in its own "
      "folder:\n  " + "\n  ".join(unknown)
    )
  return _write_config(config, dtype_name), tensors


def _short(name: str) -> str:
  """A tensor's name without prefix, and of a norm the new one."""
  for prefix in _PREFIXES:
    name = name.removeprefix(prefix)
  name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
  return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _check_fields(fields: Mapping[str, Any], source: Any) -> None:
  if fields.get("model_type") not in MODEL_TYPES:
    raise ValueError(
      f"{source}: model_type is {fields.get('model_type')!r}; expected one of "
      f"{MODEL_TYPES}"
    )
  if missing := [name for name in _REQUIRED if name not in fields]:
    raise ValueError(f"{source} lacks {', '.join(missing)}")
  for name, value in (
    ("position_embedding_type", "absolute"),
    ("is_decoder", False),
    ("add_cross_attention", False),
    ("embedding_size", fields["hidden_size"]),
  ):
    if fields.get(name, value) != value:
      raise ValueError(
        f"{source}: {name} is {fields[name]!r}; only {value!r} is supported"
      )
  activation = fields.get("hidden_act", "gelu")
  if activation not in tuple(_ACTIVATIONS):  # Which may be a list.
    raise ValueError(
      f"{source}: hidden_act is {activation!r}; expected one of "
      f"{tuple(_ACTIVATIONS)}"
    )


def _head(
  fields: Mapping[str, Any], named: Mapping[str, Leaf], source: Any
) -> str | None:
  """The head that a checkpoint has, told by its tensors and its class."""
  if not any(name.startswith("classifier.") for name in named):
    return None
  classes = fields.get("architectures") or []
  heads = {
    ending: head for head, ending in _ENDINGS.items() if head is not None
  }
  for ending, head in heads.items():
    if any(str(name).endswith(ending) for name in classes):
      return head
  raise ValueError(
    f"{source} has the tensors classifier.*, but architectures is {classes}; "
    f"expected a class that ends in {' or '.join(heads)}"
  )


def _num_labels(
  head: str | None,
  fields: Mapping[str, Any],
  named: Mapping[str, Leaf],
  source: Any,
) -> int:
  """How many labels the head has: by its matrix, checked by their names."""
  if head is None:
    return 0
  names = ("classifier.weight", "classifier.out_proj.weight")
  found = [name for name in names if name in named]
  if not found:
    raise ValueError(
      f"{source} has tensors classifier.*, but neither {' nor '.join(names)}"
    )
  number = named[found[0]].shape[0]
  with files.naming(source):
    named_labels = len(labels(fields))
  if named_labels not in (0, number):
    raise ValueError(
      f"{source}: id2label has {named_labels} labels, and {found[0]} has "
      f"{number} rows; expected as many"
    )
  return number


def _read_config(
  fields: Mapping[str, Any],
  head: str | None,
  num_labels: int,
  names: tuple[str, ...],
  source: Any,
) -> BertConfig:
  family = fields["model_type"]
  pad_id = fields.get("pad_token_id")
  if pad_id is None:
    pad_id = 0 if family == "bert" else 1
  with files.naming(source):
    # Not all rows of RoBERTa's positions can be used: see `first_position`.
    check_whole("pad_token_id", pad_id, 0)
    unused = 0 if family == "bert" else pad_id + 1
    rows = fields["max_position_embeddings"]
    check_whole("max_position_embeddings", rows, unused + 1)
    return BertConfig(
      family=family,
      vocab_size=fields["vocab_size"],
      emb_dim=fields["hidden_size"],
      num_heads=fields["num_attention_heads"],
      num_encoder_layers=fields["num_hidden_layers"],
      mlp_dim=fields["intermediate_size"],
      activation=_ACTIVATIONS[fields.get("hidden_act", "gelu")],
      max_length=rows - unused,
      num_token_types=fields.get("type_vocab_size", 2),
      pad_id=pad_id,
      norm_epsilon=fields.get("layer_norm_eps", 1e-12),
      dropout_rate=fields.get("hidden_dropout_prob", 0.1),
      attention_dropout_rate=fields.get("attention_probs_dropout_prob", 0.1),
      head=head,
      num_labels=num_labels,
      labels=names,
      head_dropout_rate=fields.get("classifier_dropout") if head else None,
    )


def _unnamed(number: int) -> tuple[str, ...]:
  """What transformers calls labels that have no names."""
  return tuple(f"LABEL_{i}" for i in range(number))


def _write_config(config: BertConfig, dtype_name: str) -> dict[str, Any]:
  fields = {
    "architectures": [_CLASSES[config.family] + _ENDINGS[config.head]],
    "model_type": config.family,
    "vocab_size": config.vocab_size,
    "hidden_size": config.emb_dim,
    "num_hidden_layers": config.num_encoder_layers,
    "num_attention_heads": config.num_heads,
    "intermediate_size": config.mlp_dim,
    "hidden_act": config.activation,
    "hidden_dropout_prob": config.dropout_rate,
    "attention_probs_dropout_prob": config.attention_dropout_rate,
    "max_position_embeddings": config.first_position + config.max_length,
    "type_vocab_size": config.num_token_types,
    "layer_norm_eps": config.norm_epsilon,
    "pad_token_id": config.pad_id,
    "position_embedding_type": "absolute",
    "torch_dtype": dtype_name,
  }
  if config.head is None:
    return fields
  names = config.labels or _unnamed(config.num_labels)
  return fields | {
    "classifier_dropout": config.head_dropout_rate,
    "id2label": {str(i): name for i, name in enumerate(names)},
    "label2id": {name: i for i, name in enumerate(names)},
  }
