"""The benchmark's rows from a compiler, with a stand-in for what it says."""

import jax
import pytest

from coda_jax import analysis, benchmark, testing
from coda_jax.benchmarking import estimates, shapes
from coda_jax.compiling import estimate, topologies
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.config import T5Config


@pytest.fixture
def compiler(monkeypatch):
  """Says 12 ms of the first program, 6 of the second, and so on."""
  said = []

  def measure(traced, chip, devices):
    said.append((chip, devices))
    traced.lower()
    return {
      "fits": True,
      "compile_seconds": 2.0,
      "compute_ms": 12 / len(said) - 1,
      "kernels_ms": 1.0,
    }

  monkeypatch.setattr(estimate, "measure", measure)
  monkeypatch.setattr(
    topologies,
    "get",
    lambda name: topologies.Slice(name, topologies.CHIPS["v5e"], jax.devices()),
  )
  return said


def rows(config: T5Config):
  return estimates.measure(
    config,
    size="tiny",
    slice_name="v5e:1x1",
    coda=CodaConfig(bottleneck_dim=4),
    reductions=(2, 4),
    length=16,
    batch=3,
  )


def test_rows(compiler):
  found = rows(testing.tiny_config())
  assert [(row["method"], row["reduction"]) for row in found] == [
    ("adapter", 1),
    ("coda", 2),
    ("coda", 4),
  ]
  assert [row["median_ms"] for row in found] == [12, 6, 4]
  assert [row["speedup"] for row in found] == [1, 2, 3]
  assert {devices for _, devices in compiler} == {1}
  flops = [
    analysis.encoder_flops(
      testing.tiny_config(coda=CodaConfig(reduction=r, bottleneck_dim=4)), 16
    )
    for r in (1, 2, 4)
  ]
  for row, own in zip(found, flops, strict=True):
    assert row["flop_ratio"] == pytest.approx(flops[0] / own)
    assert row["share"] == pytest.approx(row["speedup"] / row["flop_ratio"])
    assert row["first_ms"] == 2000 and "compiler" in row["platform"]


def test_a_model_that_does_not_fit(compiler, monkeypatch):
  monkeypatch.setattr(
    estimate,
    "measure",
    lambda *_: {"fits": False, "peak_bytes": 2**35, "hbm_bytes": 2**34},
  )
  with pytest.raises(ValueError, match=r"r = 1 needs 32.0 GiB, .* 16.00; ta"):
    rows(testing.tiny_config())


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (("--part=generate",), "--compile_for compares encoders"),
    (("--methods=coda",), "leave --part and --methods out"),
    (("--compile_for=v5e:3x5",), "v5e:3x5"),
  ],
)
def test_bad_arguments(options, message, capsys, monkeypatch):
  monkeypatch.setattr(
    shapes, "size_config", lambda size, dtype: testing.tiny_config()
  )
  with pytest.raises(SystemExit) as end:
    benchmark.main(["--compile_for=v5e:1x1", *options])
  assert end.value.code == 2
  assert message in capsys.readouterr().err
