import json

import jax
import numpy as np
import pytest

import coda_jax
from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.checkpoints import state as model_files
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer
from coda_jax.training import loop, optimizers


def train(task, model_dir, *, coda=None, **overrides):
  config = testing.tiny_config(dropout_rate=0.1, coda=coda)
  arguments = {
    "model": Transformer(config),
    "model_dir": str(model_dir),
    "mixture_or_task_name": task,
    "task_feature_lengths": {"inputs": 8, "targets": 3},
    "batch_size": 4,
    "train_steps": 4,
    "learning_rate": optimizers.constant(0.01),
    "optimizer": optimizers.adamw,
    "eval_period": 0,
    "log_period": 1,
    "predict": False,
  }
  return loop.train(**{**arguments, **overrides})


def losses(model_dir):
  lines = (model_dir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return {r["step"]: r["train/loss"] for r in rows if "train/loss" in r}


def final(model_dir):
  return {
    p: x.read() for p, x in model_files.read(model_dir / "model")[1].items()
  }


def test_learns_and_a_resumed_run_is_the_uninterrupted_one(task, tmp_path):
  results = train(task, tmp_path / "whole", train_steps=30, predict=True)
  whole = losses(tmp_path / "whole")
  assert list(whole) == list(range(1, 31))
  assert whole[30] < 0.6 * whole[1]
  assert results.keys() == {"loss", "token_accuracy", "exact"}
  assert results["loss"] < 0.6 * whole[1]

  train(task, tmp_path / "parts", train_steps=13)
  train(task, tmp_path / "parts", train_steps=30)
  np.testing.assert_allclose(
    list(losses(tmp_path / "parts").values()), list(whole.values()), rtol=1e-6
  )
  for path, leaf in final(tmp_path / "parts").items():
    np.testing.assert_array_equal(leaf, final(tmp_path / "whole")[path])


def test_only_trained_leaves_move_and_only_they_are_saved(
  task, tmp_path, capsys
):
  train(task, tmp_path / "dense")
  pretrained = tmp_path / "dense" / "model"
  train(
    task,
    tmp_path / "coda",
    coda=CodaConfig(reduction=2, bottleneck_dim=4),
    trained_patterns=params_lib.TASK_PATTERNS,
    initial_checkpoint_path=pretrained,
  )
  out = capsys.readouterr().out
  assert "routers" in out and "routing/selected_share" in out

  model, before = coda_jax.load_pretrained(pretrained)
  # Checks the fingerprint of the backbone, too.
  _, after = coda_jax.load_adapter(tmp_path / "coda" / "adapter", model, before)
  before, after = params_lib.flatten(before), params_lib.flatten(after)
  assert before.keys() < after.keys()
  moved = {
    p
    for p, x in before.items()
    if (np.asarray(x) != np.asarray(after[p])).any()
  }
  assert moved == {p for p in before if p.endswith("_norm/scale")}
  names = (
    tmp_path / "coda" / "checkpoints" / "4" / "default" / "_METADATA"
  ).read_text()
  assert "router" in names and "token_embedder" not in names


def test_nan_stops_and_keeps_what_was_saved(task, tmp_path):
  def explode(step):
    return jax.numpy.where(step < 6, 0.01, np.nan)

  with pytest.raises(FloatingPointError, match="step 7: .*update_norm nan"):
    train(
      task,
      tmp_path,
      train_steps=20,
      learning_rate=explode,
      log_period=5,
      checkpoint_period=5,
    )
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["5"]
  assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"batch_size": 0}, "batch_size=0; expected 1 or more"),
    ({"train_steps": -1}, "train_steps=-1; expected 1 or more"),
    ({"trained_patterns": ("x",)}, "match none of the"),
    ({"mixture_or_task_name": "none"}, "no seqio task or mixture 'none'"),
    (
      {"pack": True, "coda": CodaConfig(reduction=2)},
      "packing.*pack=False",
    ),
  ],
)
def test_bad_arguments(task, tmp_path, overrides, message):
  with pytest.raises(ValueError, match=message):
    train(task, tmp_path, **overrides)


def test_a_checkpoint_of_another_size(task, tmp_path):
  other = Transformer(testing.tiny_config(mlp_dim=20))
  model_files.save_model(
    tmp_path / "m", other.config, testing.random_params(other)
  )
  with pytest.raises(
    ValueError, match=r"mlp/wi_0/kernel: \(16, 20\) in the file"
  ):
    train(task, tmp_path / "run", initial_checkpoint_path=tmp_path / "m")
