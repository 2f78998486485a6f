"""Texts to vectors, against torch, and what must not change them."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import coda_jax
from coda_jax import partitioning, testing
from coda_jax.checkpoints import installed, model_folder
from coda_jax.nn.config import CodaConfig
from coda_jax.sentences import embedding
from coda_jax.t5.network import Transformer

WORDS = "the a cat dog sat ran on mat query : passage .".split()
TEXTS = [
  "the cat sat on the mat .",
  "",
  "dog",
  "the dog ran . " * 4,
  "a cat ran",
  "unheard words",
  "the " * 60,
]
CODA = CodaConfig(reduction=2.5, bottleneck_dim=4, epsilon=0.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("model") / "bert"
  path.mkdir()
  testing.save_sentence_encoder(path, WORDS, modules=())
  return path


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
  path = tmp_path_factory.mktemp("model") / "roberta"
  path.mkdir()
  shape = {"family": "roberta", "pad_id": 1, "num_token_types": 1}
  testing.save_sentence_encoder(path, WORDS, modules=(), **shape)
  return path


def embed(folder, texts, **options):
  model, params = coda_jax.load_pretrained(folder)
  return coda_jax.embed(model, params, texts, folder, **options)


def of_torch(folder, texts, max_length=20):
  """The mean of transformers' hidden states, a text at a time."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  tokenizers = pytest.importorskip("tokenizers")
  model = transformers.AutoModel.from_pretrained(
    folder, add_pooling_layer=False, attn_implementation="eager"
  ).eval()
  tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
  tokenizer.enable_truncation(max_length)
  rows = []
  for text in texts:
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
      rows.append(model(ids).last_hidden_state[0].mean(axis=0).numpy())
  return np.stack(rows)


@pytest.mark.parametrize("kind", ["folder", "roberta"])
def test_equals_torch(kind, request):
  folder = request.getfixturevalue(kind)
  found = embed(folder, TEXTS)
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, of_torch(folder, TEXTS), atol=1e-5)


def test_roberta_pads_with_another_id(roberta):
  assert coda_jax.load_sentences(roberta).tokenizer.pad_id == 1
  assert coda_jax.load_pretrained(roberta)[0].config.pad_id == 1


@pytest.mark.parametrize("coda", [None, CODA], ids=["dense", "routed"])
@pytest.mark.parametrize("kind", ["folder", "roberta"])
def test_batches_and_batch_mates_change_nothing(kind, coda, request):
  folder = request.getfixturevalue(kind)
  model, params = coda_jax.load_pretrained(folder, coda=coda)
  if coda is not None:  # Adapters that do something.
    params = testing.random_params(model)
  sentences = coda_jax.load_sentences(folder)
  together = coda_jax.embed(model, params, TEXTS, sentences)
  for options in ({"batch_size": 1}, {"batch_size": 3}):
    found = coda_jax.embed(model, params, TEXTS, sentences, **options)
    np.testing.assert_allclose(found, together, atol=1e-5)
  turned = coda_jax.embed(model, params, TEXTS[::-1], sentences)
  np.testing.assert_allclose(turned[::-1], together, atol=1e-5)
  alone = [coda_jax.embed(model, params, [x], sentences)[0] for x in TEXTS]
  np.testing.assert_allclose(np.stack(alone), together, atol=1e-5)


MESHES = (
  {"data": 8},
  {"model": 2},
  {"data": 2, "fsdp": 2, "model": 2},
)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
@pytest.mark.parametrize("coda", [None, CODA], ids=["dense", "routed"])
def test_a_mesh_changes_nothing(tmp_path, coda, sizes, monkeypatch):
  shape = {"emb_dim": 16, "num_heads": 4}
  words = [*WORDS, "one", "two", "three"]
  testing.save_sentence_encoder(tmp_path, words, **shape)
  mesh = partitioning.make_mesh(**sizes)
  one, many = (
    coda_jax.load_pretrained(tmp_path, coda=coda, mesh=on)
    for on in (None, mesh)
  )
  assert len(jax.tree.leaves(many[1])[0].devices()) == mesh.size
  masks, encode = [], embedding._encode

  def noting(*args):
    masks.append(args[-1])
    return encode(*args)

  monkeypatch.setattr(embedding, "_encode", noting)
  sentences = coda_jax.load_sentences(tmp_path)
  for texts in (TEXTS, TEXTS[:1]):
    wanted = coda_jax.embed(*one, texts, sentences, batch_size=16)
    masks.clear()
    found = coda_jax.embed(*many, texts, sentences, batch_size=16, mesh=mesh)
    parts = sizes.get("data", 1) * sizes.get("fsdp", 1)
    for mask in masks:  # Each device has its rows alone.
      rows = mask.shape[0] // parts
      assert mask.sharding.shard_shape(mask.shape) == (rows, mask.shape[1])
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_batch_that_a_mesh_does_not_divide(folder):
  mesh = partitioning.make_mesh(data=4)
  with pytest.raises(ValueError, match="batch_size=6 does not divide among"):
    embed(folder, TEXTS, batch_size=6, mesh=mesh)


def test_windows_change_nothing(folder, monkeypatch):
  expected = embed(folder, TEXTS)
  monkeypatch.setattr(embedding, "_WINDOW", 2)
  counts = []
  found = embed(
    folder, TEXTS, batch_size=2, report=lambda *count: counts.append(count)
  )
  np.testing.assert_allclose(found, expected, atol=1e-5)
  tokens = coda_jax.load_sentences(folder).tokenizer.encode_batch(
    TEXTS, max_length=20
  )
  assert np.sum(counts, axis=0).tolist() == [len(TEXTS), tokens.mask.sum()]
  assert len(counts) == 4


