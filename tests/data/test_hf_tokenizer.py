"""The tokenizer without seqio; tests/data/test_hf_vocabulary.py has the rest.

The vocabulary of seqio calls it, and is compared there with the `tokenizers`
library and with transformers.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

from coda_jax import testing
from coda_jax.data.hf_tokenizer import HfTokenizer
from coda_jax.data.hf_vocabulary import HfVocabulary
from coda_jax.inference import settings


@pytest.fixture
def folder(tmp_path):
  testing.save_sentence_encoder(tmp_path, "the capital of a b query :".split())
  return tmp_path


def test_equals_the_vocabulary(folder):
  tokenizer, vocabulary = HfTokenizer(folder), HfVocabulary(folder)
  assert tokenizer.vocab_size == vocabulary.vocab_size == 12
  for name in ("pad_id", "unk_id", "bos_id", "eos_id", "path", "lower_case"):
    assert getattr(tokenizer, name) == getattr(vocabulary, name)
  ids = tokenizer.encode("The capital of zzz")
  assert ids == vocabulary.encode("The capital of zzz")
  assert tokenizer.decode([tokenizer.bos_id, *ids[:3]]) == "the capital of"
  prompt = {"max_length": 6, "prompt": "query: "}
  for found, wanted in zip(
    tokenizer.encode_batch(["the capital", ("a b", "a")], **prompt),
    vocabulary.encode_batch(["the capital", ("a b", "a")], **prompt),
    strict=True,
  ):
    np.testing.assert_array_equal(found, wanted)
  assert tokenizer.prompt_length("query: ") == 3
  assert vocabulary.prompt_length("query: ") == 3


def test_tokenizers_are_told_apart_by_content(folder):
  tokenizer = HfTokenizer(folder)
  copy = folder / "copy"
  copy.mkdir()
  content = (folder / "tokenizer.json").read_text()
  (copy / "tokenizer.json").write_text(content)
  assert HfTokenizer(copy) == tokenizer
  assert len({tokenizer, HfTokenizer(copy)}) == 1
  assert HfTokenizer(folder, lower_case=True) != tokenizer
  (copy / "tokenizer.json").write_text(content.replace('"capital"', '"city"'))
  assert HfTokenizer(copy) != tokenizer
  digests = [
    settings.of_vocabulary(HfVocabulary(path, lower_case=case))
    for path, case in ((folder, False), (folder, True), (copy, False))
  ]
  assert len(set(digests)) == 3


def test_needs_no_seqio(folder):
  code = f"""
import sys
from coda_jax.data.hf_tokenizer import HfTokenizer
assert HfTokenizer({str(folder)!r}).encode("the capital")
print(*{{name.split(".")[0] for name in sys.modules}})
"""
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  assert done.returncode == 0, done.stderr
  assert not {"seqio", "tensorflow"}.intersection(done.stdout.split())
