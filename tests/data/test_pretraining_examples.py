import numpy as np
import pytest


@pytest.fixture(scope="module")
def examples(load_script):
  return load_script("pretraining_examples")


@pytest.fixture(scope="module")
def text(examples):
  """20 documents of 400 different tokens, in sections of 100 behind titles."""
  rng = np.random.default_rng(0)
  size = 900
  stream = np.concatenate([rng.permutation(400) + 10 for _ in range(20)])
  starts = np.arange(0, len(stream), 100)
  ids = np.arange(size)
  return examples.Text(
    stream=stream.astype(np.uint16),
    documents=np.arange(0, len(stream) + 1, 400),
    sections=np.stack([starts, starts + 3, starts + 3, starts + 100], 1),
    topics=[(np.arange(10, 40, dtype=np.uint16), np.array([7], np.uint16))],
    prefixes={
      prefix: np.array([500 + i], np.uint16)
      for i, prefix in enumerate(examples.PREFIXES)
    },
    starts_word=(ids % 2 == 0) | (ids >= 800),
    is_common=ids < 60,
  )


def contains(tokens, part):
  windows = np.lib.stride_tricks.sliding_window_view(tokens, len(part))
  return (windows == part).all(1).any()


def test_every_task_fits_and_ends(examples, text):
  for task in examples.TASKS:
    made = examples.batch(np.random.default_rng(0), text, 40, task)
    for name, length in (("inputs", 256), ("targets", 128)):
      rows = made[name]
      assert rows.shape == (40, length)
      assert rows.dtype == np.uint16
      sizes = (rows > 0).sum(1)
      assert (rows[np.arange(40), sizes - 1] == examples.EOS).all(), task
      assert (sizes > 1).all()
    # Nothing was cut off: no row is full but those that fill it by design.
    assert (made["targets"][:, -1] == 0).all(), task
    fills = "span" in task or task == "continuation"
    assert fills or (made["inputs"][:, -1] == 0).mean() > 0.5


def test_the_same_seed_makes_the_same(examples, text):
  first, second = (
    examples.batch(np.random.default_rng(3), text, 20) for _ in range(2)
  )
  np.testing.assert_array_equal(first["inputs"], second["inputs"])


@pytest.mark.parametrize("keep_spans", [False, True])
def test_corrupted_spans_restore_the_text(examples, text, keep_spans):
  tokens = text.stream[:150]
  x, y = examples.corrupt(np.random.default_rng(1), text, tokens, keep_spans)
  marks = np.flatnonzero(y >= 800)
  spans = np.split(y, marks[1:])
  restored = []
  for token in x:
    if token >= 800:
      span = spans[899 - token]
      assert span[0] == token
      restored += [] if keep_spans else span[1:].tolist()
    else:
      restored.append(token)
  np.testing.assert_array_equal(restored, tokens)
  assert abs(len(y) - len(spans) - 45) <= 1


@pytest.mark.parametrize(
  "task", ["span_copying", "find", "before", "about", "intruder", "which"]
)
def test_answers_stand_in_the_inputs(examples, text, task):
  rng = np.random.default_rng(2)
  for _ in range(50):
    x, y = examples.TASKS[task][1](rng, text)
    if task == "span_copying":
      y = y[: np.flatnonzero(y >= 800)[1]]
    assert contains(x, y)


def test_answers_are_what_was_asked_for(examples, text):
  rng = np.random.default_rng(4)
  for _ in range(50):
    x, y = examples.title(rng, text)
    start = np.flatnonzero(text.stream[text.sections[:, 2]] == x[1])
    assert any(
      np.array_equal(text.stream[slice(*text.sections[i, :2])], y)
      for i in start
    )
    x, y = examples.find(rng, text)
    asked, passage = np.split(x[1:], np.flatnonzero(x == 508) - 1)
    assert contains(passage, np.concatenate([asked, y]))
    x, y = examples.marked_title(rng, text)
    body = x[3:][np.flatnonzero(x[3:] == x[1])[0] + 1 :][:20]
    (place,) = [
      i
      for i, (_, _, start, end) in enumerate(text.sections)
      if contains(text.stream[start:end], body)
    ]
    np.testing.assert_array_equal(text.stream[100 * place :][:3], y)


def test_telling_words_are_not_common(examples, text):
  _, y = examples.telling(np.random.default_rng(5), text)
  assert not text.is_common[y].any()
  assert len(y) > 4
