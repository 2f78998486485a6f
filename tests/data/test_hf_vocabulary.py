import json
import threading

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers
from tokenizers import (
  decoders,
  models,
  normalizers,
  pre_tokenizers,
  processors,
)

from coda_jax.checkpoints import installed
from coda_jax.data import hf_vocabulary, vocabularies
from coda_jax.data.hf_vocabulary import HfVocabulary

WORDS = "the capital of france is paris un ##known ##s a b c d : query . ,"
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
TEXTS = ["The capital of France is Paris.", "", " ", "a, b", "unknowns zzz é"]


def bert(lower_case=True):
  tokenizer = tokenizers.Tokenizer(
    models.WordPiece({w: i for i, w in enumerate(BERT)}, unk_token="[UNK]")
  )
  tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  tokenizer.decoder = decoders.WordPiece()
  tokenizer.add_special_tokens(BERT[:5])
  tokenizer.post_processor = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
  )
  return tokenizer


def roberta():
  """Byte-level BPE, special tokens and padding with RoBERTa's ids."""
  special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  pieces = special + letters + ["th", "the", "Ġthe"]
  tokenizer = tokenizers.Tokenizer(
    models.BPE(
      {w: i for i, w in enumerate(pieces)},
      [("t", "h"), ("th", "e"), ("Ġ", "the")],
    )
  )
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.add_special_tokens(special)
  tokenizer.post_processor = processors.RobertaProcessing(
    ("</s>", 2), ("<s>", 0), add_prefix_space=False
  )
  return tokenizer


def xlm_roberta():
  """Unigram pieces."""
  special = ["<s>", "<pad>", "</s>", "<unk>"]
  words = ["▁the", "▁a", "▁b", "▁c", "▁d", "▁", "a", "b", "c", "d", "e", "."]
  pieces = [(token, 0.0) for token in special]
  pieces += [(word, -float(i)) for i, word in enumerate(words, 2)]
  tokenizer = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3))
  tokenizer.normalizer = normalizers.NFKC()
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  tokenizer.decoder = decoders.Metaspace()
  tokenizer.add_special_tokens(special)
  tokenizer.post_processor = processors.TemplateProcessing(
    single="<s> $A </s>",
    pair="<s> $A </s> </s> $B </s>",
    special_tokens=[("<s>", 0), ("</s>", 2)],
  )
  return tokenizer


KINDS = {"bert": bert, "roberta": roberta, "xlm_roberta": xlm_roberta}


def save(tokenizer, folder):
  """With a length that texts are padded and cut to, as in many files."""
  tokenizer.enable_padding(length=16, pad_id=0, pad_token="[PAD]")
  tokenizer.enable_truncation(8)
  path = folder / "tokenizer.json"
  tokenizer.save(str(path))
  tokenizer.no_padding()
  tokenizer.no_truncation()
  return path


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
  tokenizer = KINDS[request.param]()
  return tokenizer, HfVocabulary(save(tokenizer, tmp_path))


def test_ids_of_the_file(kind):
  tokenizer, vocabulary = kind
  assert vocabulary.vocab_size == tokenizer.get_vocab_size()
  name = {0: "[PAD]", 1: "<pad>"}[vocabulary.pad_id]
  assert tokenizer.token_to_id(name) == vocabulary.pad_id
  first, last, unknown = (
    ("[CLS]", "[SEP]", "[UNK]") if name == "[PAD]" else ("<s>", "</s>", "<unk>")
  )
  assert vocabulary.bos_id == tokenizer.token_to_id(first)
  assert vocabulary.eos_id == tokenizer.token_to_id(last)
  assert vocabulary.unk_id == tokenizer.token_to_id(unknown)


def test_encode_adds_no_special_token(kind):
  tokenizer, vocabulary = kind
  for text in [*TEXTS, "a b c d " * 10]:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert vocabulary.encode(text) == ids
    found = vocabulary.encode_tf(tf.constant(text))
    assert found.dtype == tf.int32 and found.numpy().tolist() == ids


def test_decode(kind):
  tokenizer, vocabulary = kind
  ids = vocabulary.encode("the a")
  assert vocabulary.decode(ids) == tokenizer.decode(ids) == "the a"
  # Nothing after the end of the text, and no special token.
  full = [vocabulary.bos_id, *ids, vocabulary.eos_id, vocabulary.pad_id, *ids]
  assert vocabulary.decode(full) == "the a"
  assert vocabulary.decode_tf(tf.constant(full)).numpy() == b"the a"
  rows = vocabulary.decode_tf(tf.constant([full, full[::-1]]))
  assert rows.shape == (2,)
  assert rows.numpy()[0] == b"the a"
  assert vocabulary.decode([*ids, 10**6]) == "the a"


def test_in_a_pipeline(kind):
  """As seqio's tasks call it: in a graph, with many calls at a time."""
  tokenizer, vocabulary = kind
  texts = TEXTS * 8
  features = {"inputs": seqio.Feature(vocabulary, add_eos=True)}
  data = tf.data.Dataset.from_tensor_slices({"inputs": texts})
  data = seqio.preprocessors.tokenize(data, features, with_eos=True)
  assert data.element_spec["inputs"].shape == [None]
  found = [item["inputs"].tolist() for item in data.as_numpy_iterator()]
  wanted = [
    [*tokenizer.encode(text, add_special_tokens=False).ids, vocabulary.eos_id]
    for text in texts
  ]
  assert found == wanted


