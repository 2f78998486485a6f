import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax import analysis, benchmark, testing
from coda_jax import params as params_lib
from coda_jax.t5.config import CodaConfig

FIELDS = {
  "part",
  "size",
  "method",
  "reduction",
  "attention",
  "length",
  "batch",
  "decode_length",
  "dtype",
  "platform",
  "median_ms",
  "speedup",
  "flop_ratio",
}


@pytest.fixture
def clock(monkeypatch):
  """Calls each function once, and says how long it took: 12 / r ms."""

  def times(calls, repeats):
    for call in calls.values():
      call()
    return {r: [12 / r] * repeats for r in calls}

  monkeypatch.setattr(analysis, "paired_times", times)


@pytest.mark.parametrize("part", benchmark.PARTS)
def test_rows(clock, part):
  config = testing.tiny_config(num_encoder_layers=1, num_decoder_layers=1)
  rows = benchmark.measure(
    config,
    size="some",
    part=part,
    reductions=(2.0, 4.0),
    attention="k_to_all",
    length=8,
    batch=2,
    decode_length=3,
    repeats=2,
  )
  assert [(row["method"], row["reduction"]) for row in rows] == [
    ("adapter", 1),
    ("coda", 2),
    ("coda", 4),
  ]
  for row in rows:
    assert row.keys() > FIELDS
    assert row["speedup"] == pytest.approx(row["reduction"])
    assert row["share"] == pytest.approx(row["speedup"] / row["flop_ratio"])
  assert rows[0]["flop_ratio"] == 1 < rows[1]["flop_ratio"]
  assert rows[1]["flop_ratio"] < rows[2]["flop_ratio"] < 4
  assert rows[2]["median_ms"] == 3
  json.dumps(rows)
  table = benchmark.table(rows)
  assert "CoDA r=4 k_to_all" in table
  assert ("memory ratio" in table) == (part == "train")


def test_the_memory_of_a_step(clock):
  config = testing.tiny_config(num_encoder_layers=2, num_decoder_layers=1)
  dense, coda = benchmark.measure(
    config,
    size="some",
    part="train",
    reductions=(5.0,),
    length=100,
    batch=2,
    decode_length=4,
    repeats=1,
  )
  # A layer keeps the attention of all pairs for its gradient, in float32.
  kept = 2 * 2 * config.num_heads * 100**2 * 4
  assert coda["peak_bytes"] < dense["peak_bytes"] - kept / 2
  assert dense["memory_ratio"] == 1
  assert coda["memory_ratio"] == pytest.approx(
    dense["peak_bytes"] / coda["peak_bytes"]
  )


@pytest.mark.parametrize("reduction", [1, 2])
def test_a_step_trains_what_a_task_owns(reduction, monkeypatch):
  config = testing.tiny_config(
    num_encoder_layers=1,
    num_decoder_layers=1,
    coda=CodaConfig(reduction=reduction, bottleneck_dim=4),
  )
  routed = dataclasses.replace(config, coda=CodaConfig(bottleneck_dim=4))
  params = testing.random_params(benchmark.Transformer(routed))
  model = benchmark.Transformer(config)
  tokens, targets = (
    testing.random_tokens([n] * 2, n, config.vocab_size) for n in (64, 8)
  )
  batch = benchmark.train_batch(jnp.asarray(tokens), jnp.asarray(targets))
  step = benchmark.TrainStep(model, params, batch)
  before = jax.tree.map(np.array, params)
  losses = [float(step()["loss"]) for _ in range(9)]
  assert losses[-1] < losses[0]
  # The parameters given are still there, for the next model.
  jax.tree.map(np.testing.assert_array_equal, params, before)
  # Nothing is computed for frozen leaves.
  monkeypatch.setattr(params_lib, "TASK_PATTERNS", params_lib.ALL_PATTERNS)
  assert benchmark.TrainStep(model, params, batch).flops > 1.2 * step.flops


def test_generate_decodes_to_the_end():
  config = testing.tiny_config(coda=CodaConfig(reduction=2, bottleneck_dim=4))
  model = benchmark.Transformer(config)
  tokens = testing.random_tokens([8, 8], 8, config.vocab_size)
  call = benchmark.generate_call(
    model, testing.random_params(model), tokens, max_length=5
  )
  assert call().shape == (2, 5)


def test_sizes_are_those_of_the_gin_files():
  base = benchmark.size_config("base", "bfloat16")
  assert (base.emb_dim, base.num_heads, base.mlp_dim) == (768, 12, 2048)
  assert base.dtype == "bfloat16" and base.coda is None
  byt5 = benchmark.size_config("byt5_small")
  assert (byt5.emb_dim, byt5.vocab_size) == (1472, 384)
  assert benchmark.size_config("t5_1_0_small").mlp_activations == ("relu",)
  with pytest.raises(ValueError, match="size 'huge'; expected one of base"):
    benchmark.size_config("huge")


def test_the_command_writes_a_table_and_json(
  clock, monkeypatch, tmp_path, capsys
):
  monkeypatch.setattr(
    benchmark, "size_config", lambda size, dtype: testing.tiny_config()
  )
  file = tmp_path / "rows.json"
  code = benchmark.main(
    f"--size tiny --length 6 --batch 1 --reductions 2 --json {file}".split()
  )
  assert code == 0
  rows = json.loads(file.read_text())["rows"]
  assert [row["size"] for row in rows] == ["tiny", "tiny"]
  assert "parallel adapter" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--dtype=float16", "--reductions=0.5"])
def test_bad_input_is_one_message(option, capsys):
  with pytest.raises(SystemExit) as stopped:
    benchmark.main(["--size=tiny", option])
  assert stopped.value.code == 2
  err = capsys.readouterr().err
  assert "float16 is refused" in err or "reduction is 0.5" in err
