"""Answers inputs with text and its score or a label; or scores targets."""

import math
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import NamedSharding

from coda_jax import arguments, backbones, decoding, partitioning, token_ids
from coda_jax.checkpoints import folders
from coda_jax.data import texts
from coda_jax.inference import batching, labels, outputs, settings, sources
from coda_jax.inference.progress import Progress
from coda_jax.inference.sources import Example
from coda_jax.nn.config import Conditional
from coda_jax.objectives.classify import Classify
from coda_jax.objectives.of_model import objective_of
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import coverage, inputs

MODES = ("predict", "score")


FILES = {"predict": "predictions.jsonl", "score": "scores.jsonl"}


class Answer(NamedTuple):
  """A model's answer to one input.

  Attributes:
    tokens: generated, the end token included; empty in mode "score".
    score: log probability, in nats, of those tokens, or of the given target's,
      the end token included: the sum over them, without a length penalty.
  """

  tokens: list[int]
  score: float


def infer(
  *,
  checkpoint_path: str,
  infer_output_dir: str,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  mixture_or_task_name: str | None = None,
  text: sources.Text | None = None,
  split: str = "validation",
  initial_checkpoint_path: str | None = None,
  reduction: float | None = None,
  mode: str = "predict",
  generate: Mapping[str, Any] | None = None,
  dtype: str = "float32",
  window: int = 2048,
  mesh: Mapping[str, int] | None = None,
) -> None:
  """Answers every input, in the order of the inputs; resumes earlier results.

  An encoder-decoder answers with text and its score. A model with a head for
  classification answers with one of its labels or, if it has one label alone,
  with a number.

  Args:
    checkpoint_path: a model folder or an adapter folder, or a folder that holds
      exactly one of these.
    infer_output_dir: gets `predictions.jsonl` or `scores.jsonl`, of {"index",
      "input", "target" if there is one, "prediction" in mode "predict",
      "score"}; "-" writes these lines to standard output. Labels have no score,
      and are in `predictions.txt` too, one a line.
    task_feature_lengths: {"inputs": n, "targets": m}, in tokens; longer inputs
      are cut, and no more than m tokens are generated. Labels need n alone.
    batch_size: inputs a batch.
    mixture_or_task_name: a task of seqio's, whose split is answered.
    text: texts to answer instead.
    split: of the task.
    initial_checkpoint_path: the pretrained model of an adapter.
    reduction: r to run at; None takes the checkpoint's own.
    mode: "predict" generates, and the score is that of what was generated;
      "score" generates nothing, and the score is that of the target.
    generate: arguments of `coda_jax.generate`, such as {"method": "beam"}.
    dtype: of the computation, "float32" or "bfloat16".
    window: how many inputs are sorted by length and written together; a killed
      run loses at most one window.
    mesh: see `partitioning.mesh_of`.

  Raises:
    FileNotFoundError, ValueError: arguments, inputs or a checkpoint that do not
      fit, or a bad row. What was answered before is kept.
    FloatingPointError: a score is not a number.
  """
  arguments.check(locals())
  generate = dict(generate or {})
  _check(mode, mixture_or_task_name, text)
  devices = partitioning.mesh_of(mesh)
  partitioning.check_batch(batch_size, devices)
  path = _only(folders.find(checkpoint_path), checkpoint_path)
  ((_, model, params),) = folders.load_each(
    [path], initial_checkpoint_path, dtype=dtype, mesh=devices
  )
  objective = _objective(path, model.config, mode, generate)
  sources.check_lengths(
    task_feature_lengths, objective.token_features, model.config
  )
  if reduction is not None:
    model = backbones.build(model.config.with_reduction(reduction))
  counts = sources.Counts()
  if text is None:
    inputs.check_task(mixture_or_task_name, objective, model.config)
    vocabulary = sources.check_task(mixture_or_task_name, split)
    examples = sources.read_task(
      mixture_or_task_name, split, task_feature_lengths
    )
  else:
    vocabulary = text.vocabulary
    texts.check_vocabulary(vocabulary, model.config.vocab_size, text.path)
    tokenized = {n: task_feature_lengths[n] for n in objective.token_features}
    examples = sources.read_text(text, tokenized, counts)

  depends_on = {}
  if infer_output_dir != outputs.STDOUT:  # Only files can be resumed.
    depends_on = {
      "checkpoint_path": path,
      "initial_checkpoint_path": initial_checkpoint_path,
      "task_feature_lengths": dict(task_feature_lengths),
      "reduction": reduction,
      "generate": generate,
      "dtype": dtype,
      "pair_template": text and text.pair_template,
      "vocabulary": settings.of_vocabulary(vocabulary),
      "model": settings.of_model(model, params),
    }
  with (
    partitioning.under(devices),
    outputs.opened(infer_output_dir, FILES[mode], depends_on) as file,
  ):
    to = "standard output" if infer_output_dir == outputs.STDOUT else file.name
    done = outputs.skip_done(file, examples)
    progress = Progress(done=done, bar=_shows_bar(infer_output_dir))
    if done:
      progress.say(f"{to} has {done:,} results; continuing after them")
    elif text is None:  # For texts, cuts are counted while reading.
      for line in coverage.report(
        mixture_or_task_name,
        split,
        task_feature_lengths,
        objective.token_features,
      ):
        progress.say(line)
    answered = 0
    is_classifier = isinstance(objective, Classify)
    try:
      for some in batching.windows(examples, window):
        shared = {
          "batch_size": batch_size,
          "task_feature_lengths": task_feature_lengths,
          "report": progress.add,
          "sharding": partitioning.batch_sharding(devices),
        }
        if is_classifier:
          found = labels.answer(
            model, params, some, objective=objective, **shared
          )
          results = [{"prediction": label} for label in found]
        else:
          answers = answer(
            model,
            params,
            some,
            mode=mode,
            generate={"eos_id": vocabulary.eos_id, **generate},
            **shared,
          )
          results = _results(answers, vocabulary, mode)
        outputs.append(file, _records(some, results))
        answered += len(some)
      if not done + answered:
        raise ValueError(f"no inputs in {_source(mixture_or_task_name, text)}")
    finally:
      progress.close()
      for line in (progress.summary(), *counts.remarks()):
        progress.say(line)
    if is_classifier and infer_output_dir != outputs.STDOUT:
      to = f"{to} and {outputs.write_texts(pathlib.Path(file.name))}"
    progress.say(f"wrote {done + answered:,} results to {to}")


