import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import decoding, testing, token_ids
from coda_jax.t5.network import Transformer

MODEL = Transformer(testing.tiny_config())
SIZE = MODEL.config.vocab_size
GOOD = [[3, 4, 1, 0], [SIZE - 1, 1, 0, 0]]
BAD = {"too large": [[3, 4, SIZE, 1]], "negative": [[3, -1, 4, 1]]}


@pytest.fixture(scope="module")
def params():
  return testing.random_params(MODEL)


def generate(params, tokens):
  return decoding.generate(MODEL, params, tokens, max_length=3).scores


def score(params, tokens):
  return decoding.score(MODEL, params, tokens, tokens)


def encode(params, tokens):
  return MODEL.apply(
    {"params": params}, tokens, enable_dropout=False, method="encode"
  )


def apply(params, tokens):
  return MODEL.apply(
    {"params": params}, tokens, tokens, tokens, enable_dropout=False
  )


CALLS = [generate, score, encode, apply]


@pytest.mark.parametrize("call", CALLS)
def test_what_numpy_takes(call, params):
  expected = call(params, np.array(GOOD, np.int32))
  for tokens in (GOOD, tuple(map(tuple, GOOD)), np.array(GOOD, np.uint16)):
    np.testing.assert_array_equal(call(params, tokens), expected)


@pytest.mark.parametrize("kind", [list, np.array, jnp.array])
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("call", CALLS)
def test_ids_without_an_embedding(call, bad, kind, params):
  tokens = kind(BAD[bad])
  value = {"too large": SIZE, "negative": -1}[bad]
  with pytest.raises(
    ValueError,
    match=f"encoder_input_tokens has the token id {value}; expected 0 to "
    f"{SIZE - 1}: the model has {SIZE} embeddings",
  ):
    call(params, tokens)


def test_ids_beyond_int32_do_not_wrap(params):
  with pytest.raises(ValueError, match=f"token id {2**32 + 3}"):
    generate(params, np.array([[2**32 + 3, 1]]))


def test_targets(params):
  tokens = np.array(GOOD)
  with pytest.raises(
    ValueError, match=f"target_tokens has the token id {SIZE}"
  ):
    decoding.score(MODEL, params, tokens, tokens + (tokens == SIZE - 1))
  with pytest.raises(ValueError, match="decoder_input_tokens has the token id"):
    MODEL.apply(
      {"params": params}, tokens, tokens + 1, tokens, enable_dropout=False
    )


@pytest.mark.parametrize(
  ("tokens", "message"),
  [
    ([[3, 4, 1], [3, 1]], "different lengths; pad the shorter ones with 0"),
    (
      [[3.0, 4.0]],
      r"expected integers \[batch, length\], got float64 \[1, 2\]",
    ),
    ([3, 4, 1], r"got int64 \[3\]; one text is a batch of one"),
    ([["a", "b"]], "expected integers .*got <U1"),
  ],
)
@pytest.mark.parametrize("call", [generate, score])
def test_what_is_no_batch_of_ids(call, tokens, message, params):
  with pytest.raises(ValueError, match=f"encoder_input_tokens: .*{message}"):
    call(params, tokens)


def test_compiled_code_is_left_as_it_is(params):
  def checks(tokens):
    return token_ids.checked("tokens", tokens, 2) + 1

  found = jax.make_jaxpr(checks)(jnp.array([5]))
  assert [equation.primitive.name for equation in found.eqns] == ["add"]
  # Where it can't be seen, the nearest embedding is taken, as before.
  bad, near = jnp.array(BAD["too large"]), jnp.array([[3, 4, SIZE - 1, 1]])
  np.testing.assert_array_equal(
    jax.jit(encode)(params, bad), jax.jit(encode)(params, near)
  )
