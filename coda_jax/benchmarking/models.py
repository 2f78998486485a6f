"""Our own models as subjects: parallel adapters, CoDA and dense."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn

from coda_jax import analysis, backbones, decoding
from coda_jax.benchmarking import shapes, train_step
from coda_jax.benchmarking.timing import Call, Subject
from coda_jax.nn.config import CodaConfig, Conditional
from coda_jax.objectives.distil_seq2seq import DistilSeq2Seq
from coda_jax.objectives.seq2seq import Seq2Seq

PARTS = ("encoder", "generate", *train_step.PARTS)
METHODS = ("adapter", "coda", "dense")


def subjects(
  config: Conditional,
  *,
  part: str,
  coda: CodaConfig,
  reductions: Sequence[float],
  methods: Sequence[str],
  tokens: jax.Array,
  decode_length: int,
) -> list[Subject]:
  """The models to time, all on the same random weights and tokens.

  Args:
    config: the backbone's shape, and the dtype of weights and computation.
    part: "encoder", "generate" for whole greedy inference, "train" for a step
      of finetuning, or "distil" for one in which CoDA learns from the dense
      model, which runs too.
    coda: of all models but the dense one; `reductions` replaces its reduction.
    reductions: r of each CoDA.
    methods: some of `METHODS`.
    tokens: int32 [batch, length], none of them padding.
    decode_length: tokens that "generate" writes; target tokens of
      "train" and "distil".

  Raises:
    ValueError: invalid arguments.
  """
  configs: list[tuple[str, CodaConfig | None]] = []
  for method in methods:
    if method == "coda":
      configs += [("coda", _with(coda, r)) for r in reductions]
    else:
      configs.append((method, _with(coda, 1) if method == "adapter" else None))
  # A routed tree has every leaf that any of the models has.
  routed = dataclasses.replace(config, coda=_with(coda, max(reductions)))
  params = shapes.random_params(backbones.build(routed), part)
  return [
    Subject(
      columns(method, chosen),
      functools.partial(
        _build,
        backbones.build(dataclasses.replace(config, coda=chosen)),
        params,
        part=part,
        tokens=tokens,
        decode_length=decode_length,
      ),
    )
    for method, chosen in configs
  ]


def columns(method: str, chosen: CodaConfig | None) -> dict[str, Any]:
  """The columns that describe a model; `chosen` is None for the dense one."""
  routed = chosen if method == "coda" else None
  return {
    "method": method,
    "reduction": chosen.reduction if chosen else None,
    "attention": routed.attention if routed else None,
    "router": routed.router if routed else None,
    "dispatch": routed.dispatch if routed else None,
  }


def _with(coda: CodaConfig, reduction: float) -> CodaConfig:
  return dataclasses.replace(coda, reduction=float(reduction))


def _build(
  model: nn.Module,
  params: Any,
  *,
  part: str,
  tokens: jax.Array,
  decode_length: int,
) -> Call:
  batch, length = tokens.shape
  if part in train_step.PARTS:
    targets = shapes.random_tokens(model.config, batch, decode_length)
    learns = part == "distil" and model.config.is_routed
    return train_step.train_step(
      model,
      params,
      train_step.train_batch(tokens, targets),
      DistilSeq2Seq() if learns else Seq2Seq(),
    )
  flops = analysis.encoder_flops(model.config, length)
  if part == "encoder":
    return Call(
      analysis.encoder_call(model, params, {"encoder_input_tokens": tokens}),
      batch * flops,
    )
  flops += analysis.decoder_flops(model.config, length, decode_length)
  return Call(
    _generate_call(model, params, tokens, decode_length), batch * flops
  )


def _generate_call(
  model: nn.Module, params: Any, tokens: jax.Array, max_length: int
):
  """A call of greedy `generate` that always decodes `max_length` tokens."""
  # No token has this id, so no sequence ends early.
  return lambda: (
    decoding.generate(
      model, params, tokens, max_length=max_length, eos_id=-1
    ).tokens
  )
