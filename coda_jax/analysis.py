"""The cost of a model: parameters, FLOPs, memory and latency."""

import dataclasses
import functools
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from coda_jax import backbones, flops, initialise
from coda_jax import params as params_lib
from coda_jax.nn.config import Conditional
from coda_jax.objectives import Objective
from coda_jax.objectives.seq2seq import Seq2Seq

# The parts of a model by name; a parameter belongs to the first part whose
# pattern matches its path.
GROUPS = (
  ("adapters", r".*/adapter/.*"),
  ("routers", r".*/router/.*"),
  ("LoRA", r".*/lora/.*"),
  ("head", r".*/head/.*"),
  ("norms", r".*_norm/(scale|bias)"),
  ("embedding, logits", r"(token_embedder|decoder/logits_dense)/.*"),
  ("encoder", r"encoder/.*"),
  ("decoder", r"decoder/.*"),
  ("other", r".*"),
)


def parameter_counts(
  trained: params_lib.Params, frozen: params_lib.Params
) -> dict[str, tuple[int, int]]:
  """Counts parameters by part of the model.

  Args:
    trained: nested mapping of arrays or `jax.ShapeDtypeStruct`s, as
      `params.split` returns it.
    frozen: the other one of `params.split`.

  Returns:
    {part: (trained, frozen)}, in the order of `GROUPS`, empty parts left out.
  """
  counts = {name: [0, 0] for name, _ in GROUPS}
  for column, tree in enumerate((trained, frozen)):
    for path, leaf in params_lib.flatten(tree).items():
      group = next(name for name, p in GROUPS if re.fullmatch(p, path))
      counts[group][column] += int(leaf.size)
  return {name: (a, b) for name, (a, b) in counts.items() if a or b}


def trained_share(
  params: params_lib.Params,
  patterns: Sequence[str] = params_lib.TASK_PATTERNS,
) -> float:
  """Trained over all parameters; for the arguments see `params.split`."""
  trained, _ = params_lib.split(params, patterns)
  return params_lib.count(trained) / params_lib.count(params)


def encoder_flops(config: Conditional, length: int) -> int:
  """Floating-point operations of the encoder for one sequence.

  Two a multiply-add of each matrix product: projections, attention, MLP, LoRA,
  adapters and router scores. Norms, softmax, soft top-k and the moving of
  tokens are left out; they are a few per cent of the whole. A routed layer
  counts its ceil(length / r) slots.

  Args:
    config: of the model.
    length: of the sequence, padding included.
  """
  return _flops(config, "encode", (("inputs", length), ("targets", 1)))


def decoder_flops(
  config: Conditional, encoder_length: int, decoder_length: int
) -> int:
  """Those of what follows the encoder: the decoder and its logits, or a head.

  Counted as in `encoder_flops`. Decoding token by token, with a cache of
  `decoder_length`, takes as many as all targets at once.

  Args:
    config: of the model.
    encoder_length: of the encoded sequence, padding included.
    decoder_length: of the targets, padding included.
  """
  lengths = (("inputs", encoder_length), ("targets", decoder_length))
  return _flops(config, "__call__", lengths) - encoder_flops(
    config, encoder_length
  )


@functools.lru_cache(maxsize=64)
def _flops(
  config: Conditional, method: str, lengths: tuple[tuple[str, int], ...]
) -> int:
  model = backbones.build(_counted(config))
  inputs = backbones.example(config, 1, dict(lengths))
  if method == "encode":
    inputs = backbones.encoder_inputs(config, inputs)

  def call(params: Any, inputs: dict[str, Any]) -> Any:
    return model.apply(
      {"params": params}, **inputs, enable_dropout=False, method=method
    )

  traced = jax.make_jaxpr(call)(initialise.abstract_params(model), inputs)
  # The cheapest branches: those that do not move tokens by products.
  return flops.matrix_flops(traced, branch=min)


