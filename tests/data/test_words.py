"""Words and their tokens, against transformers and the tokenizers library."""

import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers

from coda_jax.data import words
from coda_jax.data.hf_tokenizer import HfTokenizer
from coda_jax.data.hf_vocabulary import HfVocabulary

PIECES = ["un", "##aff", "##able", "new", "york", "-", ".", "a", "##b", "##c"]
SENTENCES = [
  ["Unaffable", "a", "abc", "."],
  ["new", "New York", "a-b", "zzz", "abcb"],
  ["a"],
]


def word_pieces(folder):
  """As BERT's."""
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(
      {x: i for i, x in enumerate([*special, *PIECES])}, unk_token="[UNK]"
    )
  )
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
  )
  tokenizer.add_special_tokens(special)
  tokenizer.save(str(folder / "tokenizer.json"))
  return {"pad_token": "[PAD]", "unk_token": "[UNK]"}


def byte_pairs(folder):
  """As RoBERTa's, whose tokens contain the space before them."""
  special = ["<s>", "<pad>", "</s>"]
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=special,
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  texts = ["Unaffable new New York a-b abc", " a a a a a new new new"]
  tokenizer.train_from_iterator(texts * 3, trainer)
  tokenizer.post_processor = tokenizers.processors.RobertaProcessing(
    ("</s>", 2), ("<s>", 0)
  )
  tokenizer.save(str(folder / "tokenizer.json"))
  return {"pad_token": "<pad>"}


def unigrams(folder):
  """As XLM-RoBERTa's."""
  special = ["<s>", "<pad>", "</s>", "<unk>"]
  pieces = ["▁", "▁new", "▁un", "aff", "able", "▁a", "b", "c", "-", "."]
  scores = [(x, 0.0) for x in special] + [(x, -2.0) for x in pieces]
  tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(scores, unk_id=3))
  tokenizer.normalizer = tokenizers.normalizers.Lowercase()
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
  )
  tokenizer.add_special_tokens(special)
  tokenizer.save(str(folder / "tokenizer.json"))
  return {"pad_token": "<pad>", "unk_token": "<unk>"}


KINDS = [word_pieces, byte_pairs, unigrams]


@pytest.mark.parametrize("max_length", [None, 7, 4])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_alignment_is_that_of_transformers(tmp_path, kind, max_length):
  transformers = pytest.importorskip("transformers")
  names = kind(tmp_path)
  tokenizer = HfTokenizer(tmp_path)
  backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
  if kind is byte_pairs:  # What transformers asks its users for.
    backend.pre_tokenizer.add_prefix_space = True
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_object=backend, **names
  )
  cut = {"truncation": True, "max_length": max_length} if max_length else {}
  for sentence in SENTENCES:
    found = tokenizer.encode_words(sentence, max_length=max_length)
    expected = theirs(sentence, is_split_into_words=True, **cut)
    assert found.input_ids.tolist() == expected["input_ids"]
    ids = expected.word_ids()
    firsts = [ids.index(i) for i in range(len(sentence)) if i in ids]
    assert np.flatnonzero(found.starts).tolist() == firsts
    assert not found.token_types.any()
    assert found.input_ids.dtype == found.token_types.dtype == np.int32


def test_words_of_roberta_have_their_space(tmp_path):
  """And `encode` stays as it is."""
  byte_pairs(tmp_path)
  tokenizer = HfTokenizer(tmp_path)
  found = tokenizer.encode_words(["new", "new"])
  assert found.input_ids[1:-1].tolist() == tokenizer.encode(" new new")
  assert tokenizer.encode("new") != tokenizer.encode(" new")


def test_a_word_of_nothing_is_unknown(tmp_path):
  """BERT's normalisation leaves nothing of a zero-width space."""
  word_pieces(tmp_path)
  tokenizer = HfTokenizer(tmp_path, lower_case=True)
  found = tokenizer.encode_words(["a", "\u200b", "abc", "\u200b"])
  assert found.input_ids.tolist() == [2, 11, 1, 11, 12, 13, 1, 3]
  assert np.flatnonzero(found.starts).tolist() == [1, 2, 3, 6]
  found = tokenizer.encode_words(["a", "\u200b", "abc"], max_length=4)
  assert found.input_ids.tolist() == [2, 11, 1, 3]
  with pytest.raises(ValueError, match="max_length=2 has no place for a token"):
    tokenizer.encode_words(["a"], max_length=2)


def examples(tmp_path, encode, **kwargs):
  word_pieces(tmp_path)
  feature = seqio.Feature(HfVocabulary(tmp_path), add_eos=False)
  tags = [["B-x", *["O"] * (len(s) - 1)] for s in SENTENCES]
  dataset = tf.data.Dataset.from_tensor_slices(
    {"words": tf.ragged.constant(SENTENCES), "tags": tf.ragged.constant(tags)}
  )
  return list(
    encode(
      dataset, {"inputs": feature, "targets": feature}, **kwargs
    ).as_numpy_iterator()
  )


def test_examples(tmp_path):
  cut = examples(tmp_path, words.encode, sequence_length={"inputs": 6})
  whole = examples(tmp_path, words.encode_uncut)
  tokenizer = HfTokenizer(tmp_path)
  for found, length in ((cut, 6), (whole, None)):
    for example, sentence in zip(found, SENTENCES, strict=True):
      expected = tokenizer.encode_words(sentence, max_length=length)
      assert example["inputs"].tolist() == expected.input_ids.tolist()
      assert example[words.STARTS].tolist() == expected.starts.tolist()
      assert not example["inputs_token_types"].any()
      assert example["inputs_pretokenized"].decode() == " ".join(sentence)
      tags = example["targets_pretokenized"].decode().split()
      assert len(tags) == len(sentence) and tags[0] == "B-x"
  assert len(whole[0]["inputs"]) > len(cut[0]["inputs"]) == 6


def test_a_tokenizer_without_unknown_tokens(tmp_path):
  byte_pairs(tmp_path)
  state = json.loads((tmp_path / "tokenizer.json").read_text())
  state["normalizer"] = {
    "type": "Strip",
    "strip_left": True,
    "strip_right": True,
  }
  (tmp_path / "tokenizer.json").write_text(json.dumps(state))
  with pytest.raises(ValueError, match="no token for '\\\\u3000', nor one"):
    HfTokenizer(tmp_path).encode_words(["a", "\u3000"])
