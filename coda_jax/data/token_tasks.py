"""A seqio task on words with tags, registered by a gin file."""

import glob
from collections.abc import Sequence

import seqio
import tensorflow as tf

from coda_jax.data import (
  encoding,
  tagged_words,
  tasks,
  token_metrics,
  vocabularies,
  words,
)


def token_table_task(
  filepattern: str,
  *,
  name: str,
  vocabulary: str,
  metric_fns: Sequence[tasks.Metric | str] = ("entities", "accuracy"),
) -> str:
  """Registers a task on sentences whose words have tags.

  Args:
    filepattern: a glob in which "{split}" stands for train, validation or test,
      such as "data/entities-{split}.jsonl"; for the files' formats see
      `tagged_words.read`.
    name: the task's name.
    vocabulary: a tokenizer.json, or a folder that has one; see
      `vocabularies.load`.
    metric_fns: names for `token_metrics.by_name`, or functions like those.

  Returns:
    `name`.

  Raises:
    ValueError: a `filepattern` without "{split}", another vocabulary, an
      unknown metric, a bad row, or tags that the metric does not take.
    FileNotFoundError: no training file matches.
  """
  tasks.check_filepattern(filepattern, "data/entities-{split}.jsonl")
  if not isinstance(metric_fns, list | tuple):
    raise ValueError(
      f"TABLE_METRICS={metric_fns!r}; expected a list, such as ['accuracy']"
    )
  functions = [
    token_metrics.by_name(metric) if isinstance(metric, str) else metric
    for metric in metric_fns
  ]
  loaded = vocabularies.load(vocabulary)
  if not encoding.has_own_tokens(loaded):
    raise ValueError(
      f"VOCABULARY={vocabulary!r} does not say which word a token belongs to; "
      "use the tokenizer.json of a model such as a BERT"
    )

  def make():
    splits = {}
    for split in ("train", "validation", "test"):
      pattern = filepattern.replace("{split}", split)
      # Training needs its split, the others may be missing.
      if split == "train" or glob.glob(pattern):
        splits[split] = tagged_words.load(pattern)
    if token_metrics.entities in functions:
      for tag in sorted(
        {t for some in splits.values() for s in some for t in s.tags}
      ):
        token_metrics.check_tag(tag)

    def dataset(split, shuffle_files, seed=None):
      del shuffle_files, seed  # The order is fixed, the task shuffles.
      sentences = splits[split]
      lengths = [len(sentence.words) for sentence in sentences]
      columns = {
        words.WORDS: [word for s in sentences for word in s.words],
        words.TAGS: [tag for s in sentences for tag in s.tags],
      }
      return tf.data.Dataset.from_tensor_slices(
        {
          column: tf.RaggedTensor.from_row_lengths(texts, lengths)
          for column, texts in columns.items()
        }
      )

    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(
        dataset,
        splits=tuple(splits),
        num_input_examples={s: len(some) for s, some in splits.items()},
      ),
      preprocessors=[words.encode],
      output_features=dict.fromkeys(
        ("inputs", "targets"),
        seqio.Feature(loaded, add_eos=False, dtype=tf.int32),
      ),
      metric_fns=functions,
    )

  return tasks.register(name, (filepattern, vocabulary, *functions), make)
