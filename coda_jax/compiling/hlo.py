"""Reads the cost of a compiled TPU program from its text.

The compiler writes its estimate of cycles next to most instructions, but not
next to collectives and kernels (Mosaic's calls); those are listed apart, with
their bytes.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "ragged-all-to-all",
  "reduce-scatter",
)

# Bits of each dtype; the names of other dtypes end in their number of bits.
_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
# A type holds no lower-case word before a parenthesis that follows a space.
_INSTRUCTION = re.compile(
  r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s([a-z][\w\-]*)\((.*)$"
)
_CALLED = re.compile(
  r"(?:calls|to_apply|body|condition|branch_computations|called_computations)="
  r"(?:\{([^}]*)\}|(%?[\w.\-]+))"
)


class Instruction(NamedTuple):
  """A line of a computation; `rest` is all that follows the opcode."""

  name: str
  type: str
  opcode: str
  rest: str


@dataclasses.dataclass(frozen=True)
class Collective:
  """Data that devices exchange.

  Attributes:
    kind: one of `COLLECTIVES`.
    bytes: size of the whole array, on one device.
    group: how many devices take part together.
    times: how often it runs in a call of the program.
  """

  kind: str
  bytes: int
  group: int
  times: int


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A Mosaic kernel, with its author's estimate or the bytes of its arrays.

  Attributes:
    flops: operations, None where the author gave no estimate.
    bytes: bytes that it moves.
    times: how often it runs in a call of the program.
  """

  flops: float | None
  bytes: float
  times: int


@dataclasses.dataclass(frozen=True)
class Costs:
  """The cost of a program on one device.

  Attributes:
    cycles: the compiler's estimate, without `collectives` and `kernels`.
    by_name: {jax's name of the place in the model: cycles}.
    collectives: in the order of the text.
    kernels: in the order of the text.
    unknown_loops: loops whose number of trips is unknown; their bodies count
      once.
  """

  cycles: int
  by_name: Mapping[str, int]
  collectives: Sequence[Collective]
  kernels: Sequence[Kernel]
  unknown_loops: int


def costs(text: str) -> Costs:
  """Adds up the instructions of a compiled program.

  A loop's body counts as often as its condition allows at most: jax counts its
  loops from 0 up to a constant. A conditional counts all of its branches.

  Args:
    text: `compiled.as_text()`.
  """
  computations, entry = parse(text)
  by_name: dict[str, int] = {}
  collectives: list[Collective] = []
  kernels: list[Kernel] = []
  seen: set[str] = set()
  unknown_loops = 0

  def visit(computation: str, times: int, is_fused: bool) -> None:
    nonlocal unknown_loops
    instructions = computations[computation]
    for one in instructions:
      cycles = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
      # The instructions of a fusion run as one; the fusion has the estimate.
      if cycles and not is_fused:
        place = re.search(r'op_name="([^"]*)"', one.rest)
        name = place[1] if place else one.opcode
        by_name[name] = by_name.get(name, 0) + times * int(cycles[1])
      kind = one.opcode.removesuffix("-start")
      if kind in COLLECTIVES:
        # An overlapped collective is in several fusions, with one channel.
        channel = re.search(r"channel_id=(\d+)", one.rest)
        key = channel[1] if channel else one.name
        if key not in seen:
          seen.add(key)
          collectives.append(_collective(kind, one, times))
      elif 'custom_call_target="tpu_custom_call"' in one.rest:
        kernels.append(_kernel(one, instructions, times))
      trips = 1
      if one.opcode == "while":
        known = _trips(one, computations)
        unknown_loops += known is None
        trips = known or 1
      for called in _called(one):
        if called in computations:
          fused = is_fused or one.opcode == "fusion"
          visit(called, times * trips, fused)

  visit(entry, 1, False)
  return Costs(
    sum(by_name.values()), by_name, collectives, kernels, unknown_loops
  )


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
  """The instructions of each computation, and the name of the first to run.

  Raises:
    ValueError: not the text of a compiled program.
  """
  computations: dict[str, list[Instruction]] = {}
  entry, current = None, None
  for line in text.splitlines():
    if header := _HEADER.match(line):
      current = computations.setdefault(header[2], [])
      if header[1]:
        entry = header[2]
    elif current is not None and (match := _INSTRUCTION.match(line)):
      current.append(Instruction(*match.groups()))
  if entry is None:
    raise ValueError(
      f"no ENTRY in a program that begins with {text[:40]!r}; expected the "
      "text of compiled.as_text()"
    )
  return computations, entry


def type_bytes(text: str) -> list[int]:
  """Bytes of each array in a type, such as "(f32[2,3]{1,0}, bf16[4])"."""
  return [
    math.prod(int(n) for n in dims.split(",") if n) * _bits(dtype) // 8
    for dtype, dims in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", text)
  ]


def _bits(dtype: str) -> int:
  if dtype in _BITS:
    return _BITS[dtype]
  return int(re.match(r"[a-z]+(\d+)", dtype)[1])


def _called(one: Instruction) -> Iterator[str]:
  for several, single in _CALLED.findall(one.rest):
    for name in (several or single).split(","):
      yield name.strip().removeprefix("%")


def _trips(
  loop: Instruction, computations: Mapping[str, Sequence[Instruction]]
) -> int | None:
  """How often a loop runs at most, None if the text does not say."""
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest):
    return int(known[1])
  condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)[1]
  constants = {
    one.name: int(match[1])
    for one in computations[condition]
    if one.opcode == "constant" and (match := re.match(r"(\d+)\)", one.rest))
  }
  for one in computations[condition]:
    if one.opcode == "compare" and "direction=LT" in one.rest:
      for operand in re.findall(r"%([\w.\-]+)", one.rest.partition(")")[0]):
        if operand in constants:
          return constants[operand]
  return None


def _collective(kind: str, one: Instruction, times: int) -> Collective:
  sizes = type_bytes(one.type)
  # A start returns its input too; the larger of the two is the whole.
  size = max(sizes) if one.opcode.endswith("-start") else sum(sizes)
  group = _group(one.rest)
  if kind == "reduce-scatter":
    size *= group
  return Collective(kind, size, group, times)


def _group(rest: str) -> int:
  """Devices in each of a collective's groups."""
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    # A part of an axis is written 'axis':(before)size.
    axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
    return int(iota[1])
  if first := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
    return len(first[1].split(","))
  return 2  # A permutation's pairs.


def _kernel(
  one: Instruction, instructions: Sequence[Instruction], times: int
) -> Kernel:
  estimate = re.search(r'"cost_estimate":\{([^}]*)\}', one.rest)
  if estimate:
    said = {
      name: float(value)
      for name, value in re.findall(r'"(\w+)":"([\d.]+)"', estimate[1])
    }
    if "bytes_accessed" in said:
      return Kernel(said.get("flops"), said["bytes_accessed"], times)
  types = {other.name: other.type for other in instructions}
  operands = re.findall(r"%([\w.\-]+)", one.rest.partition(")")[0])
  moved = [one.type, *(types.get(operand, "") for operand in operands)]
  return Kernel(None, sum(sum(type_bytes(text)) for text in moved), times)
