"""Parameter trees by path: trained and frozen leaves, and their number.

A parameter's path is its keys joined by "/", as in
`encoder/layers_0/attention/query/kernel`. Whether a leaf is trained is decided
by its path alone, here and nowhere else; the optimizer, adapter files, tables
and tests all ask `matches`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flax import traverse_util

Params = Mapping[str, Any]

# Every leaf: pretraining, and finetuning of the whole model.
ALL_PATTERNS: tuple[str, ...] = (r".*",)

# What is added to a pretrained backbone.
ADDED_PATTERNS: tuple[str, ...] = (r".*/(adapter|router|lora|head)/.*",)

# What a task owns: adapters, routers, LoRA factors, a head, and the norms
# (CoDA, section 3: "only adapters, routers and layer norms").
TASK_PATTERNS: tuple[str, ...] = (*ADDED_PATTERNS, r".*_norm/(scale|bias)")


def flatten(params: Params) -> dict[str, Any]:
  """Returns `{path: leaf}` in the order of the tree."""
  return traverse_util.flatten_dict(dict(params), sep="/")


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The inverse of `flatten`."""
  return traverse_util.unflatten_dict(dict(leaves), sep="/")


def matches(path: str, patterns: Sequence[str]) -> bool:
  """Whether some pattern matches all of a leaf's path."""
  return any(re.fullmatch(pattern, path) for pattern in patterns)


def is_added(path: str) -> bool:
  """Whether a leaf is one that CoDA adds to a pretrained backbone."""
  return matches(path, ADDED_PATTERNS)


def split(
  params: Params, patterns: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Splits a tree into its trained and its frozen leaves.

  Args:
    params: nested mapping of leaves.
    patterns: regular expressions over whole paths; a leaf that one of them
      matches is trained.

  Returns:
    (trained, frozen), two nested dicts; `merge` puts them together again.

  Raises:
    ValueError: a pattern matches no leaf at all.
  """
  leaves = flatten(params)
  if not any(matches(path, patterns) for path in leaves):
    raise ValueError(
      f"trained patterns {tuple(patterns)} match none of the {len(leaves)} "
      f"parameters (the first is {next(iter(leaves), None)!r}); use "
      "params.TASK_PATTERNS with a model that has adapters, or "
      "params.ALL_PATTERNS"
    )
  trained = {p: x for p, x in leaves.items() if matches(p, patterns)}
  frozen = {p: x for p, x in leaves.items() if p not in trained}
  return unflatten(trained), unflatten(frozen)


def merge(trained: Params, frozen: Params) -> dict[str, Any]:
  """Puts the two trees of `split` back into one."""
  return unflatten({**flatten(frozen), **flatten(trained)})


def count(params: Params) -> int:
  """The number of parameters, arrays and `jax.ShapeDtypeStruct`s alike."""
  return sum(int(leaf.size) for leaf in flatten(params).values())
