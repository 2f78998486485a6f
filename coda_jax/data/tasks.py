"""seqio tasks, registered by functions that gin files call.

Each function registers a task and returns its name, so that a gin file can say
`MIXTURE_OR_TASK_NAME = @tasks.span_corruption_task()`. A second call with the
same arguments changes nothing.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import seqio
import tensorflow as tf

from coda_jax.data import (
  encoding,
  metrics,
  preprocessors,
  tables,
  vocabularies,
)

Metric = Callable[[Sequence[str], Sequence[str]], dict[str, float]]

_registered: dict[str, tuple] = {}
_with_pairs: set[str] = set()


def register(name: str, arguments: tuple, make: Callable[[], None]) -> str:
  """Registers a task or mixture once.

  Args:
    name: the name that `make` registers.
    arguments: all values that the task depends on.
    make: called unless `name` is registered already, with the same arguments.

  Returns:
    `name`.

  Raises:
    ValueError: `name` is registered already, with other arguments.
  """
  known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
  if name not in known:
    make()
    _registered[name] = arguments
  elif _registered.get(name) != arguments:
    raise ValueError(
      f"a task {name!r} is registered already, with {_registered.get(name)},"
      f" and now again with {arguments}: give one of them another name"
    )
  return name


def output_features(
  vocabulary: str, newlines: str | None = None
) -> dict[str, seqio.Feature]:
  """The features of a task, both ended by EOS.

  Inputs of a vocabulary with special tokens of its own have these instead; and
  targets have the token that such a vocabulary ends texts with, if any.
  """
  loaded = vocabularies.load(vocabulary, newlines=newlines)
  is_own = encoding.has_own_tokens(loaded)
  return {
    name: seqio.Feature(loaded, add_eos=add_eos, dtype=tf.int32)
    for name, add_eos in (
      ("inputs", not is_own),
      ("targets", not is_own or loaded.eos_id is not None),
    )
  }


def tokenizers(features: Mapping[str, seqio.Feature]) -> list[Callable]:
  """The preprocessors that make tokens of texts, and cut them."""
  is_own = encoding.has_own_tokens(features["inputs"].vocabulary)
  return [
    encoding.encode if is_own else seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos_after_trim,
  ]


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
    keep_spans: span copying: leave them in the inputs, after their sentinels.

  Returns:
    `name`.

  Raises:
    ValueError: a `filepattern` without "{split}", or noise out of range.
    FileNotFoundError: no training file matches.
  """
  preprocessors.check_noise(noise_density, mean_span_length)
  patterns = _by_split(filepattern)

  def make():
    seqio.TaskRegistry.add(
      name,
      source=seqio.TextLineDataSource(patterns),
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

  return register(
    name,
    (filepattern, vocabulary, noise_density, mean_span_length, keep_spans),
    make,
  )


def texts_task(
  filepattern: str, *, name: str = "texts", vocabulary: str
) -> str:
  """Registers texts without labels, one document a line, for an encoder.

  Args:
    filepattern: a glob in which "{split}" stands for train or validation.
    name: the task's name.
    vocabulary: see `vocabularies.load`.

  Returns:
    `name`.

  Raises:
    ValueError: a `filepattern` without "{split}".
    FileNotFoundError: no training file matches.
  """
  patterns = _by_split(filepattern)

  def make():
    feature = seqio.Feature(
      vocabularies.load(vocabulary), add_eos=False, dtype=tf.int32
    )
    seqio.TaskRegistry.add(
      name,
      source=seqio.TextLineDataSource(patterns),
      preprocessors=[preprocessors.pieces],
      output_features={"inputs": feature},
      metric_fns=[],
    )

  return register(name, (filepattern, vocabulary), make)


def _by_split(filepattern: str) -> dict[str, str]:
  """The globs of the splits that have a file."""
  check_filepattern(filepattern, "data/corpus/*-{split}-*.txt")
  patterns = {
    split: filepattern.replace("{split}", split)
    for split in ("train", "validation")
  }
  if not tf.io.gfile.glob(patterns["train"]):
    raise FileNotFoundError(
      f"no training text matches {patterns['train']!r}: run `python"
      " scripts/build_corpus.py --output=data/corpus`, or set the task's"
      " filepattern"
    )
  return {s: p for s, p in patterns.items() if tf.io.gfile.glob(p)}


def check_filepattern(filepattern: str, example: str) -> None:
  """Refuses a file pattern that does not say where a split's name stands.

  Args:
    filepattern: with "{split}".
    example: of one, for the message.

  Raises:
    ValueError: another value.
  """
  if not isinstance(filepattern, str) or "{split}" not in filepattern:
    raise ValueError(
      f"filepattern={filepattern!r} must hold '{{split}}', as in {example!r}"
    )


def add_text_task(
  name: str,
  splits: Mapping[str, tables.Texts],
  features: Mapping[str, seqio.Feature],
  metric_fns: Sequence[Metric],
  preprocessors: Sequence[Callable] | None = None,
) -> None:
  """Registers a task on texts in memory; None makes tokens by `tokenizers`."""

  def dataset(split, shuffle_files, seed=None):
    del shuffle_files, seed  # the order is fixed, the task shuffles
    texts = splits[split]
    columns = {"inputs": texts.inputs, "targets": texts.targets}
    if texts.pairs is not None:
      columns[encoding.PAIR] = texts.pairs
    return tf.data.Dataset.from_tensor_slices(columns)

  seqio.TaskRegistry.add(
    name,
    source=seqio.FunctionDataSource(
      dataset,
      splits=tuple(splits),
      num_input_examples={s: len(x.inputs) for s, x in splits.items()},
    ),
    preprocessors=preprocessors or tokenizers(features),
    output_features=features,
    metric_fns=list(metric_fns),
  )


def check_table(filepattern: str, inputs: str, targets: str) -> None:
  """Checks what the macros of a task on tables give.

  Raises:
    ValueError: a value that is no text, or a `filepattern` without "{split}".
  """
  for macro, value in (
    ("TABLE", filepattern),
    ("INPUT_TEMPLATE", inputs),
    ("TARGET_TEMPLATE", targets),
  ):
    if not isinstance(value, str):
      raise ValueError(f"{macro}={value!r}; expected a text")
  check_filepattern(filepattern, "data/reviews-{split}.csv")


def table_task(
  filepattern: str,
  *,
  name: str,
  inputs: str,
  targets: str,
  vocabulary: str = "tiny",
  metric_fns: Sequence[Metric | str] = (),
  skip_bad_rows: bool = False,
  newlines: str | None = None,
  pairs: str | None = None,
) -> str:
  """Registers a task on tables, in any format of `table_files.read`.

  Args:
    filepattern: a glob in which "{split}" stands for train, validation or test,
      such as "data/reviews-{split}.csv".
    name: the task's name.
    inputs: the input's template, columns in braces: "review: {text}".
    targets: the target's template.
    vocabulary: see `vocabularies.load`.
    metric_fns: names for `metrics.by_name`, or functions like those.
    skip_bad_rows: leave out rows that can't be read or lack a value, with a
      warning that counts them; otherwise the first one is an error.
    newlines: see `vocabularies.load`.
    pairs: the template of a second text, for models that take pairs; the
      vocabulary must then be a tokenizer.json. None for one text.

  Returns:
    `name`.

  Raises:
    ValueError: a `filepattern` without "{split}", a wrong template, an unknown
      metric, pairs that the vocabulary does not join, or a file that can't be
      read, has a bad row or has no rows.
    FileNotFoundError: no training file matches.
  """
  check_table(filepattern, inputs, targets)
  features = output_features(vocabulary, newlines)
  if pairs is not None and not isinstance(pairs, str):
    raise ValueError(f"PAIR_TEMPLATE={pairs!r}; expected a text, or None")
  encoding.check_pairs(
    pairs, features["inputs"].vocabulary, f"VOCABULARY={vocabulary!r}"
  )
  if not isinstance(metric_fns, list | tuple):
    raise ValueError(
      f"TABLE_METRICS={metric_fns!r}; expected a list, such as ['accuracy']"
    )
  functions = [
    metrics.by_name(metric) if isinstance(metric, str) else metric
    for metric in metric_fns
  ]

  def make():
    splits = tables.load_splits(
      filepattern,
      inputs=inputs,
      targets=targets,
      pairs=pairs,
      skip_bad_rows=skip_bad_rows,
    )
    add_text_task(name, splits, features, functions)
    (_with_pairs.add if pairs else _with_pairs.discard)(name)

  arguments = (filepattern, inputs, targets, vocabulary, skip_bad_rows)
  return register(name, (*arguments, newlines, pairs, *functions), make)


def mixture(rates: Sequence[tuple[str, float]], *, name: str) -> str:
  """Registers a mixture of tasks.

  Args:
    rates: (task, its share of the examples) pairs; seqio normalises the shares.
    name: the mixture's name.

  Returns:
    `name`.

  Raises:
    ValueError: a task with pairs of texts.
  """
  for task, _ in rates:
    # seqio mixes tokens and leaves out what else an example has.
    if task in _with_pairs:
      raise ValueError(
        f"the mixture {name!r} has {task!r}, a task with pairs of texts "
        "(PAIR_TEMPLATE), whose token types a mixture loses; train on the task "
        "alone"
      )
  arguments = tuple((task, float(rate)) for task, rate in rates)
  return register(
    name,
    arguments,
    lambda: seqio.MixtureRegistry.add(
      name,
      list(arguments),
      # One pass, as in evaluation, ends with the last task, not with the first
      # that has no more examples.
      sample_fn=functools.partial(
        tf.data.Dataset.sample_from_datasets, stop_on_empty_dataset=False
      ),
    ),
  )
