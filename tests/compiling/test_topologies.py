"""Names of slices; the real compiler knows each one where it is installed."""

import importlib.util
import math

import pytest

from coda_jax.compiling import topologies

needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="the TPU's compiler is not here: pip install 'coda_jax[tpu]'",
)
NAMES = [f"{g}:{s}" for g, c in topologies.CHIPS.items() for s in c.slices]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_read(name):
  generation, shape = topologies.parse(name)
  assert f"{generation}:{'x'.join(map(str, shape))}" == name
  assert len(shape) == (2 if generation in ("v5e", "v6e") else 3)


@pytest.mark.parametrize(
  ("name", "known"),
  [
    ("v9:2x2", "v4:2x2x1.*v5e:1x1.*v5p:.*v6e:.*16x16"),
    ("v5e", "one such as v5e:1x1, 2x2"),
    ("v5e:2x2x1", "one such as v5e:1x1, 2x2"),
    ("v5p:4x4", "one such as v5p:2x2x1"),
    ("v5e:axb", "one such as v5e:1x1"),
    ("v5e:3x5", "one such as v5e:1x1"),
    ("v5e:64x64", "one such as v5e:1x1.*8x16, 16x16"),
    ("cpu", "expected GENERATION:SHAPE, such as v4"),
  ],
)
def test_other_names_are_refused_with_those_that_are_known(name, known):
  with pytest.raises(ValueError, match=f"no TPU slice '{name}'.*{known}"):
    topologies.get(name)


def test_without_the_compiler_it_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ModuleNotFoundError, match=r"pip install 'coda_jax\[tpu"):
    topologies.get("v5e:2x2")


def test_peaks_are_the_published_ones():
  # The matrix units do 128 x 128 (v6e: 256 x 256) multiply-adds a cycle each.
  for name, units, side in (
    ("v4", 4, 128),
    ("v5e", 4, 128),
    ("v5p", 8, 128),
    ("v6e", 4, 256),  # As many as the peak and the clock give.
  ):
    chip = topologies.CHIPS[name]
    peak = chip.clock_hz * units * side**2 * 2
    assert peak == pytest.approx(chip.flops, rel=0.01)


@needs_libtpu
@pytest.mark.parametrize("name", NAMES)
def test_the_compiler_knows_them(name):
  found = topologies.get(name)
  cores = 2 if name.startswith("v4") else 1
  _, shape = topologies.parse(name)
  assert len(found.devices) == cores * math.prod(shape)
  assert found.chip is topologies.CHIPS[name.partition(":")[0]]


@needs_libtpu
def test_shapes_that_no_slice_has_are_refused():
  with pytest.raises(ValueError, match="'v5p:3x3x3'.*v5p:2x2x1.*compiler says"):
    topologies.get("v5p:3x3x3")
