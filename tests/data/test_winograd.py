import pytest
import tensorflow as tf

from coda_jax.data import winograd


def schema(text, pronoun, index):
  example = {
    "text": text,
    "span1_text": "noun",
    "span2_text": pronoun,
    "span2_index": index,
    "label": 1,
  }
  tensors = {key: tf.constant(value) for key, value in example.items()}
  return winograd.schema(tensors)["inputs"].numpy().decode()


@pytest.mark.parametrize(
  "text, pronoun, index, expected",
  [
    ("Tom said he left.", "he", 2, "Tom said *he* left."),
    ("He said he left.", "he", 2, "He said *he* left."),
    ("It fell.", "It", 0, "*It* fell."),
    # The second of two, and one word before it.
    ("it may use it , now", "it", 2, "it may use *it* , now"),
    # Punctuation behind the pronoun becomes a word, as in T5's special case.
    ('over him. "Good for him," he said.', "him", 4, None),
  ],
)
def test_schema(text, pronoun, index, expected):
  expected = expected or 'over him. "Good for *him* ," he said.'
  assert schema(text, pronoun, index) == f"wsc: {expected}"


def test_no_pronoun():
  with pytest.raises(tf.errors.InvalidArgumentError, match="lacks its pronoun"):
    schema("he said it", "he", 1)


@pytest.mark.parametrize(
  "guess, given, expected",
  [
    ("Tom", "Tom", "True"),
    ("tom", "Mitchell", "False"),
    ("The fuzzy bunny", "bunny", "True"),
    ("bunny", "the fuzzy bunny", "True"),
    ("his dog", "the dog", "True"),
    ("Bob", "Bob's hat", "False"),
    ("Bob's", "Bob's hat", "True"),
    ("the", "Tom", ""),
    ("", "Tom", ""),
  ],
)
def test_agreement(guess, given, expected):
  example = {"targets_pretokenized": given.encode(), "label": 1}
  found = winograd.agrees(guess, example=example, is_target=False)
  assert found == expected


@pytest.mark.parametrize(
  "label, text", [(0, "False"), (1, "True"), (-1, "<unk>")]
)
def test_label_of_a_target(label, text):
  example = {"targets_pretokenized": b"Tom", "label": label}
  assert winograd.agrees("Tom", example=example, is_target=True) == text