def test_no_text(folder):
  assert embed(folder, []).shape == (0, 15)


def test_vectors_of_length_1(folder):
  expected = embed(folder, TEXTS)
  expected /= np.linalg.norm(expected, axis=1, keepdims=True)
  found = embed(folder, TEXTS, normalise=True)
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("include_prompt", [True, False])
def test_prompts(tmp_path, include_prompt):
  testing.save_sentence_encoder(tmp_path, WORDS, modules=())
  fields = {"prompts": {"query": "query : "}, "default_prompt_name": None}
  model_file = tmp_path / "config_sentence_transformers.json"
  model_file.write_text(json.dumps(fields))
  pooling = tmp_path / "1_Pooling/config.json"
  fields = json.loads(pooling.read_text()) | {"include_prompt": include_prompt}
  pooling.write_text(json.dumps(fields))
  texts = ["the cat", "dog"]
  found = embed(tmp_path, texts, prompt_name="query")
  np.testing.assert_array_equal(
    embed(tmp_path, texts, prompt="query : "), found
  )
  written = embed(tmp_path, [f"query : {text}" for text in texts])
  if include_prompt:
    np.testing.assert_allclose(found, written, atol=1e-5)
  else:
    assert np.abs(found - written).max() > 1e-2
  assert np.abs(found - embed(tmp_path, texts)).max() > 1e-2
  with pytest.raises(ValueError, match="no prompt 'passage'.*'query'"):
    embed(tmp_path, texts, prompt_name="passage")


def test_lengths(folder):
  text = "the cat sat on the mat . the dog ran"
  short = embed(folder, [text], max_length=6)
  np.testing.assert_allclose(
    short, embed(folder, ["the cat sat on"]), atol=1e-5
  )
  np.testing.assert_allclose(
    embed(folder, ["the " * 60]), embed(folder, ["the " * 18]), atol=1e-5
  )
  with pytest.raises(ValueError, match="=21; .* positions for 20 tokens"):
    embed(folder, [text], max_length=21)
  with pytest.raises(ValueError, match="max_length=1 has no place for the 2"):
    embed(folder, [text], max_length=1)


def test_a_transformer_without_pooling_gives_the_mean(folder, tmp_path):
  for name in ("config.json", "model.safetensors", "tokenizer.json"):
    (tmp_path / name).write_bytes((folder / name).read_bytes())
  with pytest.warns(UserWarning, match="mean of all tokens"):
    found = embed(tmp_path, TEXTS)
  np.testing.assert_array_equal(found, embed(folder, TEXTS))


def test_other_encoders(folder, tmp_path):
  """T5's encoder takes its tokens alone, padded with 0."""
  config = testing.tiny_config()
  params = testing.random_params(Transformer(config))
  model_folder.save_model(tmp_path, config, params)
  tokenizer = (folder / "tokenizer.json").read_bytes()
  (tmp_path / "tokenizer.json").write_bytes(tokenizer)
  with pytest.warns(UserWarning, match="mean of all tokens"):
    sentences = coda_jax.load_sentences(tmp_path)
  model, params = coda_jax.load_pretrained(tmp_path)
  found = coda_jax.embed(model, params, TEXTS, sentences)
  assert found.shape == (len(TEXTS), 16)
  for batch_size in (1, 3):
    other = coda_jax.embed(
      model, params, TEXTS, sentences, batch_size=batch_size
    )
    np.testing.assert_allclose(other, found, atol=1e-5)


def test_what_is_refused(folder, roberta):
  with pytest.raises(ValueError, match="texts='a text' is one text"):
    embed(folder, "a text")
  with pytest.raises(ValueError, match="batch_size=0; expected a whole number"):
    embed(folder, ["a"], batch_size=0)
  model, params = coda_jax.load_pretrained("tiny")
  with pytest.raises(ValueError, match="pads with 1, but T5 takes 0"):
    coda_jax.embed(model, params, ["a"], roberta)
  small = coda_jax.Bert(testing.tiny_bert_config(vocab_size=6))
  with pytest.raises(ValueError, match="the model has 6 embeddings"):
    coda_jax.embed(small, testing.random_params(small), ["cat"], folder)


def test_needs_no_other_framework(folder):
  code = f"""
import sys
import coda_jax
model, params = coda_jax.load_pretrained({str(folder)!r})
sentences = coda_jax.load_sentences({str(folder)!r})
print(coda_jax.embed(model, params, ["the cat", "dog"], sentences).shape)
print(*sorted({{name.split(".")[0] for name in sys.modules}}))
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  assert done.returncode == 0, done.stderr
  shape, loaded = done.stdout.splitlines()
  assert shape == "(2, 15)"
  others = {"seqio", "tensorflow", "torch", "transformers", "clu", "orbax"}
  assert not others.intersection(loaded.split())


@pytest.fixture
def minilm():
  try:
    return installed.find("all-MiniLM-L6-v2")
  except ModuleNotFoundError as error:
    pytest.skip(str(error))


def test_minilm_equals_sentence_transformers(minilm):
  library = pytest.importorskip("sentence_transformers")
  texts = [*TEXTS, "Ωmega naïve 東京!", "The stock market fell. " * 100]
  wanted = library.SentenceTransformer(str(minilm), device="cpu").encode(texts)
  found = embed("all-MiniLM-L6-v2", texts)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.usefixtures("minilm")
def test_minilm():
  texts = [
    "A man is eating food.",
    "Someone eats a meal.",
    "The stock market fell sharply on Monday.",
  ]
  vectors = embed("all-MiniLM-L6-v2", texts)
  cosines = vectors @ vectors.T
  np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-5)
  assert cosines[0, 1] > 0.6
  assert np.abs(cosines[:2, 2]).max() < 0.2
