"""The parser of compiled programs against texts with numbers worked by hand."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from coda_jax.compiling import hlo
from coda_jax.compiling.hlo import Collective, Kernel

PROGRAMS = pathlib.Path(__file__).parent / "programs"
LOOPS, COLLECTIVES, KERNELS = (
  (PROGRAMS / f"{name}.hlo").read_text()
  for name in ("loops", "collectives", "kernels")
)


def test_loops_count_as_often_as_they_run():
  found = hlo.costs(LOOPS)
  assert found.cycles == 1000 + 12 * (50 + 7) + 5 * 30
  assert found.by_name["jit(f)/dot"] == 1000
  assert found.by_name["jit(f)/while/body/add"] == 12 * 50
  assert found.unknown_loops == 0 and found.collectives == []


def test_loop_of_unknown_length_counts_once_and_is_told():
  text = LOOPS.replace('"known_trip_count":{"n":"5"}', "")
  found = hlo.costs(text)
  assert found.cycles == 1000 + 12 * (50 + 7) + 30
  assert found.unknown_loops == 1


def test_collectives_are_counted_by_channel_in_bytes_of_the_whole():
  found = hlo.costs(COLLECTIVES).collectives
  assert found == [
    Collective("all-gather", 16 * 8 * 2, 4, 1),
    Collective("all-reduce", 32 * 4 + 6 * 2, 4, 1),
    Collective("collective-permute", 16 * 8 * 2, 2, 1),
    Collective("reduce-scatter", 4 * 4 * 8, 8, 1),
  ]


@pytest.mark.parametrize(
  ("groups", "size"),
  [
    ("mesh['data'=4,'fsdp'=8] {'data','fsdp'}", 32),
    ("mesh['axis_0'=16,'axis_1'=1] {'axis_0':(1)4}", 4),
    ("[8,2]<=[4,4]T(1,0)", 2),
    ("{{0,2,4},{1,3,5}}", 3),
  ],
)
def test_groups(groups, size):
  text = COLLECTIVES.replace("[2,4]<=[8]", groups)
  assert hlo.costs(text).collectives[1].group == size


def test_kernels_cost_what_their_author_says_or_their_arrays():
  assert hlo.costs(KERNELS).kernels == [
    Kernel(120.0, 640.0, 1),
    Kernel(None, 2 * 16 * 4 * 4 + 8 * 2, 1),
  ]


def test_bytes_of_types():
  assert hlo.type_bytes("f32[2,3]{1,0:T(8,128)}") == [24]
  assert hlo.type_bytes("(pred[5]{0}, /*index=1*/s4[6]{0}, u32[])") == [5, 3, 4]
  assert hlo.type_bytes("f8e4m3fn[7]{0}") == [7]


def test_text_of_this_jax_is_read():
  def f(x):
    return jax.lax.scan(lambda x, _: (jnp.tanh(x @ x), None), x, length=9)[0]

  text = jax.jit(f).lower(jnp.ones((4, 4))).compile().as_text()
  computations, entry = hlo.parse(text)
  opcodes = {one.opcode for some in computations.values() for one in some}
  assert "while" in opcodes and computations[entry]
  assert hlo.costs(text).unknown_loops == 0


def test_other_text_is_refused():
  with pytest.raises(ValueError, match="no ENTRY .* begins with 'hello"):
    hlo.costs("hello")
