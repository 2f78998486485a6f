"""Decoding against argmax, enumeration and plain Python searches."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from coda_jax import decoding
from coda_jax.decoding import beam
from coda_jax.nn.config import CodaConfig
from coda_jax.t5 import network
from coda_jax.t5.config import T5Config

EOS = 1
INPUTS = np.array(
  [[5, 3, 2, 6, 4, 1], [2, 6, 1, 0, 0, 0], [4, 4, 3, 1, 0, 0]], np.int32
)
CODA = CodaConfig(reduction=2, bottleneck_dim=4)
DENSE = T5Config(
  vocab_size=7,
  emb_dim=8,
  num_heads=2,
  head_dim=4,
  num_encoder_layers=1,
  num_decoder_layers=2,
  mlp_dim=8,
)
ROUTED = dataclasses.replace(DENSE, num_decoder_layers=1, coda=CODA)


@functools.partial(jax.jit, static_argnums=0)
def _parameters(model, key):
  tokens = INPUTS % model.config.vocab_size
  params = model.init(key, tokens, tokens, tokens, enable_dropout=False)
  params = params["params"]
  # Zero-initialised adapters would be as good as none.
  params = jax.tree.map(
    lambda x: x + 0.2 * jax.random.normal(key, x.shape), params
  )
  params["decoder"]["logits_dense"]["kernel"] *= 1.5
  return params


def _model(config, seed=0):
  """A model, and parameters that make its distributions far from uniform."""
  same_in_float32 = dataclasses.replace(config, dtype=jnp.float32)
  return network.Transformer(config), _parameters(
    network.Transformer(same_in_float32), jax.random.key(seed)
  )


@functools.partial(jax.jit, static_argnums=0)
def _uncached(model, params, inputs, decoded):
  """log probabilities [batch, length, vocab] of one whole forward pass."""
  shifted = jnp.pad(decoded[:, :-1], ((0, 0), (1, 0)))
  logits = model.apply(
    {"params": params},
    inputs,
    shifted,
    jnp.ones_like(decoded),  # Token 0 counts too when a random model says it.
    enable_dropout=False,
  )
  return jax.nn.log_softmax(logits)


def _kept(tokens):
  """bool [..., length]: up to the end token, that included."""
  ends = np.cumsum(tokens == EOS, axis=-1)
  return (ends - (tokens == EOS)) == 0


@pytest.mark.parametrize(
  "config, tolerance",
  [
    (DENSE, 1e-5),
    (ROUTED, 1e-5),
    (dataclasses.replace(ROUTED, dtype=jnp.bfloat16), 0.1),
  ],
  ids=["dense", "coda", "coda_bfloat16"],
)
def test_greedy_takes_the_best_token_of_the_uncached_model(config, tolerance):
  seen = []
  for seed in range(5):
    model, params = _model(config, seed)
    decoded = decoding.generate(model, params, INPUTS, max_length=8)
    assert decoded.tokens.dtype == jnp.int32
    assert decoded.scores.dtype == jnp.float32
    tokens = np.asarray(decoded.tokens)
    kept = _kept(tokens)
    assert tokens.shape == (3, 8)
    np.testing.assert_array_equal(tokens[~kept], 0)
    seen += tokens.tolist()

    log_probs = np.asarray(_uncached(model, params, INPUTS, tokens))
    gains = np.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
    assert np.all((gains >= log_probs.max(-1) - tolerance)[kept])
    np.testing.assert_allclose(
      decoded.scores, np.sum(gains, axis=1, where=kept), atol=8 * tolerance
    )
  # Or the test shows little.
  assert len(np.unique(seen)) > 4 and len({len(set(t)) for t in seen}) > 2


def test_beam_search_finds_the_best_of_all_sequences():
  config = dataclasses.replace(DENSE, vocab_size=4, num_decoder_layers=1)
  inputs = np.where(INPUTS > 0, INPUTS % 3 + 1, 0)
  length, vocab = 4, 4
  # No more than 3^3 sequences go on, and 2 beams each see every candidate.
  num_beams = 2 * (vocab - 1) ** (length - 1)
  every = np.array(
    list(itertools.product(range(vocab), repeat=length)), np.int32
  )
  ended = (every == EOS).any(axis=1)
  kept = _kept(every)
  lengths = kept.sum(axis=1)
  found = set()
  for seed in range(6):
    model, params = _model(config, seed)
    gains = np.asarray(
      _uncached(
        model,
        params,
        np.repeat(inputs, len(every), axis=0),
        np.tile(every, (len(inputs), 1)),
      )
    ).reshape(len(inputs), *every.shape, vocab)
    gains = np.take_along_axis(gains, every[None, ..., None], -1)[..., 0]
    totals = np.sum(gains, axis=-1, where=kept[None])
    for alpha in (0.0, 0.6, 3.0):
      decoded = decoding.generate(
        model,
        params,
        inputs,
        max_length=length,
        method="beam",
        num_beams=num_beams,
        alpha=alpha,
      )
      ranks = np.where(ended, totals / ((5 + lengths) / 6) ** alpha, -np.inf)
      best = ranks.argmax(axis=1)
      np.testing.assert_array_equal(decoded.tokens, (every * kept)[best])
      np.testing.assert_allclose(
        decoded.scores, totals[np.arange(len(inputs)), best], atol=1e-4
      )
      found |= set(lengths[best].tolist())
  assert len(found) > 2  # Or the test shows little.


def _toy(seed, batch, num_beams, vocab, max_length):
  """A step function whose result depends on the input and on all tokens.

  Returns it, its cache, and the same in numpy for a row and its history.
  """
  rng = np.random.default_rng(seed)
  weights = rng.normal(size=(max_length, vocab, vocab)).astype(np.float32)
  bias = rng.normal(size=(batch, vocab)).astype(np.float32)

  def step(cache, last):
    logits = cache["logits"] + jnp.asarray(weights)[cache["index"], last]
    new = {"logits": logits, "index": cache["index"] + 1}
    return jax.nn.log_softmax(logits), new

  def log_probs(row, history):
    positions = np.arange(len(history))
    logits = weights[positions, history].sum(axis=0) + bias[row]
    return logits - np.log(np.exp(logits).sum())

  cache = {
    "logits": jnp.repeat(bias, num_beams, axis=0),
    "index": jnp.zeros((), jnp.int32),
  }
  return step, cache, log_probs


def _plain_beam_search(log_probs, num_beams, max_length, alpha):
  """One input, Python lists, never stops early."""
  live, ended = [((), 0.0)], []
  for length in range(1, max_length + 1):
    candidates = [
      ((*tokens, token), total + gain)
      for tokens, total in live
      for token, gain in enumerate(log_probs([0, *tokens]))
    ]
    candidates.sort(key=lambda c: -c[1])
    candidates = candidates[: 2 * num_beams]
    penalty = ((5 + length) / 6) ** alpha
    ended += [(c[1] / penalty, *c) for c in candidates if c[0][-1] == EOS]
    live = [c for c in candidates if c[0][-1] != EOS][:num_beams]
  _, tokens, total = max(ended) if ended else (None, *live[0])
  return [*tokens, *[0] * (max_length - len(tokens))], total


def test_beam_search_equals_a_plain_search_that_never_stops_early():
  batch, num_beams, vocab, max_length = 24, 3, 6, 7
  step, cache, log_probs = _toy(0, batch, num_beams, vocab, max_length)
  search = jax.jit(
    lambda alpha: beam.search(
      step,
      cache,
      jnp.zeros(batch, bool),
      num_beams=num_beams,
      max_length=max_length,
      alpha=alpha,
      eos_id=EOS,
    )
  )
  for alpha in (0.0, 0.6, 2.0):
    tokens, scores = search(jnp.float32(alpha))
    for row in range(batch):
      expected = _plain_beam_search(
        functools.partial(log_probs, row), num_beams, max_length, alpha
      )
      assert tokens[row].tolist() == expected[0]
      np.testing.assert_allclose(scores[row], expected[1], rtol=1e-5)


def _by_position(*probs):
  """A step function of the position alone, and a list that counts its calls.

  The last of the distributions holds from there on.
  """
  counted = []
  table = jnp.log(jnp.array(probs))

  def step(index, last):
    jax.debug.callback(lambda: counted.append(1))
    row = table[jnp.minimum(index, len(probs) - 1)]
    rows = jnp.broadcast_to(row[None, :], (*last.shape, *row.shape))
    return rows, index + 1

  return step, counted


def _search(step, is_empty=(False,), *, alpha=0.6, max_length, eos_id=EOS):
  return beam.search(
    step,
    jnp.zeros((), jnp.int32),
    jnp.array(is_empty),
    num_beams=2,
    max_length=max_length,
    alpha=jnp.float32(alpha),
    eos_id=eos_id,
  )


def test_beam_search_stops_once_nothing_can_win():
  token2, end = [1e-9, 1e-9, 1.0], [1e-9, 1.0, 1e-9]
  step, counted = _by_position(token2, token2, end)
  tokens, _ = _search(step, [False, True], max_length=40)
  jax.effects_barrier()
  assert tokens[:, :5].tolist() == [[2, 2, 1, 0, 0], [0, 0, 0, 0, 0]]
  assert len(counted) == 3


def test_beam_search_goes_on_while_a_longer_sequence_can_win():
  token2, end = [1e-9, 1e-9, 1.0], [1e-9, 1.0, 1e-9]
  step, _ = _by_position([1e-9, 0.6, 0.4], token2, token2, token2, end)
  # log(0.6) = -0.51 against log(0.4) / (10 / 6)^2 = -0.33.
  tokens, scores = _search(step, alpha=2.0, max_length=6)
  assert tokens.tolist() == [[2, 2, 2, 2, 1, 0]]
  np.testing.assert_allclose(scores, np.log(0.4), rtol=1e-5)
  tokens, scores = _search(step, alpha=0.5, max_length=6)
  assert tokens.tolist() == [[1, 0, 0, 0, 0, 0]]
  np.testing.assert_allclose(scores, np.log(0.6), rtol=1e-5)


def test_beam_search_returns_the_best_beam_if_nothing_ended():
  step, _ = _by_position([0.2, 0.1, 0.7])
  # No token of this vocabulary ends.
  tokens, scores = _search(step, max_length=3, eos_id=99)
  assert tokens.tolist() == [[2, 2, 2]]
  np.testing.assert_allclose(scores, 3 * np.log(0.7), rtol=1e-5)


def test_one_beam_and_temperature_zero_are_greedy():
  model, params = _model(ROUTED)
  generate = functools.partial(
    decoding.generate, model, params, INPUTS, max_length=8
  )
  greedy = generate()
  rng = jax.random.key(0)
  for other in (
    generate(method="beam", num_beams=1),
    generate(method="sample", rng=rng, temperature=0.0),
    generate(method="sample", rng=rng, temperature=1e-6),
    generate(method="sample", rng=rng, top_k=1),
  ):
    np.testing.assert_array_equal(other.tokens, greedy.tokens)
    np.testing.assert_allclose(other.scores, greedy.scores, rtol=1e-5)


def test_samples_are_reproducible_and_scored_by_the_model_itself():
  model, params = _model(ROUTED)
  inputs = np.tile(INPUTS[:1], (3, 1))

  def sample(seed):
    decoded = decoding.generate(
      model,
      params,
      inputs,
      max_length=8,
      method="sample",
      rng=jax.random.key(seed),
      temperature=2.0,
    )
    return np.asarray(decoded.tokens), np.asarray(decoded.scores)

  tokens, scores = sample(0)
  np.testing.assert_array_equal(sample(0)[0], tokens)
  assert (sample(1)[0] != tokens).any()
  assert (tokens[0] != tokens[1]).any()

  log_probs = np.asarray(_uncached(model, params, inputs, tokens))
  gains = np.take_along_axis(log_probs, tokens[..., None], -1)[..., 0]
  expected = np.sum(gains, axis=1, where=_kept(tokens))
  np.testing.assert_allclose(scores, expected, atol=1e-4)
  # The first token's frequencies, at temperature 2.
  probs = np.exp(log_probs[0, 0].astype(np.float64) / 2)
  draws = [sample(seed)[0][:, 0] for seed in range(2, 202)]
  _assert_drawn_from(probs / probs.sum(), np.concatenate(draws))


def _assert_drawn_from(probs, draws):
  counts = np.bincount(draws, minlength=len(probs))
  np.testing.assert_array_equal(counts[probs == 0], 0)
  real = probs > 0
  if real.sum() > 1:
    expected = probs[real] / probs[real].sum() * len(draws)
    assert stats.chisquare(counts[real], expected).pvalue > 1e-3


@pytest.mark.parametrize(
  "temperature, top_k, top_p",
  [
    (1.0, None, None),
    (0.5, None, None),
    (1.0, 3, None),
    (1.0, 99, None),
    (1.0, None, 0.7),
    (2.0, 4, 0.6),
    (1.0, None, 1e-6),
    (1.0, None, 1.0),
  ],
)
def test_draws_follow_temperature_top_k_and_top_p(temperature, top_k, top_p):
  logits = np.array([0.3, 2.0, -1.0, 1.5, 0.0, 1.9, -3.0, 0.9])
  log_probs = np.asarray(jax.nn.log_softmax(logits.astype(np.float32)))

  probs = np.exp(logits / temperature)
  order = np.argsort(-probs)[:top_k]
  kept = probs[order] / probs[order].sum()
  if top_p is not None:
    # As few of the most probable as reach top_p.
    kept = kept[: 1 + np.searchsorted(np.cumsum(kept), top_p)]
  expected = np.zeros_like(probs)
  expected[order[: len(kept)]] = kept

  draws = decoding.draw_token(
    jax.random.key(3),
    jnp.broadcast_to(log_probs[None, :], (20_000, 8)),
    jnp.float32(temperature),
    top_k,
    None if top_p is None else jnp.float32(top_p),
  )
  assert draws.dtype == jnp.int32
  _assert_drawn_from(expected, np.asarray(draws))


def test_ties_do_not_let_more_than_top_k_through():
  draws = decoding.draw_token(
    jax.random.key(0), jnp.zeros((500, 6)), jnp.float32(1.0), top_k=2
  )
  assert len(np.unique(draws)) == 2


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_padding_changes_nothing_and_gives_nothing(method):
  model, params = _model(ROUTED)
  generate = functools.partial(
    decoding.generate, model, params, max_length=8, method=method, num_beams=3
  )
  decoded = generate(INPUTS)
  padded = generate(np.pad(INPUTS, ((0, 1), (0, 5))))
  np.testing.assert_array_equal(padded.tokens[:3], decoded.tokens)
  np.testing.assert_allclose(padded.scores[:3], decoded.scores, rtol=1e-4)
  np.testing.assert_array_equal(padded.tokens[3], 0)
  assert padded.scores[3] == 0.0
  assert np.isfinite(padded.scores).all()


def test_another_end_token():
  model, params = _model(DENSE)
  first = decoding.generate(model, params, INPUTS, max_length=8).tokens[0, 0]
  decoded = decoding.generate(
    model, params, INPUTS, max_length=8, eos_id=int(first)
  )
  assert decoded.tokens[0].tolist() == [int(first), *[0] * 7]


def test_one_compile_for_a_shape():
  traced = []

  class Counting(network.Transformer):
    def encode(self, *args, **kwargs):
      traced.append(1)
      return super().encode(*args, **kwargs)

  _, params = _model(DENSE)
  for i in range(3):
    # A new but equal module each time, and other values of what may vary.
    decoding.generate(
      Counting(DENSE),
      jax.tree.map(lambda x, i=i: x * (1 + i / 10), params),
      (INPUTS + i) % 7,
      max_length=4,
      method="sample",
      rng=jax.random.key(i),
      temperature=1.0 + i,
      top_p=0.5 + i / 10,
    )
  assert len(traced) == 1


def test_score_is_the_log_probability_of_the_targets():
  model, params = _model(ROUTED)
  targets = [[2, 3, 1, 0, 0], [6, 1, 0, 0, 0], [5, 5, 5, 4, 1]]
  targets = np.pad(np.array(targets, np.int32), ((0, 0), (0, 3)))
  log_probs = np.asarray(_uncached(model, params, INPUTS, targets))
  expected = [
    sum(log_probs[row, i, token] for i, token in enumerate(target) if token)
    for row, target in enumerate(targets)
  ]
  got = decoding.score(model, params, INPUTS, targets)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_keys_and_values_of_the_input_are_kept_only_on_request():
  model, params = _model(DENSE)

  def decode(variables, inputs, encoded, tokens, mutable):
    return model.apply(
      {"params": params, **variables},
      encoded,
      inputs,
      tokens,
      tokens,
      enable_dropout=False,
      decode=True,
      max_decode_length=4,
      mutable=mutable,
      method=model.decode,
    )

  @jax.jit
  def both_ways(inputs):
    encoded = model.apply(
      {"params": params}, inputs, enable_dropout=False, method=model.encode
    )
    tokens = jnp.ones((6, 4), jnp.int32)
    token = jnp.arange(6)[:, None]
    # t5x's way: inputs repeated for each beam, and nothing but the cache.
    repeated = [jnp.repeat(x, 2, axis=0) for x in (inputs, encoded)]
    _, plain = decode({}, *repeated, tokens, ["cache"])
    expected, _ = decode(plain, *repeated, token, ["cache"])
    _, kept = decode({}, inputs, encoded, tokens, ["cache", "encoded_kv"])
    # What was encoded is not looked at any more.
    other = jnp.full_like(encoded, 9.0)
    got, _ = decode(kept, inputs, other, token, ["cache"])
    return plain, expected, kept, got

  plain, expected, kept, got = both_ways(INPUTS)
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
  assert set(plain) == {"cache"}
  shapes = [jax.tree.map(jnp.shape, x["cache"]) for x in (plain, kept)]
  assert shapes[0] == shapes[1]
  shapes = {x.shape for x in jax.tree.leaves(kept["encoded_kv"])}
  assert shapes == {(3, 2, 6, 4)}


@pytest.mark.parametrize(
  "arguments, message",
  [
    ({"method": "nucleus"}, "nucleus.*greedy.*beam.*sample"),
    ({"method": "sample"}, "rng=jax.random.key"),
    ({"max_length": 0}, "max_length=0; expected 1 or more"),
    ({"temperature": -1.0}, "temperature"),
    ({"top_k": 0}, "top_k"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 90}, "top_p"),
    ({"num_beams": 0}, "num_beams"),
    ({"alpha": -0.1}, "alpha"),
    ({"encoder_input_tokens": INPUTS[0]}, r"\[6\].*tokens\[None, :\]"),
    ({"encoder_input_tokens": INPUTS / 2}, "integers.*float"),
  ],
)
def test_bad_arguments(arguments, message):
  model, params = _model(DENSE)
  arguments = {"encoder_input_tokens": INPUTS, "max_length": 3, **arguments}
  with pytest.raises(ValueError, match=message):
    decoding.generate(model, params, **arguments)
