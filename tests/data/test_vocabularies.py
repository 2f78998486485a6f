import pytest

from coda_jax.data import vocabularies


@pytest.mark.parametrize(("name", "size"), [("tiny", 4096), ("tiny8k", 8192)])
def test_tiny_has_t5s_ids(name, size):
  vocabulary = vocabularies.load(name)
  assert vocabulary.vocab_size == size
  ids = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id)
  assert ids == (0, 1, 2)
  assert vocabulary.encode("<extra_id_0>")[-1] == size - 1
  assert vocabularies.num_sentinels(vocabulary) == 100


@pytest.mark.parametrize("name", ["tiny", "tiny8k", "byt5"])
def test_any_text_comes_back(name):
  vocabulary = vocabularies.load(name)
  text = "Ministers' plan: £600m, 76% up; naïve 東京 Ж."
  ids = vocabulary.encode(text)
  assert vocabulary.unk_id not in ids
  assert vocabulary.decode(ids) == text


def test_path_of_a_model():
  tiny = vocabularies.load("tiny")
  again = vocabularies.load(tiny.sentencepiece_model_file, extra_ids=0)
  assert again.vocab_size == 3996


def test_byt5_sentinels_are_its_last_ids():
  vocabulary = vocabularies.load("byt5")
  assert vocabulary.vocab_size == 259
  assert vocabularies.num_sentinels(vocabulary) == 100


def test_no_text():
  with pytest.raises(ValueError, match="VOCABULARY=.'tiny'.; expected 'tiny'"):
    vocabularies.load(["tiny"])


def test_unknown_name():
  with pytest.raises(FileNotFoundError, match="expected 'tiny', 'byt5' or"):
    vocabularies.load("no_such_vocabulary")