def reference(tokenizer, texts, pad_id, max_length=None):
  """What transformers gives: (ids, token types, mask) as lists."""
  if max_length is not None:
    tokenizer.enable_truncation(max_length)
  tokenizer.enable_padding(pad_id=pad_id)
  rows = tokenizer.encode_batch(texts)
  tokenizer.no_padding()
  tokenizer.no_truncation()
  return tuple(
    [getattr(row, name) for row in rows]
    for name in ("ids", "type_ids", "attention_mask")
  )


PAIRS = [("a b", "c"), ("", "c d"), ("a b c d a b", "the a"), ("a", "b " * 9)]


@pytest.mark.parametrize("max_length", [None, 5, 7])
@pytest.mark.parametrize("texts", [TEXTS, PAIRS, [*TEXTS, *PAIRS]])
def test_batches(kind, texts, max_length):
  tokenizer, vocabulary = kind
  found = vocabulary.encode_batch(texts, max_length=max_length)
  assert [a.dtype for a in found] == [np.int32, np.int32, np.bool_]
  wanted = reference(tokenizer, texts, vocabulary.pad_id, max_length)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(a, b)
  for ids, mask in zip(found.input_ids, found.mask, strict=True):
    assert ids[mask][0] == vocabulary.bos_id
    assert ids[mask][-1] == vocabulary.eos_id
    assert (ids[~mask] == vocabulary.pad_id).all()
  if max_length is not None:
    assert found.mask.shape[1] <= max_length
  # The vocabulary itself is not cut by it.
  assert len(vocabulary.encode("a b c d " * 10)) >= 40