def answer(
  model: nn.Module,
  params: Any,
  examples: Sequence[Example],
  *,
  batch_size: int,
  task_feature_lengths: Mapping[str, int],
  mode: str = "predict",
  generate: Mapping[str, Any] | None = None,
  report: Callable[[int, int], None] = lambda examples, tokens: None,
  sharding: NamedSharding | None = None,
) -> list[Answer]:
  """Answers inputs, in batches of one size and of few lengths.

  Args:
    model: of `backbones.build`.
    params: its parameters.
    examples: the inputs.
    batch_size: inputs a batch; the last one is filled up with padding.
    task_feature_lengths: {"inputs": n, "targets": m}.
    mode: one of `MODES`.
    generate: arguments of `coda_jax.generate`.
    report: is told after each batch how many inputs it had, and how many tokens
      were read and written.
    sharding: of batches, `partitioning.batch_sharding`; None for one device.

  Returns:
    An answer for each example, in their order, whatever the batches were.

  Raises:
    FloatingPointError: a score is not a number.
    ValueError: a token that the model has no embedding for.
  """
  answers: dict[int, Answer] = {}
  lengths = [len(example.input_tokens) for example in examples]
  buckets = batching.bucket_lengths(task_feature_lengths["inputs"])
  most = task_feature_lengths["targets"]
  for batch in batching.plan(lengths, batch_size, buckets):
    rows = [examples[place] for place in batch.places]
    for row in rows:
      for what, ids in (
        ("input", row.input_tokens),
        ("target", row.target_tokens if mode == "score" else ()),
      ):
        token_ids.check(f"{what} {row.index}", ids, model.config.vocab_size)
    tokens = batching.pad(
      [row.input_tokens for row in rows], batch_size, batch.length
    )
    placed = jax.device_put(tokens, sharding)
    if mode == "predict":
      decoded = decoding.generate(
        model, params, placed, max_length=most, **(generate or {})
      )
      written = np.asarray(decoded.tokens)
      scores = decoded.scores
    else:
      written = batching.pad(
        [row.target_tokens for row in rows], batch_size, most
      )
      scores = decoding.score(
        model, params, placed, jax.device_put(written, sharding)
      )
    scores = np.asarray(scores)
    # Rows of padding have no place.
    for place, sequence, score in zip(
      batch.places, written, scores, strict=False
    ):
      if not math.isfinite(score):
        raise FloatingPointError(
          f"input {examples[place].index} has score {score}: the checkpoint's "
          "parameters are damaged. What was written before is kept"
        )
      generated = sequence[sequence > 0].tolist() if mode == "predict" else []
      answers[place] = Answer(generated, float(score))
    report(len(rows), int((tokens > 0).sum() + (written > 0).sum()))
  return [answers[place] for place in range(len(examples))]


def _results(
  answers: Sequence[Answer], vocabulary: Any, mode: str
) -> Iterator[dict[str, Any]]:
  for answer in answers:
    result = {"score": answer.score}
    if mode == "predict":
      result = {"prediction": vocabulary.decode(answer.tokens), **result}
    yield result


def _records(
  examples: Sequence[Example], results: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
  for example, result in zip(examples, results, strict=True):
    record: dict[str, Any] = {"index": example.index, "input": example.input}
    if example.target is not None:
      record["target"] = example.target
    yield {**record, **result}


def _check(mode: str, task: str | None, text: sources.Text | None) -> None:
  if mode not in MODES:
    raise ValueError(f"MODE={mode!r}; expected one of {MODES}")
  if (task is None) == (text is None):
    raise ValueError(
      f"MIXTURE_OR_TASK_NAME={task!r} and INPUT_PATH="
      f"{text and text.path!r}; set just one of them: a task by its name or by "
      "a file of tasks/, texts by tasks/text.gin"
    )
  if mode == "score" and text is not None and text.target_template is None:
    raise ValueError(
      "MODE='score' needs targets; set TARGET_TEMPLATE to where a row has its "
      "target, such as '{label}'"
    )


def _objective(
  path: str, config: Conditional, mode: str, generate: Mapping[str, Any]
) -> Classify | Seq2Seq:
  try:
    objective = objective_of(config)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None
  if isinstance(objective, Classify) and (mode != "predict" or generate):
    raise ValueError(
      f"MODE={mode!r} and GENERATE={generate}, but {path} answers with labels, "
      "and generates and scores no text; leave both at their defaults"
    )
  return objective


def _only(paths: Sequence[str], asked: str) -> str:
  if len(paths) > 1:
    raise ValueError(
      f"{asked} has {len(paths)} checkpoints; set CHECKPOINT_PATH to one of "
      f"them: {', '.join(paths)}"
    )
  return paths[0]


def _shows_bar(folder: str) -> bool:
  """On a terminal, unless the results go there as well."""
  return sys.stderr.isatty() and not (
    folder == outputs.STDOUT and sys.stdout.isatty()
  )


def _source(task: str | None, text: sources.Text | None) -> str:
  return f"the split of {task!r}" if text is None else text.path