def _counted(config: Conditional) -> Conditional:
  """The model that needs the fewest products, and the shortest program."""
  coda = config.coda
  if coda is not None:
    coda = dataclasses.replace(coda, dispatch="gather")
  return dataclasses.replace(config, coda=coda, remat=False)


def peak_bytes(compiled: jax.stages.Compiled) -> int:
  """The most memory that a compiled computation holds at once, in bytes.

  The compiler's plan, not a measurement: arguments and results (donated
  buffers count once) and temporaries, which share memory where they do not live
  at the same time.
  """
  memory = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )


def paired_times(
  functions: Mapping[Any, Callable[[], Any]], repeats: int
) -> dict[Any, list[float]]:
  """Times alternatives in turn: A B C A B C ...

  A machine's speed drifts. Alternatives that are timed in turn meet the same
  drift, so their ratios hold where their absolute times do not. Each is called
  once before, to compile.

  Args:
    functions: the calls to time; their arrays are waited for.
    repeats: how often to time each.

  Returns:
    {name: [milliseconds]}, `repeats` of them in the order of time.
  """
  if repeats < 1:
    raise ValueError(f"repeats={repeats}; expected 1 or more")
  for function in functions.values():
    jax.block_until_ready(function())
  times: dict[Any, list[float]] = {name: [] for name in functions}
  for _ in range(repeats):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      times[name].append(1e3 * (time.perf_counter() - start))
  return times


def paired_medians(
  functions: Mapping[Any, Callable[[], Any]], repeats: int
) -> dict[Any, float]:
  """The median of each alternative's `paired_times`, in milliseconds."""
  return {
    name: statistics.median(times)
    for name, times in paired_times(functions, repeats).items()
  }


def encoder_call(
  model: nn.Module, params: Any, batch: Mapping[str, jax.Array]
) -> Callable[[], jax.Array]:
  """A call of the compiled encoder, bound to its arguments in a batch."""
  inputs = backbones.encoder_inputs(model.config, batch)

  @jax.jit
  def encode(params, inputs):
    return model.apply(
      {"params": params}, **inputs, enable_dropout=False, method="encode"
    )

  return lambda: encode(params, inputs)


def inference_costs(
  models: Mapping[Any, tuple[nn.Module, Any]],
  batch: Mapping[str, jax.Array],
  *,
  max_length: int,
  repeats: int,
  objective: Objective = Seq2Seq(),
) -> dict[Any, dict[str, float]]:
  """Times encoders and whole inference of several models on one batch.

  All alternatives are timed in turn, see `paired_times`. Inference is
  `objective.predict`; one that generates stops when it has ended every answer.

  Args:
    models: {label: (model, params)}; the first is what others are compared
      with.
    batch: the arguments of their encoders, by name; `encoder_input_tokens` is
      int32 [batch, length].
    max_length: most tokens to generate.
    repeats: how often each is timed; the median counts.
    objective: what the models are used for.

  Returns:
    {label: {"encoder_flops", "encoder_ms", "inference_ms", "encoder_speedup",
    "inference_speedup"}}; milliseconds a batch, FLOPs of the encoder for one
    full sequence.
  """
  encoder_ms = paired_medians(
    {
      label: encoder_call(model, params, batch)
      for label, (model, params) in models.items()
    },
    repeats,
  )
  inference_ms = paired_medians(
    {
      label: lambda model=model, params=params: objective.predict(
        model,
        params,
        batch,
        max_length=max_length,
      )
      for label, (model, params) in models.items()
    },
    repeats,
  )
  base = next(iter(models))
  length = batch["encoder_input_tokens"].shape[1]
  return {
    label: {
      "encoder_flops": encoder_flops(model.config, length),
      "encoder_ms": encoder_ms[label],
      "inference_ms": inference_ms[label],
      "encoder_speedup": encoder_ms[base] / encoder_ms[label],
      "inference_speedup": inference_ms[base] / inference_ms[label],
    }
    for label, (model, _) in models.items()
  }
