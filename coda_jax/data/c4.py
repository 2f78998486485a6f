"""Span corruption of C4, in English or in the languages of mC4."""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from coda_jax.data import prepared, preprocessors, tasks

# mT5 samples a language at a rate of its size to this power (Xue et al. 2021,
# arXiv:2010.11934, section 3.2).
LANGUAGE_EXPONENT = 0.3

# mC4's code for pages whose language is unknown.
_UNKNOWN_LANGUAGE = "und"
_VALIDATION = "-validation"


def c4_task(
  data: str = "c4/en:3.1.0", *, name: str = "c4", vocabulary: str = "tiny"
) -> str:
  """Registers T5's pretraining task on C4.

  Args:
    data: name and version in TFDS, of a configuration in one language.
    name: the task's name.
    vocabulary: see `vocabularies.load`.

  Returns:
    `name`.

  Raises:
    FileNotFoundError: the data is not prepared in TFDS_DATA_DIR.
    ValueError: an empty split.
  """
  splits = {split: split for split in ("train", "validation")}
  return _add_task(name, data, splits, vocabulary)


def mc4_mixture(
  data: str = "c4/multilingual:3.1.0",
  *,
  languages: Sequence[str] | None = None,
  name: str = "mc4",
  vocabulary: str = "tiny",
) -> str:
  """Registers mT5's pretraining mixture: span corruption, a task a language.

  Args:
    data: name and version in TFDS.
    languages: mC4's codes, such as "de"; None takes all but pages whose
      language is unknown.
    name: the mixture's name; its tasks are `name`_`language`.
    vocabulary: see `vocabularies.load`.

  Returns:
    `name`.

  Raises:
    FileNotFoundError: the data is not prepared in TFDS_DATA_DIR.
    ValueError: a language that the data lacks, or an empty split.
  """
  if languages is None:
    languages = [
      split
      for split in prepared.source(data).splits
      if not split.endswith(_VALIDATION) and split != _UNKNOWN_LANGUAGE
    ]
  rates = []
  for language in languages:
    # seqio's names have no hyphen, codes such as ja-Latn do.
    task = f"{name}_{language.replace('-', '_')}"
    splits = {"train": language, "validation": f"{language}{_VALIDATION}"}
    _add_task(task, data, splits, vocabulary)
    size = seqio.TaskRegistry.get(task).num_input_examples("train")
    rates.append((task, size**LANGUAGE_EXPONENT))
  return tasks.mixture(rates, name=name)


def _add_task(
  name: str, data: str, splits: Mapping[str, str], vocabulary: str
) -> str:
  return tasks.register(
    name,
    (prepared.folder(data), *splits.values(), vocabulary),
    lambda: seqio.TaskRegistry.add(
      name,
      source=prepared.source(data, splits),
      preprocessors=[texts, preprocessors.span_corruption],
      output_features=tasks.output_features(vocabulary),
      metric_fns=[],
    ),
  )


def texts(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Keeps the texts of C4's pages, scalar strings."""
  return dataset.map(lambda page: page["text"], tf.data.AUTOTUNE)
