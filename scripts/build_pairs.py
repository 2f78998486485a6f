"""Makes two supervised pretraining tasks out of what the corpus itself says.

  topics     some glosses of WordNet, in any order -> what they share: the topic
             that WordNet files them under, or the kind of thing they describe
  headlines  a passage of the corpus -> the telling words of its opening, those
             that are not among the corpus's most frequent, eight at most

Writes `{topics,headlines}-{train,validation}.jsonl`, rows {"text", "target"},
and `pairs.json` (counts). About 1 passage in 100 is held out, by its hash.

  python scripts/build_pairs.py --corpus=data/corpus --output=data/pairs
"""

import argparse
import collections
import contextlib
import hashlib
import itertools
import json
import math
import pathlib
import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import build_corpus
from corpus_readers import Synset, wordnet_synsets
from corpus_sources import SOURCES

PASSAGES = 40_000  # of each task
PASSAGE_WORDS = 75
# Topics: groups of synsets that are neither rare nor nearly everything.
TOPIC_MEMBERS = (12, 5000)
KIND_MEMBERS = (30, 1500)
# Headlines.
COMMON_WORDS = 200
OPENING_WORDS = 30
TELLING_WORDS = (4, 8)

_TOPIC_POINTER = ";c"
_KIND_POINTERS = ("@", "@i")
_SENTENCE_END = re.compile(r"(?<=[.!?;])['\")]* ")

Key = tuple[str, str]  # part of speech, offset


def read_synsets(root: pathlib.Path) -> dict[Key, Synset]:
  """Reads all synsets of an unpacked package."""
  return {
    (tag, synset.offset): synset
    for part, tag in (("noun", "n"), ("verb", "v"), ("adj", "a"), ("adv", "r"))
    for synset in wordnet_synsets(root, part)
  }


def closure(synsets: Mapping[Key, Synset], key: Key) -> list[Key]:
  """The synset and all kinds that it is of, nearest first."""
  keys = {key: None}
  queue = collections.deque([key])
  while queue:
    for symbol, target in synsets[queue.popleft()].pointers:
      if symbol in _KIND_POINTERS and target not in keys:
        keys[target] = None
        queue.append(target)
  return list(keys)


def groups(
  synsets: Mapping[Key, Synset],
) -> tuple[dict[Key, list[Key]], dict[Key, list[Key]]]:
  """Returns ({topic: synsets}, {kind: synsets}), only those of a fit size.

  A synset has the topics that it and its kinds are filed under, and those that
  these topics are kinds of: a striker is football, and so sport.
  """
  kinds, topics = collections.defaultdict(list), collections.defaultdict(list)
  filed = {
    target
    for synset in synsets.values()
    for symbol, target in synset.pointers
    if symbol == _TOPIC_POINTER
  }
  for key in synsets:
    above = closure(synsets, key)
    for kind in above[1:]:
      kinds[kind].append(key)
    own = {
      target
      for kind in above
      for symbol, target in synsets[kind].pointers
      if symbol == _TOPIC_POINTER
    }
    # Sorted: the order of a set of strings changes from process to process.
    reached = {t for o in own for t in closure(synsets, o) if t in filed}
    for topic in sorted(reached):
      topics[topic].append(key)
  return tuple(
    {k: v for k, v in grouped.items() if low <= len(v) <= high}
    for grouped, (low, high) in ((topics, TOPIC_MEMBERS), (kinds, KIND_MEMBERS))
  )


def topic_pairs(
  synsets: Mapping[Key, Synset], rng: random.Random
) -> Iterator[tuple[str, str]]:
  """Yields (glosses, what they share), endlessly; half topics, half kinds."""
  samplers = []
  for grouped in groups(synsets):
    names = list(grouped)
    weights = list(
      itertools.accumulate(math.sqrt(len(grouped[name])) for name in names)
    )
    samplers.append((grouped, names, weights))
  for grouped, names, weights in itertools.cycle(samplers):
    (name,) = rng.choices(names, cum_weights=weights)
    members = rng.sample(grouped[name], rng.randint(3, 10))
    text = " ".join(_entry(synsets[member], rng) for member in members)
    yield _cut(text), synsets[name].lemmas[0]


def _entry(synset: Synset, rng: random.Random) -> str:
  """A gloss, in half the cases after its words."""
  gloss = synset.gloss.rstrip(";") + "."
  if rng.random() < 0.5:
    return gloss
  return f"{', '.join(synset.lemmas[:2])}: {gloss}"


def common_words(documents: Sequence[str]) -> frozenset[str]:
  """The COMMON_WORDS most frequent words, in lower case."""
  counts = collections.Counter(
    word for document in documents for word in _words(document.lower())
  )
  return frozenset(word for word, _ in counts.most_common(COMMON_WORDS))


def headline_pairs(
  document: str, common: frozenset[str]
) -> Iterator[tuple[str, str]]:
  """Yields (passage, the telling words of its opening), passage by passage."""
  low, high = TELLING_WORDS
  rest = _SENTENCE_END.split(document)
  while rest:
    passage = _cut(" ".join(rest))
    opening = _words(" ".join(passage.split()[:OPENING_WORDS]))
    telling = [
      word for word in opening if len(word) > 1 and word.lower() not in common
    ]
    if len(telling) >= low:
      yield passage, " ".join(telling[:high])
    # Half a passage on, at the next sentence.
    skipped = 0
    while rest and skipped < PASSAGE_WORDS // 2:
      skipped += len(rest.pop(0).split())


def _words(text: str) -> list[str]:
  words = (word.strip(".,;:!?()[]'\"") for word in text.split())
  return [word for word in words if word]


def _cut(text: str) -> str:
  return " ".join(text.split()[:PASSAGE_WORDS])


def write(
  pairs: Iterator[tuple[str, str]], output: pathlib.Path, task: str
) -> dict[str, int]:
  """Writes distinct pairs in both splits; returns how many."""
  counts = collections.Counter()
  seen = set()
  with contextlib.ExitStack() as stack:
    files = {
      split: stack.enter_context((output / f"{task}-{split}.jsonl").open("w"))
      for split in ("train", "validation")
    }
    for text, target in itertools.islice(pairs, PASSAGES):
      digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
      if digest in seen:
        continue
      seen.add(digest)
      split = build_corpus.split_of(digest)
      row = json.dumps({"text": text, "target": target}, ensure_ascii=False)
      files[split].write(row + "\n")
      counts[f"{task}-{split}"] += 1
  return dict(counts)


def main() -> None:
  """Writes both tasks, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--corpus", type=pathlib.Path, required=True)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument(
    "--deb_dir",
    type=pathlib.Path,
    help="as of build_corpus.py (default: a temporary folder)",
  )
  arguments = parser.parse_args()
  arguments.output.mkdir(parents=True, exist_ok=True)
  rng = random.Random(0)
  documents = list(build_corpus.read_train(arguments.corpus))
  common = common_words(documents)
  passages = [p for d in documents for p in headline_pairs(d, common)]
  rng.shuffle(passages)
  counts = write(iter(passages), arguments.output, "headlines")
  with tempfile.TemporaryDirectory() as work:
    root, _ = build_corpus.unpack(
      *SOURCES["wordnet"].packages,
      arguments.deb_dir or pathlib.Path(work),
      pathlib.Path(work),
    )
    synsets = read_synsets(root)
  counts |= write(topic_pairs(synsets, rng), arguments.output, "topics")
  (arguments.output / "pairs.json").write_text(json.dumps(counts, indent=2))
  print(json.dumps(counts))


if __name__ == "__main__":
  main()
