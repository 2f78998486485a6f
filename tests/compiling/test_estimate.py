"""Times and verdicts from numbers worked by hand."""

import pytest

from coda_jax.compiling import estimate, plan
from coda_jax.compiling.hlo import Collective, Kernel
from coda_jax.compiling.topologies import Chip

# 10 bytes a second both ways over a link, 100 from memory, 1000 FLOPs.
CHIP = Chip(1000, 1000.0, 100.0, 1e3, 5.0, ())


@pytest.mark.parametrize(
  ("kind", "group", "seconds"),
  [
    # Each device gets the other three quarters of 400 bytes.
    ("all-gather", 4, 30.0),
    ("reduce-scatter", 4, 30.0),
    ("all-reduce", 4, 60.0),
    ("all-to-all", 2, 20.0),
    ("collective-permute", 2, 40.0),
    ("all-reduce", 1, 0.0),
  ],
)
def test_exchange(kind, group, seconds):
  once = estimate.exchange_seconds(Collective(kind, 400, group, 1), CHIP)
  assert once == pytest.approx(seconds)
  assert estimate.exchange_seconds(
    Collective(kind, 400, group, 3), CHIP
  ) == pytest.approx(3 * seconds)


def test_kernels_take_their_roofline_time():
  seconds = lambda flops, size: estimate.kernel_seconds(
    Kernel(flops, size, 2), CHIP
  )
  assert seconds(5000.0, 100.0) == pytest.approx(2 * 5)
  assert seconds(5000.0, 900.0) == pytest.approx(2 * 9)
  assert seconds(None, 300.0) == pytest.approx(2 * 3)


@pytest.mark.parametrize(
  ("message", "gib"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
      "for HLO temporaries (65.25G) exceeds available HBM (15.75G).",
      65.25,
    ),
    (
      "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory "
      "in memory space hbm. Used 17.50G of 15.75G hbm. Exceeded hbm capacity "
      "by 1.75G.",
      17.5,
    ),
    ("RESOURCE_EXHAUSTED: out of something else", None),
    ("INVALID_ARGUMENT: Used 17.50G of 15.75G hbm", None),
  ],
)
def test_memory_that_the_compiler_asks_for(message, gib):
  found = estimate.needed_bytes(message)
  assert found == (None if gib is None else int(gib * 2**30))


def row(method, reduction, where, fits, **others):
  return {
    "program": "train",
    "method": method,
    "reductions": f"{reduction:g}",
    "slice": where,
    "mesh": "data 4",
    "fits": fits,
    "peak_bytes": 3 * 2**30,
    "hbm_bytes": 2 * 2**30 if not fits else 4 * 2**30,
    "compile_seconds": 1.0,
    **others,
  }


MEASURED = {
  "arguments_bytes": 2**30,
  "temporaries_bytes": 2**30,
  "flops": 2e12,
  "bytes_accessed": 5e9,
  "compute_ms": 7.0,
  "kernels_ms": 0.0,
  "collectives_ms": 3.0,
  "collectives": {"all-reduce": {"count": 2, "bytes": 4_000_000_000}},
  "step_ms": [7.0, 10.0],
}
ROWS = [
  row("full", 1.0, "v5e:2x2", False),
  row("coda", 3.0, "v5e:2x2", True, **MEASURED),
  row("full", 1.0, "v5e:2x4", False),
]


def test_table_says_what_fits():
  lines = estimate.table(ROWS).splitlines()
  assert "does not fit" in lines[2] and "3.00" in lines[2]
  assert " fits " in lines[3] and "7.0 to 10.0" in lines[3]
  assert "4.00" in lines[3]
  assert "kernels" not in lines[0], "there is none"


def test_collectives_are_listed_by_kind():
  heading, _, *rows = estimate.collectives(ROWS).splitlines()
  assert heading.split()[-3:] == ["collective", "count", "GB"]
  assert [r.split() for r in rows] == [
    ["train", "coda", "3", "v5e:2x2", "all-reduce", "2", "4"]
  ]
  assert estimate.collectives(ROWS[:1]) == ""


def test_plan_names_the_smallest_slice_that_fits():
  full, coda = plan.summary(ROWS, ("v5e:2x2", "v5e:2x4"))
  assert full == (
    "full: does not fit v5e:2x2 or v5e:2x4; on v5e:2x4 it needs 3.0 GiB a chip "
    "of 2.00"
  )
  assert coda == "coda, r = 3: fits v5e:2x2; train 7.0 to 10.0 ms"
  assert not plan.all_fit(ROWS) and plan.all_fit(ROWS[1:2])
  # It did not fit the first, and fits the second.
  assert plan.all_fit([ROWS[0], row("full", 1.0, "v5e:2x4", True, **MEASURED)])
