import gin
import numpy as np
import pytest
import seqio

from coda_jax import cli
from coda_jax.data import c4, vocabularies
from coda_jax.training import inputs, loop

pytestmark = pytest.mark.usefixtures("fresh_registry")

LENGTHS = {"inputs": 32, "targets": 16}


def pages(word, count):
  page = {"url": "", "content-type": "", "content-length": "", "timestamp": ""}
  return [{**page, "text": f"{word} " * 60} for _ in range(count)]


@pytest.fixture
def english(prepare):
  splits = {"train": pages("cat", 4), "validation": pages("dog", 2)}
  prepare("c4/en:3.1.0", in_order=False, **splits)


@pytest.fixture
def multilingual(prepare):
  splits = {}
  for word, code, count in (
    ("cat", "en", 32),
    ("river", "ja__Latn", 1),
    ("stone", "und", 1),
  ):
    splits |= {code: pages(word, count)}
    splits |= {f"{code}__validation": pages(word, 1)}
  prepare("c4/multilingual:3.1.0", in_order=False, **splits)


def words(batch):
  vocabulary = vocabularies.load("tiny")
  rows = batch["encoder_input_tokens"].tolist()
  return {
    word
    for row in rows
    for word in ("cat", "dog", "river", "stone")
    if word in vocabulary.decode(row)
  }


def test_english(english):
  name = c4.c4_task()
  batch = next(
    inputs.train_batches(name, lengths=LENGTHS, batch_size=4, seed=0)
  )
  assert words(batch) == {"cat"}
  # Corrupted: full inputs, with sentinels, which the targets start with.
  assert (batch["encoder_input_tokens"] > 0).all()
  np.testing.assert_array_equal(batch["decoder_target_tokens"][:, 0], 8191)
  assert (batch["encoder_input_tokens"] == 8191).any(axis=1).all()
  found = inputs.eval_batches(name, "validation", lengths=LENGTHS, batch_size=2)
  assert words(next(found)) == {"dog"}


def test_languages_and_their_rates(multilingual):
  name = c4.mc4_mixture()
  mixture = seqio.MixtureRegistry.get(name)
  rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
  # 32 pages against 1: 32 to the power 0.3 is 2 to the power 1.5.
  assert rates == {
    "mc4_en": pytest.approx(2**1.5),
    "mc4_ja_Latn": pytest.approx(1),
  }
  found = inputs.train_batches(name, lengths=LENGTHS, batch_size=32, seed=0)
  assert words(next(found)) == {"cat", "river"}


def test_chosen_languages(multilingual):
  name = c4.mc4_mixture(languages=["ja-Latn"], name="mine")
  (task,) = seqio.MixtureRegistry.get(name).tasks
  assert task.name == "mine_ja_Latn"
  with pytest.raises(ValueError, match="no split 'xx'"):
    c4.mc4_mixture(languages=["xx"], name="other")


@pytest.mark.parametrize(
  "file, data", [("c4", "english"), ("mc4", "multilingual")]
)
def test_gin_files(file, data, request):
  request.getfixturevalue(data)
  files = [
    "models/t5_1_1.gin",
    "sizes/tiny.gin",
    "methods/full.gin",
    "schedules/constant.gin",
    f"tasks/{file}.gin",
    "runs/pretrain.gin",
  ]
  cli.parse_gin(files, [("MODEL_DIR", "'x'")])
  bound = gin.get_bindings(loop.train)
  assert bound["mixture_or_task_name"] == file
  # The targets are as long as such inputs need.
  lengths = bound["task_feature_lengths"]
  batch = next(
    inputs.train_batches(file, lengths=lengths, batch_size=1, seed=0)
  )
  for feature in ("encoder_input_tokens", "decoder_target_tokens"):
    assert (batch[feature] > 0).all()
