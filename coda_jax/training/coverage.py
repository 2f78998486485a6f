"""The parts of a task's examples that a model never sees, in a sample.

TASK_FEATURE_LENGTHS cuts what is longer, and a vocabulary has no token for some
characters. Neither is an error, and both can make a task impossible to learn.
"""

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from coda_jax.training import inputs

# The size of the sample: examples of each task, and seconds in all.
_EXAMPLES = 256
_SECONDS = 5.0

# What an encoder-decoder reads and writes.
_FEATURES = ("inputs", "targets")

# A larger share gets a warning.
_HARMLESS = 0.01

# SentencePiece reads them as spaces.
_WHITE_SPACE = frozenset("\n\r\t")


class Losses(NamedTuple):
  """Counts of examples that lose something.

  Attributes:
    examples: how many were counted.
    cut_inputs: how many have inputs that are longer than allowed.
    cut_targets: how many have such targets.
    unwritable: how many have targets that the vocabulary can't write.
    characters: that it lacks, as far as the texts are known.
  """

  examples: int = 0
  cut_inputs: int = 0
  cut_targets: int = 0
  unwritable: int = 0
  characters: frozenset[str] = frozenset()

  def plus(self, other: "Losses") -> "Losses":
    """The losses of both."""
    numbers = (a + b for a, b in zip(self[:-1], other[:-1], strict=True))
    return Losses(*numbers, self.characters | other.characters)


def losses(
  examples: Iterable[Mapping[str, Any]],
  lengths: Mapping[str, int],
  vocabulary: Any,
  features: Sequence[str] = _FEATURES,
) -> Losses:
  """Counts what examples lose.

  Args:
    examples: see `inputs.uncut_examples`.
    lengths: {"inputs": n, "targets": m}, in tokens.
    vocabulary: seqio's, of the targets.
    features: those that reach the model as tokens; others lose nothing.
  """
  total = Losses()
  for example in examples:
    cut = {name: len(example[name]) > lengths[name] for name in features}
    if "targets" not in features:
      total = total.plus(Losses(1, cut["inputs"]))
      continue
    tokens = example["targets"].tolist()
    text = example.get("targets_pretokenized")
    text = text.decode().strip() if isinstance(text, bytes) else ""
    is_unknown = vocabulary.unk_id is not None and vocabulary.unk_id in tokens
    lacking = set()
    if is_unknown:
      lacking |= {
        x for x in set(text) if vocabulary.unk_id in vocabulary.encode(x)
      }
    if white_space := _WHITE_SPACE.intersection(text):
      lacking |= white_space.difference(vocabulary.decode(tokens))
    total = total.plus(
      Losses(
        1,
        cut["inputs"],
        cut["targets"],
        is_unknown or bool(lacking),
        frozenset(lacking),
      )
    )
  return total


def of_tasks(
  name: str,
  split: str,
  lengths: Mapping[str, int],
  *,
  seconds: float = _SECONDS,
  features: Sequence[str] = _FEATURES,
) -> dict[str, Losses]:
  """Looks at the first examples of a task, or of each task of a mixture.

  They are read apart from those that a run trains on, whose order stays as it
  is. Tasks that are not reached in time are left out.

  Args:
    name: known to seqio.
    split: of it.
    lengths: {"inputs": n, "targets": m}, in tokens.
    seconds: after which no further example is read; a task of a mixture has its
      share of what is left.
    features: see `losses`.

  Raises:
    OSError, ValueError: the examples can't be read, or not without being cut.
  """
  import seqio

  tasks = seqio.get_subtasks(seqio.get_mixture_or_task(name))
  tasks = sorted(tasks, key=lambda task: task.name)
  losses_of = {}
  end = time.monotonic() + seconds
  for i, task in enumerate(tasks):
    left = end - time.monotonic()
    if split not in task.splits or (losses_of and left <= 0):
      continue
    counted = losses(
      _first(
        inputs.uncut_examples(task.name, split, lengths),
        seconds=max(left, 0) / (len(tasks) - i),
      ),
      lengths,
      task.output_features[features[-1]].vocabulary,
      features,
    )
    if counted.examples:
      losses_of[task.name] = counted
  return losses_of


def _first(examples: Iterable[Any], *, seconds: float) -> Iterator[Any]:
  """The first examples; one at least, however long it takes to come."""
  until = time.monotonic() + seconds
  for example in itertools.islice(examples, _EXAMPLES):
    yield example
    if time.monotonic() >= until:
      return


def report(
  name: str,
  split: str,
  lengths: Mapping[str, int],
  features: Sequence[str] = _FEATURES,
) -> list[str]:
  """The result of `of_tasks` as lines to print, warnings last."""
  try:
    found = of_tasks(name, split, lengths, features=features)
  except (OSError, ValueError) as error:
    # Training says so itself, if it can't read them either.
    return [f"no look at the examples of {name!r}: {error}"]
  return list(describe(found, split, lengths, features)) if found else []


def describe(
  found: Mapping[str, Losses],
  split: str,
  lengths: Mapping[str, int],
  features: Sequence[str] = _FEATURES,
) -> Iterator[str]:
  """The lines of `report`, for the result of `of_tasks` and its arguments."""
  everything = Losses()
  for counted in found.values():
    everything = everything.plus(counted)
  count = everything.examples
  yield f"of the first {count:,} examples of split {split!r}"
  yield (
    f"  inputs cut to {lengths['inputs']} tokens: "
    f"{everything.cut_inputs / count:.1%}"
  )
  if "targets" in features:
    yield (
      f"  targets cut to {lengths['targets']} tokens: "
      f"{everything.cut_targets / count:.1%}"
    )
    yield (
      "  targets that the vocabulary can't write: "
      f"{everything.unwritable / count:.1%}"
    )
  for task, counted in found.items():
    for feature, number in (
      ("inputs", counted.cut_inputs),
      ("targets", counted.cut_targets),
    ):
      if (share := number / counted.examples) > _HARMLESS:
        yield (
          f"warning: {share:.1%} of the {feature} of {task!r} are longer than "
          f"TASK_FEATURE_LENGTHS allows ({lengths[feature]}) and lose their "
          "end; see docs/tasks.md, What a run loses"
        )
    if (share := counted.unwritable / counted.examples) > _HARMLESS:
      lacking = ", ".join(map(repr, sorted(counted.characters)))
      yield (
        f"warning: {share:.1%} of the targets of {task!r} can't be written: "
        f"the vocabulary lacks {lacking or 'tokens that they need'}; see "
        "docs/tasks.md, What a run loses"
      )
