"""Questions on a passage, and its summary, as text to text in T5's words.

Source: Raffel et al. 2020, arXiv:1910.10683, appendix D.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from coda_jax.data import glue


def space_punctuation(text: tf.Tensor) -> tf.Tensor:
  """Puts spaces around each ASCII punctuation mark, as T5 does for SQuAD.

  Args:
    text: strings of any shape.

  Returns:
    Such strings, with single spaces, one at the end if a mark was there.
  """
  text = tf.strings.regex_replace(text, r"([[:punct:]])", r" \1 ")
  return tf.strings.regex_replace(text, r"\s+", " ")


def squad(example: Mapping[str, Any]) -> dict[str, tf.Tensor]:
  """Writes an example of SQuAD 1.1; the first answer is the target.

  Returns:
    `inputs` and `targets`, scalar strings; `answers`, string `[n]`.
  """
  answers = space_punctuation(example["answers"]["text"])
  question = space_punctuation(example["question"])
  context = space_punctuation(example["context"])
  text = tf.strings.join(
    ["question:", question, "context:", context], separator=" "
  )
  return {
    "inputs": tf.strings.regex_replace(text, r"\s+", " "),
    "targets": answers[0],
    "answers": answers,
  }


def answers(text: str, *, example: Mapping[str, Any], is_target: bool) -> Any:
  """Gives `qa_metrics.squad` every answer of a target.

  Returns:
    A target as all of its answers, a prediction as it is.
  """
  if not is_target:
    return text
  return [answer.decode() for answer in example["answers"]]


def record(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """A seqio preprocessor: ReCoRD, an example for each answer of a query.

  In evaluation too, as in T5; `qa_metrics.record` counts a query once.

  Args:
    dataset: `query` and `passage`, scalar strings; `entities` and `answers`,
      strings `[n]` and `[m]`, m = 0 where they are secret; `idx`, with the
      numbers `passage` and `query`.

  Returns:
    A dataset of `inputs` and `targets`, scalar strings; `answers`, string
    `[m]`; `passage` and `query`, the numbers.
  """

  def spread(example):
    # Highlights of the article become sentences.
    passage = tf.strings.regex_replace(
      example["passage"], r"(\.|\?|\!|\"|\')\n@highlight\n", r"\1 "
    )
    passage = tf.strings.regex_replace(passage, r"\n@highlight\n", ". ")
    entities = tf.strings.reduce_join(example["entities"], separator=", ")
    parts = ["record query:", example["query"], "entities:", entities]
    inputs = tf.strings.join([*parts, "passage:", passage], separator=" ")
    known = example["answers"]
    targets = tf.cond(
      tf.size(known) > 0, lambda: known, lambda: tf.constant([glue.UNLABELLED])
    )
    return tf.data.Dataset.from_tensor_slices(targets).map(
      lambda target: {
        "inputs": inputs,
        "targets": target,
        "answers": known,
        "passage": example["idx"]["passage"],
        "query": example["idx"]["query"],
      }
    )

  return dataset.flat_map(spread)


def answers_of_query(
  text: str, *, example: Mapping[str, Any], is_target: bool
) -> Any:
  """Gives `qa_metrics.record` every answer of a target, and its query.

  Returns:
    A target as (answers, (passage, query)), a prediction as it is.
  """
  if not is_target:
    return text
  known = answers(text, example=example, is_target=True)
  return known, (int(example["passage"]), int(example["query"]))


def summary(example: Mapping[str, Any]) -> dict[str, tf.Tensor]:
  """Writes an example of XSum.

  Returns:
    `inputs` and `targets`, scalar strings.
  """
  return {
    "inputs": tf.strings.join(
      ["summarize:", example["document"]], separator=" "
    ),
    "targets": example["summary"],
  }
