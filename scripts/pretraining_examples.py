"""Makes the examples that the tiny T5 is pretrained on, with numpy alone.

Every task is a function of a random generator and a `Text`, and returns the ids
of (inputs, targets) without their end; the text says what the answer is:

  span_corruption  T5's: marked spans are cut out        -> the spans
  span_copying     marked spans are left in              -> the spans
  continuation     a passage, cut off                    -> how it continues
  title            a section                             -> its title
  telling          a passage      -> the telling words of its opening
  topic            glosses of WordNet                    -> what they share
  find, before     some words and a passage  -> what stands after, before them
  which            a snippet and passages, one of which it was cut out of
                                      -> the mark and the opening of that one
  about            a title and sections                -> the opening of its own
  marked_title     a mark and marked sections          -> the title of that one
  intruder         a passage with a span of another text in it  -> that span

The last six are answered by some place of the input, anywhere in it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

INPUTS, TARGETS = 256, 128
PAD, EOS = 0, 1
NOISE_DENSITY = 0.3
MEAN_SPAN_LENGTH = 6
# A section needs this many tokens to have its title asked for.
SECTION_TOKENS = 40
OPENING_TOKENS = 40  # what telling words are taken of
PREFIXES = (
  "headline:",
  "telling:",
  "topic:",
  "find:",
  "before:",
  "which:",
  "about:",
  "odd:",
  "in:",
  "among:",
)

Ids = np.ndarray
Example = tuple[Ids, Ids]


class Text(NamedTuple):
  """A tokenised corpus.

  Attributes:
    stream: uint16 [n], the tokens of all documents, titles included.
    documents: int64 [documents + 1], where each starts, and the end.
    sections: int64 [sections, 4]: starts and ends of titles and bodies.
    topics: (glosses, topic) ids.
    prefixes: {prefix: its ids}.
    starts_word: bool [vocab_size], tokens that begin a word.
    is_common: bool [vocab_size], frequent words and punctuation marks.
  """

  stream: Ids
  documents: Ids
  sections: Ids
  topics: Sequence[Example]
  prefixes: dict[str, Ids]
  starts_word: np.ndarray
  is_common: np.ndarray

  def sentinel(self, number: int) -> Ids:
    """T5's sentinels count down from the last id."""
    return np.array([len(self.starts_word) - 1 - number], np.uint16)

  def passage(self, rng: np.random.Generator, length: int) -> Ids:
    """Up to `length` tokens from anywhere, of one document."""
    start = rng.integers(len(self.stream))
    place = np.searchsorted(self.documents, start, "right")
    first, end = self.documents[place - 1], self.documents[place]
    start = max(min(start, end - length), first)
    return self.stream[start : min(start + length, end)]

  def word_start(self, tokens: Ids, start: int) -> int:
    """The first word's start at or after `start`, or else `start`."""
    starts = np.flatnonzero(self.starts_word[tokens[start : start + 8]])
    return start + int(starts[0]) if len(starts) else start


def random_lengths(rng: np.random.Generator, total: int, parts: int) -> Ids:
  """Cuts `total` into `parts` positive lengths, all ways equally likely."""
  cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
  return np.diff(np.concatenate([[0], cuts, [total]]))


def corrupt(
  rng: np.random.Generator, text: Text, tokens: Ids, keep_spans: bool
) -> Example:
  """Corrupts spans as `coda_jax.data.preprocessors.corrupt_spans` does."""
  noise = min(max(round(len(tokens) * NOISE_DENSITY), 1), len(tokens) - 1)
  spans = min(max(round(noise / MEAN_SPAN_LENGTH), 1), len(tokens) - noise)
  lengths = np.stack(
    [
      random_lengths(rng, len(tokens) - noise, spans),
      random_lengths(rng, noise, spans),
    ],
    1,
  )
  pieces = np.split(tokens, np.cumsum(lengths.ravel())[:-1])
  inputs, targets = [], []
  for i in range(spans):
    kept, span = pieces[2 * i], pieces[2 * i + 1]
    inputs += [kept, text.sentinel(i), *([span] if keep_spans else [])]
    targets += [text.sentinel(i), span]
  return np.concatenate(inputs), np.concatenate(targets)


