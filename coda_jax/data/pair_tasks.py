"""seqio tasks on pairs of texts, which a sentence encoder brings together."""

import functools
from collections.abc import Mapping

import seqio
import tensorflow as tf

from coda_jax.data import tables, tasks, vocabularies


def pair_task(
  filepattern: str,
  *,
  name: str = "pairs",
  inputs: str,
  targets: str,
  vocabulary: str,
  skip_bad_rows: bool = False,
) -> str:
  """Registers a task on tables whose rows are pairs of texts.

  Both texts have the vocabulary's first and last special token, as an encoder
  wants them, and keep them when they are cut.

  Args:
    filepattern: a glob in which "{split}" stands for train, validation or test;
      formats are those of `table_files.read`.
    name: the task's name.
    inputs: the first text's template, such as "{title}".
    targets: the second one's, such as "{body}".
    vocabulary: see `vocabularies.load`.
    skip_bad_rows: leave out rows that can't be read or lack a value, with a
      warning that counts them; otherwise the first one is an error.

  Returns:
    `name`.

  Raises:
    ValueError: a `filepattern` without "{split}", a wrong template, or a file
      that can't be read, has a bad row or has no rows.
    FileNotFoundError: no training file matches.
  """
  tasks.check_table(filepattern, inputs, targets)

  def make():
    loaded = vocabularies.load(vocabulary)
    feature = seqio.Feature(
      loaded, add_eos=_is_token(loaded.eos_id), dtype=tf.int32
    )
    tasks.add_text_task(
      name,
      tables.load_splits(
        filepattern,
        inputs=inputs,
        targets=targets,
        skip_bad_rows=skip_bad_rows,
      ),
      {"inputs": feature, "targets": feature},
      metric_fns=[],
      preprocessors=[
        functools.partial(
          seqio.preprocessors.tokenize, copy_pretokenized=False
        ),
        _add_first,
        seqio.preprocessors.append_eos_after_trim,
      ],
    )

  return tasks.register(
    name, (filepattern, inputs, targets, vocabulary, skip_bad_rows), make
  )


def _is_token(token: int | None) -> bool:
  return token is not None and token >= 0


def _add_first(
  dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
  """Puts the special token before texts, such as [CLS], if there is one."""
  token = output_features["inputs"].vocabulary.bos_id
  first = tf.constant([token] if _is_token(token) else [], tf.int32)
  return dataset.map(
    lambda example: {
      name: tf.concat([first, example[name]], axis=0)
      for name in output_features
    }
  )
