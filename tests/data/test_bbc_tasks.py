import pytest
import seqio

from coda_jax.data import bbc, bbc_tasks, vocabularies

LENGTHS = {"inputs": 32, "targets": 16}

pytestmark = pytest.mark.usefixtures("fresh_registry")


@pytest.fixture
def articles(monkeypatch):
  found = [
    bbc.Article(topic, f"Title {i}", f"Body of {topic} {i}. " * (i + 1))
    for topic in ("sport", "tech")
    for i in range(10)
  ]
  monkeypatch.setattr(bbc, "read", lambda: found)


def test_bbc_topic(articles):
  name = bbc_tasks.bbc_task("topic")
  assert name == "bbc_topic"
  task = seqio.TaskRegistry.get(name)
  counts = [task.num_input_examples(split) for split in bbc.SPLITS]
  assert counts == [16, 2, 2]
  assert task.metric_fns[0](["tech"], ["tech"]) == {"accuracy": 1.0}
  vocabulary = vocabularies.load("tiny")
  dataset = task.get_dataset(LENGTHS, "train", shuffle=False)
  for example in dataset.as_numpy_iterator():
    text = vocabulary.decode(example["inputs"].tolist())
    topic = vocabulary.decode(example["targets"].tolist())
    assert text.startswith("topic: Title") and f"Body of {topic}" in text
    # Long inputs are cut, and still end with EOS.
    assert len(example["inputs"]) <= 32 and example["inputs"][-1] == 1


def test_bbc_headline(articles):
  name = bbc_tasks.bbc_task("headline", name="mine")
  assert name == "mine"
  task = seqio.TaskRegistry.get(name)
  dataset = task.get_dataset(LENGTHS, "test", shuffle=False)
  example = next(dataset.as_numpy_iterator())
  assert example["inputs_pretokenized"].startswith(b"headline: Body of")
  assert example["targets_pretokenized"].startswith(b"Title")
  assert task.metric_fns[0](["Title"], ["Title"])["rouge1"] == 1.0


def test_bbc_find(monkeypatch):
  found = [
    bbc.Article("tech", f"Title {i}", " ".join(f"w{i}x{j}" for j in range(30)))
    for i in range(10)
  ]
  monkeypatch.setattr(bbc, "read", lambda: found)
  task = seqio.TaskRegistry.get(bbc_tasks.bbc_task("find"))
  dataset = task.get_dataset(LENGTHS, "train", shuffle=False)
  example = next(dataset.as_numpy_iterator())
  assert example["inputs_pretokenized"].startswith(b"find: ")
  (metric,) = task.metric_fns
  # The first three words decide.
  assert metric(["a b c d"], ["a b c"]) == {"accuracy": 1.0}
  assert metric(["a b c", "d e f"], ["a b c", "d e x"]) == {"accuracy": 0.5}


def test_unknown_target():
  with pytest.raises(
    ValueError, match="expected one of .'find', 'headline', 'topic'"
  ):
    bbc_tasks.bbc_task("sentiment")
