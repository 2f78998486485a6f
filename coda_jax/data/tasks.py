"""seqio tasks, registered by functions that gin files call.

Each function registers a task and returns its name, so that a gin file can say
`MIXTURE_OR_TASK_NAME = @tasks.span_corruption_task()`. A second call with the
same arguments changes nothing.
"""

import functools
from collections.abc import Callable, Sequence

import seqio
import tensorflow as tf

from coda_jax.data import bbc, metrics, preprocessors, vocabularies

_registered: dict[str, tuple] = {}


def _register(name: str, arguments: tuple, make: Callable[[], None]) -> str:
  """Calls `make` unless `name` is registered with the same arguments."""
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in known:
    make()
    _registered[name] = arguments
  elif _registered.get(name) != arguments:
    raise ValueError(
      f"A task {name!r} is registered already, with {_registered.get(name)},"
      f" and now again with {arguments}: give one of them another name."
    )
  return name


def output_features(vocabulary: str) -> dict[str, seqio.Feature]:
  """Returns the features of an encoder-decoder task, both ended by EOS."""
  feature = seqio.Feature(
    vocabularies.load(vocabulary), add_eos=True, dtype=tf.int32
  )
  return {"inputs": feature, "targets": feature}


def span_corruption_task(
  filepattern: str,
  *,
  name: str = "span_corruption",
  vocabulary: str = "tiny",
  noise_density: float = preprocessors.NOISE_DENSITY,
  mean_span_length: float = preprocessors.MEAN_SPAN_LENGTH,
  keep_spans: bool = False,
) -> str:
  """Registers T5's pretraining task on text files, one document a line.

  Args:
    filepattern: a glob in which "{split}" stands for train or validation, such
      as "data/corpus/*-{split}-*.txt" (see scripts/build_corpus.py).
    name: the task's name.
    vocabulary: see `vocabularies.load`.
    noise_density: share of the tokens that is cut out.
    mean_span_length: mean length of a span that is cut out.
    keep_spans: span copying: leave them in the inputs, behind their sentinels.

  Returns:
    `name`.

  Raises:
    ValueError: if `filepattern` lacks "{split}".
    FileNotFoundError: if there are no training files.
  """
  if "{split}" not in filepattern:
    raise ValueError(
      f"filepattern={filepattern!r} must hold '{{split}}', as in"
      " 'data/corpus/*-{split}-*.txt'."
    )
  patterns = {
    split: filepattern.replace("{split}", split)
    for split in ("train", "validation")
  }
  if not tf.io.gfile.glob(patterns["train"]):
    raise FileNotFoundError(
      f"No training text matches {patterns['train']!r}: run `python"
      " scripts/build_corpus.py --output=data/corpus`, or set the task's"
      " filepattern."
    )

  def make():
    seqio.TaskRegistry.add(
      name,
      source=seqio.TextLineDataSource(
        {s: p for s, p in patterns.items() if tf.io.gfile.glob(p)}
      ),
      preprocessors=[
        functools.partial(
          preprocessors.span_corruption,
          noise_density=noise_density,
          mean_span_length=mean_span_length,
          keep_spans=keep_spans,
        )
      ],
      output_features=output_features(vocabulary),
      metric_fns=[],
    )

  return _register(
    name,
    (filepattern, vocabulary, noise_density, mean_span_length, keep_spans),
    make,
  )


def mixture(rates: Sequence[tuple[str, float]], *, name: str) -> str:
  """Registers a mixture of tasks.

  Args:
    rates: (task, its share of the examples) pairs; seqio normalises the shares.
    name: the mixture's name.

  Returns:
    `name`.
  """
  arguments = tuple((task, float(rate)) for task, rate in rates)
  return _register(
    name, arguments, lambda: seqio.MixtureRegistry.add(name, list(arguments))
  )


# What each BBC task reads and writes of an article, and its metric.
_BBC_TARGETS = {
  "topic": (
    lambda article: f"topic: {bbc.topic_text(article)}",
    lambda article: article.topic,
    metrics.accuracy,
  ),
  "headline": (
    lambda article: f"headline: {article.body}",
    lambda article: article.title,
    metrics.rouge,
  ),
}


def bbc_task(
  target: str, *, name: str | None = None, vocabulary: str = "tiny"
) -> str:
  """Registers a task on the BBC News articles; splits as `bbc.split` makes.

  Args:
    target: "topic", from title and body, measured by accuracy; or "headline",
      from the body, measured by ROUGE.
    name: the task's name, "bbc_topic" or "bbc_headline" when None.
    vocabulary: see `vocabularies.load`.

  Returns:
    The task's name.

  Raises:
    ValueError: if there is no such target.
    FileNotFoundError: if the articles are not installed.
  """
  if target not in _BBC_TARGETS:
    raise ValueError(
      f"bbc_task has no target {target!r}: expected one of"
      f" {sorted(_BBC_TARGETS)}."
    )
  name = name or f"bbc_{target}"
  read_input, read_target, metric = _BBC_TARGETS[target]

  def make():
    splits = bbc.split(bbc.read())

    def dataset(split, shuffle_files, seed=None):
      del shuffle_files, seed  # the order is fixed, the task shuffles
      return tf.data.Dataset.from_tensor_slices(
        {
          "inputs": [read_input(article) for article in splits[split]],
          "targets": [read_target(article) for article in splits[split]],
        }
      )

    seqio.TaskRegistry.add(
      name,
      source=seqio.FunctionDataSource(
        dataset,
        splits=bbc.SPLITS,
        num_input_examples={s: len(a) for s, a in splits.items()},
      ),
      preprocessors=[
        seqio.preprocessors.tokenize,
        seqio.preprocessors.append_eos_after_trim,
      ],
      output_features=output_features(vocabulary),
      metric_fns=[metric],
    )

  return _register(name, (target, vocabulary), make)
