"""The training loop."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn

from coda_jax import arguments, backbones, partitioning
from coda_jax import params as params_lib
from coda_jax.formatting import format_scalars
from coda_jax.objectives import Objective
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import best as best_lib
from coda_jax.training import (
  coverage,
  elastic,
  forecast,
  hosts,
  inputs,
  optimizers,
  process,
  setup,
  state,
  steps,
)
from coda_jax.training.evaluation import Evaluation
from coda_jax.training.logger import Logger, Silent
from coda_jax.training.profiling import Profile, Rate
from coda_jax.training.summary import model_table, summarize

# Examples of each task in TensorBoard after an evaluation.
_SHOWN_EXAMPLES = 4


def train(
  *,
  model: nn.Module,
  model_dir: str,
  mixture_or_task_name: str,
  task_feature_lengths: Mapping[str, int],
  batch_size: int,
  train_steps: int,
  learning_rate: optimizers.Schedule,
  optimizer: optimizers.Optimizer = optimizers.adafactor,
  trained_patterns: Sequence[str] = params_lib.ALL_PATTERNS,
  initial_checkpoint_path: str | None = None,
  seed: int = 0,
  pack: bool = False,
  objective: Objective = Seq2Seq(),
  log_period: int = 50,
  eval_period: int = 1000,
  eval_split: str = "validation",
  eval_examples: int | None = None,
  eval_batch_size: int | None = None,
  predict: bool = True,
  checkpoint_period: int = 1000,
  keep: int = 1,
  best_metric: str | None = None,
  best_mode: str = "max",
  early_stop_steps: int | None = None,
  reductions: Sequence[float] = (),
  router_start_batches: int = 0,
  microbatches: int = 1,
  profile_steps: tuple[int, int] | None = None,
  dry_run: bool = False,
  save_dtype: str = "float32",
  frozen_dtype: str = "float32",
  mesh: Mapping[str, int] | None = None,
) -> dict[str, float]:
  """Trains, evaluates and saves; resumes what `model_dir` has begun.

  SIGTERM ends it in order: it saves after the step that it is in, and returns.

  Args:
    model: of `backbones.build`.
    model_dir: gets `checkpoints/`, `metrics.jsonl`, TensorBoard's files and, at
      the end, `model/`, or `adapter/` if only `TASK_PATTERNS` was trained; with
      `best_metric`, `best/` has the same of the best evaluation.
    mixture_or_task_name: known to seqio.
    task_feature_lengths: {"inputs": n, "targets": m}, in tokens.
    batch_size: examples a step.
    train_steps: steps in all, those before a resumption included.
    learning_rate: schedule over steps.
    optimizer: of `optimizers`, or like them.
    trained_patterns: regular expressions over parameter paths; what none of
      them matches is frozen.
    initial_checkpoint_path: see `coda_jax.load_pretrained`; None starts
      from scratch.
    seed: of initialisation, data order and dropout.
    pack: put several short examples into one row; not for models that route.
    objective: gives the loss, and the answers that are evaluated.
    log_period: steps between reports; 0 for none.
    eval_period: steps between evaluations; 0 for one, at the end.
    eval_split: split to evaluate on; not evaluated if the task lacks it.
    eval_examples: how many examples to evaluate, from the start of the split;
      None for all.
    eval_batch_size: examples a batch of evaluation; None for `batch_size`.
    predict: also answer in evaluation, for the task's own metrics.
    checkpoint_period: steps between checkpoints; 0 for one, at the end. There
      is one before each evaluation, too.
    keep: how many checkpoints to keep, the newest.
    best_metric: name of an evaluation's result, such as "accuracy"; the model
      that has the best is kept.
    best_mode: "max" or "min", which of two results is better.
    early_stop_steps: ends the run when no evaluation has been better for so
      many steps.
    reductions: values of r, one sampled for each step, so that one set of
      parameters serves them all ("elastic"); none trains at the model's own.
    router_start_batches: batches that routers which the checkpoint lacks are
      fitted to before the first step, see `router_start`; 0 leaves them random.
    microbatches: parts of a batch whose gradients are added up, to save memory.
    profile_steps: (first, last) steps to write a profile of, for TensorBoard.
    dry_run: build everything, say what the run would do and cost, and stop;
      nothing is written.
    save_dtype: of `model/`, "float32" or "bfloat16".
    frozen_dtype: of the parameters that are not trained, "float32" or
      "bfloat16".
    mesh: {"data", "fsdp", "model": how many devices}, as for
      `partitioning.make_mesh`; None is one device, or all devices of several
      processes, for different examples.

  Returns:
    What the last evaluation measured; empty without one.

  Raises:
    ValueError: arguments that do not fit, naming them and the remedy; another
      process is in `model_dir`.
    FloatingPointError: the loss is no longer finite.
    InterruptedError: what was found before training is gone, or can't be
      written any more.
  """
  given = dict(locals())
  arguments.check(given)
  inputs.check_lengths(mixture_or_task_name, task_feature_lengths)
  devices = partitioning.mesh_of(mesh)
  partitioning.check_batch(
    batch_size // microbatches, devices, "batch_size / microbatches"
  )
  partitioning.check_batch(
    eval_batch_size or batch_size, devices, "eval_batch_size"
  )
  model, differing = setup.inherit(model, initial_checkpoint_path)
  inputs.check_task(mixture_or_task_name, objective, model.config)
  splits = inputs.splits(mixture_or_task_name)
  best_lib.check(
    best_metric, early_stop_steps, mixture_or_task_name, eval_split, splits
  )
  profile = Profile(model_dir, profile_steps)
  transform = optimizer(learning_rate)
  start = setup.start(
    model,
    transform,
    devices,
    trained_patterns=trained_patterns,
    initial_checkpoint_path=initial_checkpoint_path,
    seed=seed,
    frozen_dtype=frozen_dtype,
  )
  current = start.state
  frozen = {**start.frozen, **objective.constants(current.trained)}
  train_step = {
    r: steps.make_train_step(
      backbones.build(model.config.with_reduction(r)) if reductions else model,
      transform,
      objective,
      microbatches=microbatches,
      shardings=start.shardings,
    )
    for r in reductions or (None,)
  }
  sharding = partitioning.batch_sharding(devices)
  read_batches = functools.partial(
    setup.train_batches,
    mixture_or_task_name,
    sharding,
    objective=objective,
    lengths=task_feature_lengths,
    batch_size=batch_size,
    seed=seed,
    pack=pack,
    vocab_size=model.config.vocab_size,
  )
  look_at_data = functools.partial(
    coverage.report,
    mixture_or_task_name,
    "train",
    task_feature_lengths,
    objective.token_features,
  )
  table = model_table(
    model.config, task_feature_lengths, current.trained, start.frozen
  )
  table = "\n".join([table, setup.describe(devices), *differing])
  if dry_run:
    with partitioning.under(devices):
      planned = forecast.describe(
        train_step,
        current,
        frozen,
        next(read_batches()),
        steps=train_steps,
        num_examples=inputs.num_examples(mixture_or_task_name, "train"),
        microbatches=microbatches,
      )
    if hosts.is_first():
      print(table, *look_at_data(), planned, sep="\n")
    return {}
  with (
    partitioning.under(devices),
    process.alone_in(model_dir),
    process.StopRequest() as stop,
  ):
    checkpoints = state.Checkpoints(
      model_dir,
      keep=keep,
      run=setup.describe_run(model.config, start.frozen, given),
    )
    current = checkpoints.restore(current)
    first_step = int(current.step)
    best = (
      best_lib.Best(model_dir, best_metric, best_mode) if best_metric else None
    )
    evaluation = None
    if eval_split in splits:
      evaluation = Evaluation(
        model,
        mixture_or_task_name,
        split=eval_split,
        task_feature_lengths=task_feature_lengths,
        batch_size=eval_batch_size or batch_size,
        num_examples=eval_examples,
        predict=predict,
        objective=objective,
        sharding=sharding,
      )
    batches = read_batches(skip=first_step)
    logger = (
      Logger(model_dir, first_step=first_step, steps=train_steps)
      if hosts.is_first()
      else Silent()
    )
    logger.say(table)
    # Once a run: a resumed one has said it.
    for line in look_at_data() if hosts.is_first() and not first_step else ():
      logger.say(line)
    if router_start_batches and not first_step:
      current, line = setup.start_routers(
        model,
        current,
        frozen,
        read_batches,
        number=router_start_batches,
        initial_checkpoint_path=initial_checkpoint_path,
      )
      logger.say(line)
    save = setup.Saver(
      model,
      start.frozen,
      dtype=save_dtype,
      base_model=initial_checkpoint_path,
    )
    results: dict[str, float] = {}
    pending: list[Any] = []
    compiled = set()
    rate = Rate(first_step)

    def is_evaluated(step: int) -> bool:
      return evaluation is not None and (
        step == train_steps or _is_due(step, eval_period)
      )

    def evaluate(step: int) -> dict[str, float]:
      with stop.at_once():
        results, predictions = evaluation.with_predictions(
          params_lib.merge(current.trained, frozen), texts=_SHOWN_EXAMPLES
        )
      logger.say(f"step {step}  {eval_split}: {format_scalars(results)}")
      for line in evaluation.remarks:
        logger.say(line)
      if best and best.update(
        step, results, functools.partial(save, current.trained)
      ):
        logger.say(f"best {best_metric} so far: saved {model_dir}/best")
      logger.write_texts(step, predictions, "eval")
      # Last: a run that resumes takes it for done.
      logger.write(step, results, "eval")
      return results

    try:
      if first_step:
        logger.say(f"resuming {model_dir} after step {first_step}")
        results = hosts.from_first(lambda: logger.written(first_step, "eval"))
        if is_evaluated(first_step) and not results:
          results = evaluate(first_step)
      for done in range(first_step + 1, train_steps + 1):
        if (
          best
          and is_evaluated(done - 1)
          and best.is_stalled(done - 1, early_stop_steps)
        ):
          logger.say(
            f"stopped early: {best_metric} has not improved since step "
            f"{best.step}"
          )
          break
        with rate.waiting():
          batch = next(batches)
        r = (
          elastic.choose(reductions, seed=seed, step=done)
          if reductions
          else None
        )
        compiles = done == first_step + 1
        with (
          profile.step(done),
          stop.losing_nothing() if compiles else contextlib.nullcontext(),
        ):
          current, metrics = train_step[r](current, frozen, batch, start.key)
        pending.append(metrics)
        last = done == train_steps
        stopping = stop.after(done)  # Once: the signal may come any time.
        evaluates = is_evaluated(done)
        saves = (
          last or evaluates or stopping or _is_due(done, checkpoint_period)
        )
        if saves or _is_due(done, log_period):
          # Fetching waits for the device: only here does the host look.
          summary = summarize(jax.device_get(pending), done)
          summary["learning_rate"] = float(learning_rate(done - 1))
          speed, summary["data_wait_share"] = rate.measure(done)
          summary["steps_per_second"] = speed
          summary["tokens_per_second"] = speed * summary.pop("tokens")
          pending = []
          logger.write(done, summary, "train")
          logger.progress(
            done, summary["loss"], speed, summary["tokens_per_second"]
          )
        elif r not in compiled:
          jax.block_until_ready(metrics)  # Compiling does not count.
          rate.reset(done)
        compiled.add(r)
        if saves:
          checkpoints.save(current)
        if stopping:
          raise process.Stopped
        if evaluates:
          results = evaluate(done)
        if saves:
          rate.reset(done)
      logger.say(f"saved {save(current.trained, Path(model_dir))}")
    except process.Stopped:
      logger.say(
        f"stopped by SIGTERM, saved after step {int(current.step)}; the same "
        "command resumes from there"
      )
    except OSError as error:
      raise InterruptedError(
        f"{error} (while training: what was saved is kept, and the same "
        "command resumes from there)"
      ) from error
    finally:
      profile.close()
      logger.close()
      checkpoints.close()
      batches.close()  # Last: it may take a while.
  return results


def _is_due(step: int, period: int) -> bool:
  return period > 0 and step % period == 0
