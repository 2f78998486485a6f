"""The text sets that papers finetune T5 on, as seqio tasks and mixtures.

They read what TFDS has prepared in TFDS_DATA_DIR; docs/tasks.md shows each one
and how to prepare it.
"""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import seqio
import tensorflow as tf

from coda_jax.data import (
  glue,
  metrics,
  prepared,
  qa_metrics,
  reading,
  tasks,
  winograd,
)

Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]

# The versions that tensorflow-datasets can prepare.
_GLUE_VERSION = "2.0.0"
_SUPER_GLUE_VERSION = "1.0.2"


class TextTask(NamedTuple):
  """The parts of a seqio task on a TFDS data set.

  Attributes:
    data: name and version in TFDS.
    preprocessors: from TFDS's examples to `inputs` and `targets`, texts.
    metric_fns: functions of `metrics` or `qa_metrics`.
    splits: {seqio's name of a split: TFDS's name}; None takes all.
    postprocess: seqio's postprocess_fn, where a target is more than a text.
  """

  data: str
  preprocessors: Sequence[Preprocessor]
  metric_fns: Sequence[tasks.Metric]
  splits: Mapping[str, str] | None = None
  postprocess: Callable[..., Any] | None = None


def _each(function: Callable[..., Any], **arguments: Any) -> Preprocessor:
  """Makes a preprocessor of a function of one example."""

  def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset.map(
      functools.partial(function, **arguments), tf.data.AUTOTUNE
    )

  return preprocess


def _classification(
  benchmark: str,
  config: str,
  version: str,
  splits: Mapping[str, str] | None = None,
) -> TextTask:
  form = (glue.GLUE if benchmark == "glue" else glue.SUPER_GLUE)[config]
  further = {
    "cola": [functools.partial(metrics.matthews, labels=form.labels)],
    "mrpc": [functools.partial(metrics.f1, labels=form.labels)],
    "qqp": [functools.partial(metrics.f1, labels=form.labels)],
    "cb": [functools.partial(metrics.macro_f1, labels=form.labels)],
  }
  return TextTask(
    f"{benchmark}/{config}:{version}",
    [_each(glue.classification, prefix=config, form=form)],
    [metrics.accuracy, *further.get(config, [])],
    splits,
  )


_glue = functools.partial(
  _classification, benchmark="glue", version=_GLUE_VERSION
)
_super_glue = functools.partial(
  _classification, benchmark="super_glue", version=_SUPER_GLUE_VERSION
)
_WSC = f"super_glue/wsc.fixed:{_SUPER_GLUE_VERSION}"

TASKS: dict[str, TextTask] = {
  **{
    f"glue_{config}": _glue(config=config)
    for config in glue.GLUE
    if config != "mnli"
  },
  # One data set with two validation splits: trained on once, measured twice.
  "glue_mnli": _glue(config="mnli", splits={"train": "train"}),
  **{
    f"glue_mnli_{part}": _glue(
      config="mnli",
      splits={split: f"{split}_{part}" for split in ("validation", "test")},
    )
    for part in ("matched", "mismatched")
  },
  "glue_stsb": TextTask(
    f"glue/stsb:{_GLUE_VERSION}",
    [_each(glue.similarity)],
    [metrics.correlations],
  ),
  **{
    f"super_glue_{config}": _super_glue(config=config)
    for config in glue.SUPER_GLUE
    if config != "multirc"
  },
  "super_glue_multirc": TextTask(
    f"super_glue/multirc:{_SUPER_GLUE_VERSION}",
    [_each(glue.answer_options)],
    [qa_metrics.multirc],
    postprocess=glue.label_of_question,
  ),
  "super_glue_record": TextTask(
    f"super_glue/record:{_SUPER_GLUE_VERSION}",
    [reading.record],
    [qa_metrics.record],
    postprocess=reading.answers_of_query,
  ),
  "super_glue_wsc_train": TextTask(
    _WSC,
    [winograd.right_schemas, _each(winograd.schema)],
    [],
    {"train": "train"},
  ),
  "super_glue_wsc_eval": TextTask(
    _WSC,
    [_each(winograd.schema)],
    [metrics.accuracy],
    {"validation": "validation", "test": "test"},
    winograd.agrees,
  ),
  "definite_pronouns": TextTask(
    "definite_pronoun_resolution:1.1.0",
    [_each(winograd.definite_pronoun)],
    [metrics.accuracy],
  ),
  "squad": TextTask(
    "squad/v1.1:3.0.0",
    [_each(reading.squad)],
    [qa_metrics.squad],
    postprocess=reading.answers,
  ),
  "xsum": TextTask("xsum:1.1.0", [_each(reading.summary)], [metrics.rouge]),
}

# Rates: the number of each set's training examples, as T5 gives it. A set
# without a training split has the rate of its other half, which counts in the
# mixture's validation loss only.
MIXTURES: dict[str, dict[str, float]] = {
  "mnli": {"glue_mnli": 1, "glue_mnli_matched": 1, "glue_mnli_mismatched": 1},
  # Without WNLI, as T5: its schemas are trained on as WSC, in SuperGLUE.
  "glue": {
    "glue_cola": 8_551,
    "glue_sst2": 67_349,
    "glue_mrpc": 3_668,
    "glue_qqp": 363_849,
    "glue_stsb": 5_749,
    "glue_mnli": 392_702,
    "glue_mnli_matched": 392_702,
    "glue_mnli_mismatched": 392_702,
    "glue_qnli": 104_743,
    "glue_rte": 2_490,
  },
  "super_glue": {
    "super_glue_boolq": 9_427,
    "super_glue_cb": 250,
    "super_glue_copa": 400,
    "super_glue_multirc": 27_243,
    "super_glue_record": 138_854,
    "super_glue_rte": 2_490,
    "super_glue_wic": 5_428,
    "super_glue_wsc_train": 259,
    "super_glue_wsc_eval": 259,
    "definite_pronouns": 1_322,
  },
}


def text_task(name: str, *, vocabulary: str = "tiny") -> str:
  """Registers one of `TASKS`, or one of `MIXTURES` with its tasks.

  Args:
    name: "squad", "glue_rte", "super_glue"...
    vocabulary: see `vocabularies.load`.

  Returns:
    `name`.

  Raises:
    ValueError: an unknown name, or data with an empty split.
    FileNotFoundError: the data is not prepared in TFDS_DATA_DIR.
  """
  if name in MIXTURES:
    rates = MIXTURES[name]
    for task in rates:
      _add_task(task, vocabulary)
    return tasks.mixture(list(rates.items()), name=name)
  if name not in TASKS:
    known = [*TASKS, *MIXTURES]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}? Known" if close else "known"
    raise ValueError(
      f"text_task has no set {name!r}; {hint} are {', '.join(sorted(known))}"
    )
  return _add_task(name, vocabulary)


def _add_task(name: str, vocabulary: str) -> str:
  task = TASKS[name]

  def make():
    features = tasks.output_features(vocabulary)
    seqio.TaskRegistry.add(
      name,
      source=prepared.source(task.data, task.splits),
      preprocessors=[
        *task.preprocessors,
        *tasks.tokenizers(features),
      ],
      output_features=features,
      metric_fns=list(task.metric_fns),
      postprocess_fn=task.postprocess,
    )

  return tasks.register(name, (prepared.folder(task.data), vocabulary), make)
