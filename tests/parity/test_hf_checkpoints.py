"""Folders of `save_pretrained` against torch: logits and generated tokens.

Both ways: what transformers wrote is read here, and what is written here is
read by transformers.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import coda_jax
from coda_jax import convert, testing

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = {
  "vocab_size": 160,
  "d_model": 24,
  "d_kv": 5,
  "d_ff": 40,
  "num_heads": 3,
  "num_layers": 2,
  "num_decoder_layers": 2,
  "pad_token_id": 0,
  "eos_token_id": 1,
  "decoder_start_token_id": 0,
  "dropout_rate": 0.0,
}
V1_0 = {"feed_forward_proj": "relu", "tie_word_embeddings": True}
V1_1 = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
T5 = (transformers.T5Config, transformers.T5ForConditionalGeneration)
MT5 = (transformers.MT5Config, transformers.MT5ForConditionalGeneration)
UMT5 = (transformers.UMT5Config, transformers.UMT5ForConditionalGeneration)
CASES = {
  "v1.0": (*T5, V1_0),
  "v1.1": (*T5, V1_1),
  "mt5": (*MT5, V1_1),
  "umt5": (*UMT5, V1_1),
  # ByT5's shape: a deep encoder, wide heads, few ids.
  "byt5": (
    *T5,
    V1_1 | {"num_layers": 3, "num_decoder_layers": 1, "vocab_size": 48},
  ),
  "one layer, wide heads": (
    *T5,
    V1_0 | {"num_layers": 1, "num_decoder_layers": 1, "d_kv": 24},
  ),
}


def torch_model(case, randomised):
  config, model, fields = CASES[case]
  torch.manual_seed(0)
  built = model(config(**{**SHAPE, **fields}))
  return randomised(built, tied=fields["tie_word_embeddings"])


@pytest.fixture(params=CASES)
def pair(request, tmp_path, randomised):
  """A torch model, and the folder that it was saved in."""
  model = torch_model(request.param, randomised)
  model.save_pretrained(tmp_path / "hf")
  return model, tmp_path / "hf"


def logits_of_torch(model, batch):
  tokens = {k: torch.from_numpy(np.array(v)).long() for k, v in batch.items()}
  with torch.no_grad():
    return (
      model(
        input_ids=tokens["encoder_input_tokens"],
        attention_mask=(tokens["encoder_input_tokens"] > 0).long(),
        decoder_input_ids=tokens["decoder_input_tokens"],
      )
      .logits.float()
      .numpy()
    )


def logits_of_ours(model, params, batch):
  apply = jax.jit(functools.partial(model.apply, enable_dropout=False))
  logits = apply({"params": params}, **batch)
  return np.asarray(logits, np.float32)


def assert_close(found, expected, batch, tolerance):
  real = batch["decoder_target_tokens"] > 0
  difference = np.abs(found - expected)[real].max()
  assert difference < tolerance * np.abs(expected[real]).max()


@pytest.mark.parametrize(
  ("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 3e-2)]
)
def test_logits_of_what_transformers_wrote(pair, dtype, tolerance):
  reference, folder = pair
  model, params = coda_jax.load_pretrained(folder, dtype=dtype)
  batch = testing.token_batch(model.config.vocab_size, (140, 9), (60, 4))
  assert_close(
    logits_of_ours(model, params, batch),
    logits_of_torch(reference, batch),
    batch,
    tolerance,
  )


def test_transformers_reads_what_is_written_here(pair, tmp_path):
  """By way of our own format, so that nothing of theirs is passed through."""
  reference, folder = pair
  convert.convert(folder, tmp_path / "ours", "coda_jax")
  convert.convert(
    tmp_path / "ours", tmp_path / "back", "hf", shard_bytes=10_000
  )
  # The folder says itself which class it is.
  loaded, info = transformers.AutoModelForSeq2SeqLM.from_pretrained(
    tmp_path / "back", output_loading_info=True
  )
  assert not any(
    info[kind]
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
  )
  if loaded.config.model_type == "umt5":
    # transformers 5.23 scales the logits of every UMT5 as if they were tied.
    loaded.config.tie_word_embeddings = False
  batch = testing.token_batch(loaded.config.vocab_size, (40, 9), (20, 4))
  expected = logits_of_torch(reference, batch)
  assert_close(logits_of_torch(loaded.eval(), batch), expected, batch, 2e-6)


def test_umt5_that_says_that_its_logits_are_not_tied(tmp_path, randomised):
  """As published ones, and ours: transformers 5.0 to 5.23 scale them."""
  reference = torch_model("umt5", randomised)
  reference.save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  fields = json.loads(path.read_text()) | {"tie_word_embeddings": False}
  path.write_text(json.dumps(fields))
  batch = testing.token_batch(SHAPE["vocab_size"], (40, 9), (20, 4))
  reference.config.tie_word_embeddings = False
  expected = logits_of_torch(reference, batch)
  model, params = coda_jax.load_pretrained(tmp_path)
  assert_close(logits_of_ours(model, params, batch), expected, batch, 2e-5)


@pytest.mark.parametrize("copies", [("decoder",), ("encoder", "decoder")])
def test_madlads_names(tmp_path, randomised, copies):
  """The embedding under `embed_tokens`, as MADLAD-400's folders have it."""
  reference = torch_model("v1.1", randomised)
  reference.save_pretrained(tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
  shared = tensors.pop("shared.weight")
  tensors |= {f"{c}.embed_tokens.weight": shared.copy() for c in copies}
  safetensors.numpy.save_file(
    tensors, tmp_path / "model.safetensors", metadata={"format": "pt"}
  )
  convert.convert(tmp_path, tmp_path / "back", "hf")
  batch = testing.token_batch(SHAPE["vocab_size"], (40, 9), (20, 4))
  expected = logits_of_torch(reference, batch)
  for folder in (tmp_path, tmp_path / "back"):
    model, params = coda_jax.load_pretrained(folder)
    assert_close(logits_of_ours(model, params, batch), expected, batch, 2e-5)
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(folder)
    assert_close(logits_of_torch(loaded.eval(), batch), expected, batch, 2e-6)


def test_a_matrix_of_logits_beside_tied_embeddings(tmp_path, randomised):
  """transformers 5 uses the file's matrix, and so do we, with a warning."""
  torch_model("v1.1", randomised).save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  fields = json.loads(path.read_text()) | {"tie_word_embeddings": True}
  for name in ("scale_decoder_outputs", "transformers_version"):
    del fields[name]
  path.write_text(json.dumps(fields))
  loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path)
  with pytest.warns(UserWarning, match="lm_head.weight differs"):
    model, params = coda_jax.load_pretrained(tmp_path)
  batch = testing.token_batch(SHAPE["vocab_size"], (40, 9), (20, 4))
  expected = logits_of_torch(loaded.eval(), batch)
  assert_close(logits_of_ours(model, params, batch), expected, batch, 2e-5)


