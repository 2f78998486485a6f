import pytest
import tensorflow as tf

from coda_jax.data import vocabularies


def test_tiny_has_t5s_ids():
  vocabulary = vocabularies.load("tiny")
  assert vocabulary.vocab_size == 8192
  ids = (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id)
  assert ids == (0, 1, 2)
  assert vocabulary.encode("<extra_id_0>")[-1] == 8191
  assert vocabularies.num_sentinels(vocabulary) == 100


@pytest.mark.parametrize("name", ["tiny", "byt5"])
def test_any_text_comes_back(name):
  vocabulary = vocabularies.load(name)
  text = "Ministers' plan: £600m, 76% up; naïve 東京 Ж."
  ids = vocabulary.encode(text)
  assert vocabulary.unk_id not in ids
  assert vocabulary.decode(ids) == text


def test_path_of_a_model():
  tiny = vocabularies.load("tiny")
  again = vocabularies.load(tiny.sentencepiece_model_file)
  assert again == tiny and again is not tiny


def test_byt5_sentinels_are_its_last_ids():
  vocabulary = vocabularies.load("byt5")
  assert vocabulary.vocab_size == 259
  assert vocabularies.num_sentinels(vocabulary) == 100


BROKEN = "one\ntwo\n\n - three\n"


@pytest.mark.parametrize("mark", ["|", " \\n ", "[.*]", "// "])
def test_line_breaks_come_back(mark):
  plain = vocabularies.load("tiny")
  assert plain.decode(plain.encode(BROKEN)) == "one two - three"
  vocabulary = vocabularies.load("tiny", newlines=mark)
  ids = vocabulary.encode(BROKEN)
  # The space beside a line break is lost.
  expected = BROKEN.replace("\n -", "\n-")
  assert vocabulary.decode([*ids, vocabulary.eos_id]) == expected
  # As tasks encode, in the graph.
  assert vocabulary.encode_tf(BROKEN).numpy().tolist() == ids
  (text,) = vocabulary.decode_tf(tf.constant([ids])).numpy()
  assert text.decode() == expected
  # It is the model's vocabulary, with a text of its own for line breaks.
  assert ids == plain.encode(BROKEN.replace("\n", f" {mark.strip()} "))
  assert vocabulary.vocab_size == plain.vocab_size and vocabulary != plain
  assert vocabulary == vocabularies.load("tiny", newlines=mark)


@pytest.mark.parametrize(
  ("vocabulary", "mark", "message"),
  [
    ("tiny", " ", "NEWLINES=' ' does not come back from the vocabulary"),
    ("tiny", "½", "NEWLINES='½' does not come back from the vocabulary"),
    ("tiny", 5, "NEWLINES=5; expected a text"),
    ("byt5", "|", "'byt5', which has line breaks of its own; leave NEWLINES"),
  ],
)
def test_marks_that_do_not_do(vocabulary, mark, message):
  with pytest.raises(ValueError, match=message):
    vocabularies.load(vocabulary, newlines=mark)


def test_no_text():
  with pytest.raises(ValueError, match="VOCABULARY=.'tiny'.; expected 'tiny'"):
    vocabularies.load(["tiny"])


def test_unknown_name():
  with pytest.raises(FileNotFoundError, match="expected 'tiny', 'byt5' or"):
    vocabularies.load("no_such_vocabulary")