def span_corruption(
  rng: np.random.Generator, text: Text, keep_spans: bool = False
) -> Example:
  """Of windows over documents joined end to end; a quarter are short."""
  grown = 1 + NOISE_DENSITY / MEAN_SPAN_LENGTH
  length = int((INPUTS - 2) / (grown if keep_spans else grown - NOISE_DENSITY))
  if rng.random() < 0.25:
    length = int(rng.integers(32, length))
  start = rng.integers(max(len(text.stream) - length, 1))
  return corrupt(rng, text, text.stream[start : start + length], keep_spans)


def continuation(rng: np.random.Generator, text: Text) -> Example:
  """Span corruption with one span, at the end."""
  tokens = text.passage(rng, INPUTS + TARGETS - 4)
  cut = max(len(tokens) - int(rng.integers(32, TARGETS - 2)), len(tokens) // 2)
  mark = text.sentinel(0)
  return (
    np.concatenate([tokens[:cut][2 - INPUTS :], mark]),
    np.concatenate([mark, tokens[cut:]]),
  )


def _section(text: Text, number: int) -> Example:
  title_start, title_end, start, end = text.sections[number]
  return text.stream[start:end], text.stream[title_start:title_end]


def title(rng: np.random.Generator, text: Text) -> Example:
  """A section's title from its body."""
  body, name = _section(text, rng.integers(len(text.sections)))
  return np.concatenate([text.prefixes["headline:"], body]), name


def telling(rng: np.random.Generator, text: Text) -> Example:
  """The words of the opening that are not frequent, eight at most."""
  tokens = text.passage(rng, INPUTS)
  start = text.word_start(tokens, 0)
  tokens = tokens[start : start + int(rng.integers(80, INPUTS))]
  opening = tokens[:OPENING_TOKENS]
  words = np.split(opening, np.flatnonzero(text.starts_word[opening])[1:])
  words = [word[~text.is_common[word]] for word in words[:-1]]
  words = [word for word in words if len(word)][:8]
  targets = np.concatenate([*words, opening[:0]])
  return np.concatenate([text.prefixes["telling:"], tokens]), targets


def topic(rng: np.random.Generator, text: Text) -> Example:
  """The topic that some glosses share (build_pairs.py)."""
  glosses, name = text.topics[rng.integers(len(text.topics))]
  return np.concatenate([text.prefixes["topic:"], glosses]), name


def find(rng: np.random.Generator, text: Text, before: bool = False) -> Example:
  """The words after some words of a passage, or before them."""
  tokens = text.passage(rng, INPUTS - 16)
  size = int(rng.integers(3, 6))
  place = int(rng.integers(12, max(len(tokens) - size - 12, 13)))
  place = text.word_start(tokens, place)
  asked = tokens[place : place + size]
  if before:
    name, answer = "before:", tokens[max(place - 12, 0) : place]
  else:
    name, answer = "find:", tokens[place + size : place + size + 16]
  prefixes = text.prefixes
  inputs = [prefixes[name], asked, prefixes["in:"], tokens]
  return np.concatenate(inputs), answer


def which(rng: np.random.Generator, text: Text) -> Example:
  """The passage that a snippet was cut out of: its mark and opening."""
  count = int(rng.integers(3, 6))
  size = int(rng.integers(10, 20))
  room = (INPUTS - 12 - size) // count - 1
  passages = [text.passage(rng, room) for _ in range(count)]
  marks = [text.sentinel(i) for i in rng.permutation(count)]
  right = int(rng.integers(count))
  whole = text.passage(rng, room + size)
  start = text.word_start(
    whole, int(rng.integers(8, max(len(whole) - size, 9)))
  )
  snippet = whole[start : start + size]
  passages[right] = np.concatenate([whole[:start], whole[start + size :]])
  inputs = [text.prefixes["which:"], snippet, text.prefixes["among:"]]
  for mark, passage in zip(marks, passages, strict=True):
    inputs += [mark, passage]
  answer = np.concatenate([marks[right], passages[right][:8]])
  return np.concatenate(inputs), answer


def _neighbours(
  rng: np.random.Generator, text: Text, room: int
) -> tuple[list[Ids], list[Ids], int]:
  """(titles, cut bodies, a chosen one), half the time of one neighbourhood."""
  count = int(rng.integers(3, 6))
  if rng.random() < 0.5:
    first = int(rng.integers(max(len(text.sections) - count, 1)))
    numbers = first + rng.permutation(count)
  else:
    numbers = rng.integers(len(text.sections), size=count)
  sections = [_section(text, i % len(text.sections)) for i in numbers]
  bodies = [body[: room // count - 1] for body, _ in sections]
  return [name for _, name in sections], bodies, int(rng.integers(count))


def about(rng: np.random.Generator, text: Text) -> Example:
  """The opening of the section that a title belongs to."""
  names, bodies, right = _neighbours(rng, text, INPUTS - 24)
  head = [text.prefixes["about:"], names[right][:16], text.prefixes["among:"]]
  return np.concatenate([*head, *bodies]), bodies[right][:16]


def marked_title(rng: np.random.Generator, text: Text) -> Example:
  """The title of the section with a mark."""
  names, bodies, right = _neighbours(rng, text, INPUTS - 10)
  marks = [text.sentinel(i) for i in rng.permutation(len(bodies))]
  inputs = [text.prefixes["headline:"], marks[right], text.prefixes["among:"]]
  for mark, body in zip(marks, bodies, strict=True):
    inputs += [mark, body]
  return np.concatenate(inputs), names[right]


def intruder(rng: np.random.Generator, text: Text) -> Example:
  """The span of another text that was put into a passage."""
  size = int(rng.integers(8, 17))
  tokens = text.passage(rng, INPUTS - 6 - size)
  other = text.passage(rng, size + 16)
  start = text.word_start(other, 0)
  other = other[start : start + size]
  place = text.word_start(tokens, int(rng.integers(len(tokens))))
  inputs = [text.prefixes["odd:"], tokens[:place], other, tokens[place:]]
  return np.concatenate(inputs), other


# {task: (share of the examples, how one is made)}
TASKS: dict[str, tuple[float, Callable[..., Example]]] = {
  "span_corruption": (0.30, span_corruption),
  "span_copying": (0.12, functools.partial(span_corruption, keep_spans=True)),
  "continuation": (0.08, continuation),
  "title": (0.10, title),
  "telling": (0.05, telling),
  "topic": (0.09, topic),
  "find": (0.06, find),
  "before": (0.03, functools.partial(find, before=True)),
  "which": (0.05, which),
  "about": (0.06, about),
  "marked_title": (0.03, marked_title),
  "intruder": (0.03, intruder),
}


def batch(
  rng: np.random.Generator, text: Text, size: int, task: str | None = None
) -> dict[str, np.ndarray]:
  """Makes `size` examples, of one task or of all by their shares.

  Returns:
    uint16 `inputs` [size, INPUTS] and `targets` [size, TARGETS], each with EOS
    at its end and 0 after it.
  """
  names = list(TASKS)
  shares = np.array([TASKS[name][0] for name in names])
  chosen = rng.choice(len(names), size, p=shares / shares.sum())
  inputs = np.zeros((size, INPUTS), np.uint16)
  targets = np.zeros((size, TARGETS), np.uint16)
  for row in range(size):
    make = TASKS[task or names[chosen[row]]][1]
    x, y = make(rng, text)
    while not len(x) or not len(y):  # of a passage too short for it
      x, y = make(rng, text)
    for array, ids in ((inputs, x), (targets, y)):
      ids = ids[: array.shape[1] - 1]
      array[row, : len(ids)] = ids
      array[row, len(ids)] = EOS
  return {"inputs": inputs, "targets": targets}