def ended(rows):
  """Token rows up to EOS, without padding."""
  found = []
  for row in np.asarray(rows).tolist():
    row = row[: row.index(1) + 1] if 1 in row else row
    found.append([t for t in row if t != 0])
  return found


@pytest.mark.parametrize("beams", [1, 4])
def test_generated_tokens(pair, beams):
  reference, folder = pair
  model, params = coda_jax.load_pretrained(folder)
  random = np.random.default_rng(0)
  lengths = random.integers(2, 13, 80)
  tokens = testing.random_tokens(lengths, 13, model.config.vocab_size)
  # Without a length penalty: transformers divides by another one.
  beam = {"method": "beam", "num_beams": beams, "alpha": 0.0}
  options = beam if beams > 1 else {}
  found = coda_jax.generate(
    model, params, jnp.asarray(tokens), max_length=8, **options
  )
  sources = torch.from_numpy(tokens).long()
  expected = reference.generate(
    input_ids=sources,
    attention_mask=(sources > 0).long(),
    max_new_tokens=8,
    num_beams=beams,
    do_sample=False,
    length_penalty=0.0,
  )
  pairs = list(zip(ended(found.tokens), ended(expected[:, 1:]), strict=True))
  if beams > 1:
    # At the last step transformers ranks what has not ended with what has;
    # t5x, and we, return a sequence that has ended where there is one.
    pairs = [(x, y) for x, y in pairs if y[-1] == 1 or x[-1] != 1]
  assert len(pairs) >= 50
  for ours, theirs in pairs:
    assert ours == theirs
