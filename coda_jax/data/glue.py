"""GLUE and SuperGLUE as text to text, in T5's words.

Source: Raffel et al. 2020, arXiv:1910.10683, appendix D. An example is the name
of its set, then each of its texts after the name of its field; the target is
the name of the label:

  mnli hypothesis: They slept. premise: All were up late.  ->  contradiction
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

# The target of examples without a label, as in test splits.
UNLABELLED = "<unk>"

Example = Mapping[str, Any]


class Format(NamedTuple):
  """How a set of classified texts is written.

  Attributes:
    fields: names of an example's fields, in the order of the text.
    labels: names of the classes, in their order.
  """

  fields: tuple[str, ...]
  labels: tuple[str, ...]


_PAIR = ("sentence1", "sentence2")
_PREMISE = ("hypothesis", "premise")
_TWO_WAY = ("entailment", "not_entailment")
_TRUTH = ("False", "True")

GLUE = {
  "cola": Format(("sentence",), ("unacceptable", "acceptable")),
  "sst2": Format(("sentence",), ("negative", "positive")),
  "mrpc": Format(_PAIR, ("not_equivalent", "equivalent")),
  "qqp": Format(("question1", "question2"), ("not_duplicate", "duplicate")),
  "mnli": Format(_PREMISE, ("entailment", "neutral", "contradiction")),
  "qnli": Format(("question", "sentence"), _TWO_WAY),
  "rte": Format(_PAIR, _TWO_WAY),
  "wnli": Format(_PAIR, ("not_entailment", "entailment")),
}

SUPER_GLUE = {
  "boolq": Format(("passage", "question"), _TRUTH),
  "cb": Format(_PREMISE, ("entailment", "contradiction", "neutral")),
  "copa": Format(
    ("choice1", "choice2", "premise", "question"), ("choice1", "choice2")
  ),
  "multirc": Format(("question", "answer", "paragraph"), _TRUTH),
  "rte": Format(_PREMISE, _TWO_WAY),
  "wic": Format((*_PAIR, "word"), _TRUTH),
}


def classification(
  example: Example, *, prefix: str, form: Format
) -> dict[str, tf.Tensor]:
  """Writes an example of a set of classified texts.

  Args:
    example: scalar strings under the names of the fields, and `label`, an
      integer, -1 for none.
    prefix: the name that starts the input.
    form: an entry of `GLUE` or `SUPER_GLUE`.

  Returns:
    `inputs` and `targets`, scalar strings.
  """
  return {
    "inputs": _join_fields(example, prefix, form.fields),
    "targets": label_name(example["label"], form.labels),
  }


def label_name(label: tf.Tensor, labels: Sequence[str]) -> tf.Tensor:
  """The name of an integer label, "<unk>" for -1."""
  return tf.gather([UNLABELLED, *labels], label + 1)


def _join_fields(
  example: Example, prefix: str, fields: Sequence[str]
) -> tf.Tensor:
  parts = [prefix]
  for field in fields:
    parts += [f"{field}:", example[field]]
  return tf.strings.join(parts, separator=" ")


def similarity(example: Example) -> dict[str, tf.Tensor]:
  """Writes an example of STS-B: the score, 0 to 5, to the nearest 0.2.

  Returns:
    `inputs` and `targets`, scalar strings; a target is such as "3.8".
  """
  score = tf.round(tf.cast(example["label"], tf.float32) * 5) / 5
  return {
    "inputs": _join_fields(example, "stsb", _PAIR),
    "targets": tf.strings.as_string(score, precision=1),
  }


def answer_options(example: Example) -> dict[str, tf.Tensor]:
  """Writes an answer to a question of MultiRC, True or False, without HTML.

  Returns:
    `inputs` and `targets`, scalar strings; `paragraph` and `question`, the
    question's numbers.
  """
  written = classification(
    example, prefix="multirc", form=SUPER_GLUE["multirc"]
  )
  text = tf.strings.regex_replace(written["inputs"], "<br>", " ")
  return {
    **written,
    "inputs": tf.strings.regex_replace(text, "</?b>", ""),
    "paragraph": example["idx"]["paragraph"],
    "question": example["idx"]["question"],
  }


def label_of_question(text: str, *, example: Example, is_target: bool) -> Any:
  """Pairs MultiRC's labels with their question; for `qa_metrics.multirc`.

  Returns:
    A target as (text, (paragraph, question)), a prediction as it is.
  """
  if not is_target:
    return text
  return text, (int(example["paragraph"]), int(example["question"]))
