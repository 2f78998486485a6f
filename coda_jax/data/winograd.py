"""Winograd schemas as T5 simplifies them: name what a pronoun stands for.

Source: Raffel et al. 2020, arXiv:1910.10683, section 2.4 and appendix D.

  wsc: Mitchell asked Tom if *he* could lend some money.  ->  Tom

Only schemas whose noun is the right one can be trained on. In evaluation the
model names a noun, and is right if this agrees with what the label says of the
noun that was given.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from coda_jax.data import glue

_DETERMINERS = frozenset(
  "a an few her his each every many much my our some that the their these this"
  " those which whose your".split()
)
_LABELS = ("False", "True")


def schema(example: Mapping[str, Any]) -> dict[str, tf.Tensor]:
  """Writes an example of SuperGLUE's WSC.

  The pronoun is the word that `span2_index` counts to; some indices fall one
  short of it, and punctuation follows one pronoun.

  Args:
    example: scalars `text`, `span1_text`, `span2_text`, `span2_index` and
      `label`.

  Returns:
    `inputs` and `targets`, scalar strings; `label`, an integer.

  Raises:
    tf.errors.InvalidArgumentError: a text that lacks the pronoun.
  """
  words = tf.strings.split(example["text"], sep=" ")
  pronoun = example["span2_text"]
  bare = tf.strings.regex_replace(words, r"[[:punct:]]+$", "")
  after = tf.range(tf.size(words)) >= tf.cast(example["span2_index"], tf.int32)
  places = tf.where(after & (bare == pronoun))
  with tf.control_dependencies(
    [
      tf.debugging.assert_positive(
        tf.size(places), "the text of a Winograd schema lacks its pronoun"
      )
    ]
  ):
    place = tf.cast(places[0, 0], tf.int32)
  punctuation = tf.strings.substr(
    words[place], tf.strings.length(pronoun), tf.strings.length(words[place])
  )
  marked = tf.strings.join(["*", pronoun, "*"])
  marked = tf.cond(
    punctuation == "",
    lambda: marked,
    lambda: tf.strings.join([marked, punctuation], separator=" "),
  )
  text = tf.concat([words[:place], [marked], words[place + 1 :]], axis=0)
  return {
    "inputs": tf.strings.join(
      ["wsc:", tf.strings.reduce_join(text, separator=" ")], separator=" "
    ),
    "targets": example["span1_text"],
    "label": example["label"],
  }


def right_schemas(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Keeps the examples whose noun is what the pronoun stands for."""
  return dataset.filter(lambda example: example["label"] == 1)


def definite_pronoun(example: Mapping[str, Any]) -> dict[str, tf.Tensor]:
  """Writes an example of Definite Pronoun Resolution (Rahman and Ng 2012).

  Args:
    example: `sentence` and `pronoun`, scalar strings; `candidates`, string
      `[2]`; `label`, which of them is right.

  Returns:
    `inputs` and `targets`, scalar strings.
  """
  # Where a sentence has the pronoun twice, the first is the one.
  sentence = tf.strings.regex_replace(
    example["sentence"],
    tf.strings.join([" (", example["pronoun"], r")( |\.|,)"]),
    r" *\1*\2",
    replace_global=False,
  )
  return {
    "inputs": tf.strings.join(["wsc:", sentence], separator=" "),
    "targets": example["candidates"][example["label"]],
  }


def agrees(text: str, *, example: Mapping[str, Any], is_target: bool) -> str:
  """Says whether a noun is the one that the schema gave, as T5 compares them.

  Determiners and capitals do not count, and one may be part of the other: "The
  fuzzy bunny" is "bunny"; but "Bob" is not "Bob's hat".

  Args:
    text: the target, or what the model wrote.
    example: with `label` and `targets_pretokenized`.
    is_target: whether `text` is the target.

  Returns:
    For a target, its label, "True" or "False"; for a prediction, whether it
    agrees with the target, or "" if it is empty.
  """
  if is_target:
    label = int(example["label"])
    return glue.UNLABELLED if label < 0 else _LABELS[label]
  guess, given = _nouns(text), _nouns(example["targets_pretokenized"].decode())
  if not guess:
    return ""
  if any("'" in word for word in guess) != any("'" in word for word in given):
    return _LABELS[False]
  return _LABELS[guess <= given or given <= guess]


def _nouns(text: str) -> set[str]:
  return {
    word for word in text.strip().lower().split() if word not in _DETERMINERS
  }
