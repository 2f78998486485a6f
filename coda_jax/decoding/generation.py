"""Generation: greedy, sampling and beam search, each one compiled program."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike

from coda_jax import token_ids
from coda_jax.decoding import beam

# The same input has the same answer each time; "sample" needs a key.
DETERMINISTIC = ("greedy", "beam")
METHODS = (*DETERMINISTIC, "sample")


class Decoded(NamedTuple):
  """The result of `generate`.

  Attributes:
    tokens: int32 [batch, max_length]; the end token is kept, 0 after it.
    scores: float32 [batch], the log probability of those tokens under the
      model, end token included, without penalty or temperature.
  """

  tokens: Array
  scores: Array


def generate(
  model: nn.Module,
  params: Any,
  encoder_input_tokens: ArrayLike,
  *,
  max_length: int,
  method: str = "greedy",
  rng: Array | None = None,
  temperature: float = 1.0,
  top_k: int | None = None,
  top_p: float | None = None,
  num_beams: int = 4,
  alpha: float = 0.6,
  eos_id: int = 1,
) -> Decoded:
  """Answers each input with a sequence that starts from token 0.

  The whole is compiled once for a model, shape of input, `max_length` and
  method, and stops as soon as every sequence has ended. The input is encoded
  once, its keys and values are computed once, and beams share them. Rows
  without a real token, which fill up a batch, give no tokens and score 0.

  Args:
    model: a `Transformer`.
    params: its parameters.
    encoder_input_tokens: integers [batch, length], an array or lists of one
      length; 0 is padding.
    max_length: most tokens to generate, the end token included.
    method: "greedy", "sample" or "beam".
    rng: key, needed by "sample".
    temperature: logits are divided by it before sampling; 0 is greedy.
    top_k: sample from the `top_k` most probable tokens.
    top_p: sample from the smallest set of tokens whose probability, after
      temperature and `top_k`, reaches this (Holtzman et al., 1904.09751).
    num_beams: beams of each input; one beam is greedy search.
    alpha: beam search ranks sequences by log probability over
      ((5 + length) / 6)^alpha; 0 for no penalty.
    eos_id: the end token.

  Returns:
    The generated `Decoded`.

  Raises:
    ValueError: an argument out of its range, a token that the model has no
      embedding for among them; in compiled code tokens are not checked.
  """
  tokens = _checked(model, "encoder_input_tokens", encoder_input_tokens)
  if method not in METHODS:
    raise ValueError(f"method={method!r}; expected one of {METHODS}")
  if method == "sample" and rng is None:
    raise ValueError(
      'method="sample" draws at random; pass rng=jax.random.key(seed)'
    )
  _check("max_length", max_length, max_length >= 1, "1 or more")
  _check("temperature", temperature, temperature >= 0, "0 or more")
  _check("top_k", top_k, top_k is None or top_k >= 1, "1 or more, or None")
  _check("top_p", top_p, top_p is None or 0 < top_p <= 1, "in (0, 1], or None")
  _check("num_beams", num_beams, num_beams >= 1, "1 or more")
  _check("alpha", alpha, alpha >= 0, "0 or more")
  if method == "beam" and num_beams == 1:
    method = "greedy"
  return _generate(
    params,
    tokens,
    rng if method == "sample" else None,
    jnp.float32(temperature),
    None if top_p is None else jnp.float32(top_p),
    jnp.float32(alpha),
    jnp.int32(eos_id),
    model=model,
    max_length=max_length,
    method=method,
    top_k=top_k if method == "sample" else None,
    num_beams=num_beams if method == "beam" else 1,
  )


def score(
  model: nn.Module,
  params: Any,
  encoder_input_tokens: ArrayLike,
  target_tokens: ArrayLike,
) -> Array:
  """Log probabilities of given targets, float32 [batch].

  Args:
    model: a `Transformer`.
    params: its parameters.
    encoder_input_tokens: integers [batch, length]; 0 is padding.
    target_tokens: integers [batch, target_length], end token included; 0 is
      padding, which does not count.

  Raises:
    ValueError: invalid tokens; see `generate`.
  """
  inputs = _checked(model, "encoder_input_tokens", encoder_input_tokens)
  targets = _checked(model, "target_tokens", target_tokens)
  return _score(params, inputs, targets, model=model)


def draw_token(
  rng: Array,
  log_probs: Array,
  temperature: Array,
  top_k: int | None = None,
  top_p: Array | None = None,
) -> Array:
  """Draws from the distribution that `generate`'s arguments describe.

  Args:
    rng: key.
    log_probs: float32 [batch, vocab].
    temperature: float32 [], at least 0.
    top_k: number of tokens to keep, None for all.
    top_p: float32 [], None for all.

  Returns:
    int32 [batch].
  """
  # The best token's logit is exactly 0, so that nothing divides 0 by 0 and
  # temperature 0 leaves that token alone above -inf.
  logits = log_probs - log_probs.max(axis=-1, keepdims=True)
  logits /= jnp.maximum(temperature, jnp.finfo(jnp.float32).tiny)
  if top_k is None and top_p is None:
    return jax.random.categorical(rng, logits)
  vocab = logits.shape[-1]
  logits, tokens = jax.lax.top_k(logits, min(top_k or vocab, vocab))
  if top_p is not None:
    probs = jax.nn.softmax(logits)
    better = jnp.cumsum(probs, axis=-1) - probs
    logits = jnp.where(better < top_p, logits, -jnp.inf)
  rank = jax.random.categorical(rng, logits)[:, None]
  return jnp.take_along_axis(tokens, rank, axis=1)[:, 0]


_STATIC = ("model", "max_length", "method", "top_k", "num_beams")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _generate(
  params,
  encoder_input_tokens,
  rng,
  temperature,
  top_p,
  alpha,
  eos_id,
  *,
  model,
  max_length,
  method,
  top_k,
  num_beams,
) -> Decoded:
  step, cache = _start(
    model, params, encoder_input_tokens, num_beams, max_length
  )
  is_empty = ~jnp.any(encoder_input_tokens > 0, axis=1)
  if method == "beam":
    return Decoded(
      *beam.search(
        step,
        cache,
        is_empty,
        num_beams=num_beams,
        max_length=max_length,
        alpha=alpha,
        eos_id=eos_id,
      )
    )

  def choose(log_probs: Array, index: Array) -> Array:
    if method == "greedy":
      return jnp.argmax(log_probs, axis=-1)
    key = jax.random.fold_in(rng, index)
    return draw_token(key, log_probs, temperature, top_k, top_p)

  return _one_by_one(step, cache, is_empty, choose, max_length, eos_id)


def _start(
  model: nn.Module,
  params: Any,
  encoder_input_tokens: Array,
  num_beams: int,
  max_length: int,
) -> tuple[Callable[[Any, Array], tuple[Array, Any]], Any]:
  """Encodes; returns the step function of `beam.search` and its first cache."""
  encoded = model.apply(
    {"params": params},
    encoder_input_tokens,
    enable_dropout=False,
    method=model.encode,
  )

  def decode(variables, tokens, mutable):
    return model.apply(
      {"params": params, **variables},
      encoded,
      encoder_input_tokens,
      tokens,
      tokens,
      enable_dropout=False,
      decode=True,
      max_decode_length=max_length,
      method=model.decode,
      mutable=mutable,
    )

  # Only the keys and values of the input are used from this pass: the compiler
  # drops the rest.
  rows = encoder_input_tokens.shape[0] * num_beams
  tokens = jnp.ones((rows, max_length), jnp.int32)
  _, variables = decode({}, tokens, ["cache", "encoded_kv"])
  encoded_kv = variables["encoded_kv"]

  def step(cache, tokens):
    logits, variables = decode(
      {"cache": cache, "encoded_kv": encoded_kv}, tokens[:, None], ["cache"]
    )
    return jax.nn.log_softmax(logits[:, 0]), variables["cache"]

  return step, variables["cache"]


class _State(NamedTuple):
  """The state of the loop of `_one_by_one`."""

  index: Array  # int32 [], tokens so far.
  cache: Any
  last: Array  # int32 [batch], the newest token.
  tokens: Array  # int32 [batch, max_length].
  scores: Array  # float32 [batch].
  has_ended: Array  # bool [batch].


def _one_by_one(
  step: Callable[[Any, Array], tuple[Array, Any]],
  cache: Any,
  is_empty: Array,
  choose: Callable[[Array, Array], Array],
  max_length: int,
  eos_id: Array,
) -> Decoded:
  """Extends one sequence a row by what `choose` makes of the step's result."""

  def unfinished(state: _State) -> Array:
    return (state.index < max_length) & ~jnp.all(state.has_ended)

  def extend(state: _State) -> _State:
    log_probs, cache = step(state.cache, state.last)
    token = choose(log_probs, state.index).astype(jnp.int32)
    gain = jnp.take_along_axis(log_probs, token[:, None], axis=1)[:, 0]
    token = jnp.where(state.has_ended, 0, token)
    return _State(
      state.index + 1,
      cache,
      token,
      state.tokens.at[:, state.index].set(token),
      state.scores + jnp.where(state.has_ended, 0.0, gain),
      state.has_ended | (token == eos_id),
    )

  (batch,) = is_empty.shape
  state = jax.lax.while_loop(
    unfinished,
    extend,
    _State(
      jnp.zeros((), jnp.int32),
      cache,
      jnp.zeros((batch,), jnp.int32),
      jnp.zeros((batch, max_length), jnp.int32),
      jnp.zeros((batch,), jnp.float32),
      is_empty,
    ),
  )
  return Decoded(state.tokens, state.scores)


@functools.partial(jax.jit, static_argnames="model")
def _score(params, encoder_input_tokens, target_tokens, *, model) -> Array:
  logits = model.apply(
    {"params": params},
    encoder_input_tokens,
    jnp.pad(target_tokens[:, :-1], ((0, 0), (1, 0))),
    target_tokens,
    enable_dropout=False,
  )
  gains = jnp.take_along_axis(
    jax.nn.log_softmax(logits), target_tokens[..., None], axis=-1
  )[..., 0]
  return jnp.sum(gains, axis=1, where=target_tokens > 0)


def _checked(model: nn.Module, name: str, tokens: ArrayLike) -> Array:
  tokens = token_ids.as_array(name, tokens)
  if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
    raise ValueError(
      f"{name}: expected integers [batch, length], got {tokens.dtype} "
      f"{list(tokens.shape)}; one text is a batch of one, tokens[None, :]"
    )
  token_ids.check(name, tokens, model.config.vocab_size)
  return jnp.asarray(tokens, jnp.int32)


def _check(name: str, value: Any, is_good: bool, expected: str) -> None:
  if not is_good:
    raise ValueError(f"{name}={value}; expected {expected}")