def test_pairs_of_bert_and_roberta(tmp_path):
  """One separator and token types, or two separators and none."""
  batches = []
  for name, make in KINDS.items():
    (tmp_path / name).mkdir()
    vocabulary = HfVocabulary(save(make(), tmp_path / name))
    batches.append(vocabulary.encode_batch([("a b", "c"), ("a", "c")]))
  token_types = batches[0].token_types
  np.testing.assert_array_equal(
    token_types, [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
  )
  for other in batches[1:]:
    assert not other.token_types.any()
    assert (other.input_ids[0] == 2).sum() == 3


def test_stored_lengths_are_not_used(tmp_path):
  vocabulary = HfVocabulary(save(bert(), tmp_path))
  short, long = "a", "a " * 202
  assert vocabulary.encode_batch([short]).input_ids.shape == (1, 3)
  batch = vocabulary.encode_batch([short, long])
  assert batch.mask.sum(axis=1).tolist() == [3, 204]


def test_order_and_batch_mates(kind):
  _, vocabulary = kind
  texts = ["a " * n for n in (5, 1, 40, 0, 3)]
  together = vocabulary.encode_batch(texts)
  for i, text in enumerate(texts):
    alone = vocabulary.encode_batch([text])
    mask = together.mask[i]
    np.testing.assert_array_equal(together.input_ids[i][mask], *alone.input_ids)


def test_no_text_and_empty_texts(kind):
  _, vocabulary = kind
  none = vocabulary.encode_batch([])
  assert all(array.shape == (0, 2) for array in none)
  empty = vocabulary.encode_batch([""], max_length=2)
  assert empty.input_ids.tolist() == [[vocabulary.bos_id, vocabulary.eos_id]]


@pytest.mark.parametrize("max_length", [None, 9])
def test_prompts(kind, max_length):
  _, vocabulary = kind
  prompt = "query: "
  found = vocabulary.encode_batch(
    ["the capital", ("a", "b")], prompt=prompt, max_length=max_length
  )
  wanted = vocabulary.encode_batch(
    ["query: the capital", ("query: a", "b")], max_length=max_length
  )
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(a, b)
  other = vocabulary.encode_batch(["the capital", ("a", "b")])
  assert found.input_ids.tolist() != other.input_ids.tolist()


def test_prompt_length(tmp_path):
  vocabulary = HfVocabulary(save(bert(), tmp_path))
  assert vocabulary.prompt_length("") == 0
  # [CLS] query :
  assert vocabulary.prompt_length("query: ") == 3
  assert vocabulary.prompt_length("a " * 20, max_length=8) == 7


@pytest.mark.parametrize(
  ("texts", "max_length", "message"),
  [
    ("a text", None, "texts='a text' is one text; expected a list"),
    ([("a", "b", "c")], None, "contains .*; expected a text, or a pair"),
    ([b"a"], None, "contains b'a'; expected a text, or a pair"),
    (["a"], 1, "max_length=1 has no place for the 2 special tokens"),
    (["a", ("a", "b")], 2, "max_length=2 has no place for the 3 special"),
  ],
)
def test_batches_that_are_refused(tmp_path, texts, max_length, message):
  vocabulary = HfVocabulary(save(bert(), tmp_path))
  with pytest.raises(ValueError, match=message):
    vocabulary.encode_batch(texts, max_length=max_length)


def test_lower_case_is_of_the_text(tmp_path):
  path = save(bert(lower_case=False), tmp_path)
  text = "The capital of [MASK] is Paris."
  as_it_is = HfVocabulary(path)
  assert not as_it_is.lower_case
  assert as_it_is.unk_id in as_it_is.encode(text)
  settings = {"max_seq_length": 9, "do_lower_case": True}
  (tmp_path / "sentence_bert_config.json").write_text(json.dumps(settings))
  vocabulary = HfVocabulary(path)
  assert vocabulary.lower_case and vocabulary != as_it_is
  # The normaliser that sentence-transformers puts before the file's own.
  tokenizer = bert(lower_case=False)
  tokenizer.normalizer = normalizers.Sequence(
    [normalizers.Lowercase(), tokenizer.normalizer]
  )
  ids = tokenizer.encode(text, add_special_tokens=False).ids
  assert vocabulary.unk_id not in ids and 4 in ids
  assert vocabulary.encode(text) == ids
  assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == ids
  row = vocabulary.encode_batch([text], prompt="QUERY: ").input_ids[0]
  assert row[1:3].tolist() == vocabulary.encode("query:")
  assert row[3:-1].tolist() == ids
  assert not HfVocabulary(path, lower_case=False).lower_case


def test_padding_token_by_name(tmp_path):
  tokenizer = bert()
  path = save(tokenizer, tmp_path)
  config = tmp_path / "tokenizer_config.json"
  config.write_text(json.dumps({"pad_token": {"content": "[MASK]"}}))
  assert HfVocabulary(path).pad_id == 4
  config.write_text(json.dumps({"pad_token": "[SEP]"}))
  vocabulary = HfVocabulary(path)
  assert vocabulary.encode_batch(["a", "a b"]).input_ids[0, -1] == 3
  path.write_text(path.read_text().replace("[PAD]", "[FILL]"))
  config.unlink()
  with pytest.raises(ValueError, match="no padding token; expected"):
    HfVocabulary(path)


def test_load(tmp_path):
  path = save(bert(), tmp_path)
  vocabulary = vocabularies.load(str(path))
  assert isinstance(vocabulary, HfVocabulary)
  assert vocabularies.load(str(tmp_path)) == vocabulary
  assert vocabulary == HfVocabulary(path)
  assert vocabulary != seqio.ByteVocabulary()
  assert str(path) in str(vocabulary)
  with pytest.raises(ValueError, match="NEWLINES='|' with .*SentencePiece"):
    vocabularies.load(str(path), newlines="|")


def test_files_that_are_refused(tmp_path):
  path = tmp_path / "tokenizer.json"
  with pytest.raises(FileNotFoundError, match="tokenizer.json does not exist"):
    vocabularies.load(str(tmp_path))
  (tmp_path / "tokenizer_config.json").write_text("{}")
  with pytest.raises(FileNotFoundError, match="make it with transformers"):
    vocabularies.load(str(path))
  path.write_text("{}")
  with pytest.raises(ValueError, match="is not a tokenizer that tokenizers"):
    vocabularies.load(str(path))


def test_cut_and_whole_at_the_same_time(tmp_path):
  vocabulary = HfVocabulary(save(bert(), tmp_path))
  text, lengths = "a " * 50, set()

  def encode_whole():
    lengths.update(len(vocabulary.encode(text)) for _ in range(200))

  thread = threading.Thread(target=encode_whole)
  thread.start()
  for max_length in range(3, 40):
    vocabulary.encode_batch([text], max_length=max_length)
  thread.join()
  assert lengths == {50}


def test_equals_transformers(tmp_path):
  transformers = pytest.importorskip("transformers")
  try:
    folder = installed.find("all-MiniLM-L6-v2")
  except ModuleNotFoundError as error:
    pytest.skip(str(error))
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  vocabulary = vocabularies.load(str(folder))
  assert vocabulary.vocab_size == len(tokenizer)
  assert (vocabulary.pad_id, vocabulary.unk_id) == (
    tokenizer.pad_token_id,
    tokenizer.unk_token_id,
  )
  texts = [*TEXTS, "Ωmega naïve 東京 " * 90, "[MASK] don't!"]
  pairs = list(zip(texts, texts[::-1], strict=True))
  for items, columns in ((texts, [texts]), (pairs, zip(*pairs, strict=True))):
    wanted = tokenizer(
      *map(list, columns),
      padding=True,
      truncation="longest_first",
      max_length=64,
      return_tensors="np",
    )
    found = vocabulary.encode_batch(items, max_length=64)
    np.testing.assert_array_equal(found.input_ids, wanted["input_ids"])
    np.testing.assert_array_equal(found.token_types, wanted["token_type_ids"])
    np.testing.assert_array_equal(found.mask, wanted["attention_mask"])


def test_without_tokenizers(tmp_path, monkeypatch):
  path = save(bert(), tmp_path)
  monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
  with pytest.raises(ModuleNotFoundError, match="coda_jax.sentences."):
    hf_vocabulary.HfVocabulary(path)
