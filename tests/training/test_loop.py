import json
import signal

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf
from tensorflow.core.util import event_pb2

import coda_jax
from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.checkpoints import model_folder
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer
from coda_jax.training import inputs, loop, optimizers, router_start


def train(task, model_dir, *, coda=None, **overrides):
  config = testing.tiny_config(
    num_encoder_layers=1, dropout_rate=0.1, coda=coda
  )
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
    p: x.read() for p, x in model_folder.read(model_dir / "model")[1].items()
  }


def test_learns_and_a_resumed_run_is_the_uninterrupted_one(
  task, tmp_path, capsys
):
  results = train(task, tmp_path / "whole", train_steps=30, predict=True)
  whole = losses(tmp_path / "whole")
  assert list(whole) == list(range(1, 31))
  assert whole[30] < 0.6 * whole[1]
  assert results.keys() == {"loss", "token_accuracy", "exact"}
  assert results["loss"] < 0.6 * whole[1]

  train(task, tmp_path / "parts", train_steps=13)
  train(task, tmp_path / "parts", train_steps=30)
  # Once a run, not where it is resumed. Of 3 to 7 tokens and the end, none of
  # the inputs is cut.
  out = capsys.readouterr().out
  assert out.count("  inputs cut to 8 tokens: 0.0%") == 2
  assert "warning" not in out
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


def test_new_routers_start_from_the_dense_layers(
  task, tmp_path, monkeypatch, capsys
):
  train(task, tmp_path / "dense")
  fit, fitted = router_start.kernels, []

  def kernels(model, params, batches):
    assert len(batches) == 2
    found = fit(model, params, batches)
    fitted.append({path: np.array(kernel) for path, kernel in found.items()})
    return found

  monkeypatch.setattr(router_start, "kernels", kernels)

  def route(name, start, steps):
    train(
      task,
      tmp_path / name,
      coda=CodaConfig(reduction=2, bottleneck_dim=4),
      trained_patterns=params_lib.TASK_PATTERNS,
      initial_checkpoint_path=start,
      learning_rate=optimizers.constant(1e-9),
      router_start_batches=2,
      train_steps=steps,
    )
    _, params = coda_jax.load_pretrained(tmp_path / name / "adapter")
    return params_lib.flatten(params)["encoder/layers_0/router/kernel"]

  kernel = route("one", tmp_path / "dense/model", 1)
  assert "router start: 1 fitted to 2 batches" in capsys.readouterr().out
  (expected,) = fitted[0].values()
  np.testing.assert_allclose(kernel, expected, atol=1e-6)
  # A run that goes on, and one that starts from its adapter, keep the router.
  route("one", tmp_path / "dense/model", 2)
  route("next", tmp_path / "one/adapter", 1)
  out = capsys.readouterr().out
  assert f"router start: that of {tmp_path}/one/adapter" in out
  assert len(fitted) == 1


@pytest.fixture
def scores(monkeypatch):
  """Evaluations that give what the test says, step by step."""
  values = []

  class Scripted:
    remarks = ()

    def __init__(self, *args, **kwargs):
      pass

    def with_predictions(self, params, *, texts):
      return {"score": values.pop(0)}, {}

  monkeypatch.setattr(loop, "Evaluation", Scripted)
  return values


def test_the_best_is_kept_and_the_rest_cut_short(task, tmp_path, scores):
  scores += [1.0, 3.0, 2.0, 2.5, 9.0]
  settings = {
    "train_steps": 20,
    "eval_period": 2,
    "best_metric": "score",
    "early_stop_steps": 4,
  }
  assert train(task, tmp_path, **settings) == {"score": 2.5}
  assert max(losses(tmp_path)) == 8 and scores == [9.0]
  best = tmp_path / "best"
  assert json.loads((best / "metrics.json").read_text())["step"] == 4
  # Of the best step, not of the last.
  train(task, tmp_path / "four", train_steps=4)
  kept = model_folder.read(best / "model")[1]
  for path, leaf in final(tmp_path / "four").items():
    np.testing.assert_array_equal(leaf, kept[path].read())
  # Run again, it is still stopped.
  assert train(task, tmp_path, **settings) == {"score": 2.5}
  assert scores == []


def test_only_an_evaluation_stops_a_run_early(task, tmp_path, scores):
  """Not the steps after one, few as they may be allowed to be."""
  scores += [1.0, 2.0, 3.0, 2.0, 9.0]
  settings = {
    "train_steps": 20,
    "eval_period": 3,
    "best_metric": "score",
    "early_stop_steps": 1,
  }
  assert train(task, tmp_path, **settings) == {"score": 2.0}
  assert max(losses(tmp_path)) == 12 and scores == [9.0]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seed": 9}, "seed = 0, but it is 9"),
    ({"batch_size": 2}, "batch_size = 4, but it is 2"),
    ({"coda": CodaConfig(reduction=3, bottleneck_dim=4)}, "T5Config.coda = "),
    ({"initial_checkpoint_path": "other"}, "checksum of the frozen parameters"),
  ],
)
def test_another_run_in_the_folder(task, tmp_path, change, message):
  config = testing.tiny_config(num_encoder_layers=1)
  for i, name in enumerate(("one", "other")):
    params = testing.random_params(Transformer(config), seed=i)
    model_folder.save_model(tmp_path / name, config, params)
  settings = {
    "coda": CodaConfig(reduction=2, bottleneck_dim=4),
    "trained_patterns": params_lib.TASK_PATTERNS,
    "initial_checkpoint_path": "one",
    "train_steps": 1,
  }

  def run(**changed):
    arguments = settings | changed
    path = tmp_path / arguments.pop("initial_checkpoint_path")
    train(task, tmp_path / "run", initial_checkpoint_path=path, **arguments)

  run()
  with pytest.raises(ValueError, match=f"{message}.*another MODEL_DIR"):
    run(**change)


def test_an_unknown_metric_loses_nothing(task, tmp_path, scores):
  scores += [1.0]
  with pytest.raises(ValueError, match=r"best_metric='bleu'.*\['score'\]"):
    train(task, tmp_path, eval_period=2, best_metric="bleu")
  assert (tmp_path / "checkpoints" / "2").exists()


def test_elastic_steps(task, tmp_path, monkeypatch):
  chosen = []

  def choose(reductions, *, seed, step):
    chosen.append((2, 4)[step % 2])
    return chosen[-1]

  monkeypatch.setattr(loop.elastic, "choose", choose)
  coda = CodaConfig(reduction=2, bottleneck_dim=4)
  train(task, tmp_path / "elastic", coda=coda, reductions=(2, 4))
  train(task, tmp_path / "two", coda=coda)
  assert chosen == [4, 2, 4, 2]
  elastic, two = losses(tmp_path / "elastic"), losses(tmp_path / "two")
  assert elastic[1] != two[1]
  assert all(np.isfinite(list(elastic.values())))


def test_sigterm_saves_and_the_run_goes_on(task, tmp_path, capsys):
  arguments = {"train_steps": 6, "learning_rate": optimizers.constant(0.01)}
  train(task, tmp_path / "whole", **arguments)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "summarize", _terminating(loop.summarize, at=3))
    assert train(task, tmp_path / "parts", **arguments) == {}
  assert "stopped by SIGTERM, saved after step" in capsys.readouterr().out
  # What it says is so: noticed too late for step 3, it has saved the next.
  saved = [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()]
  assert saved == ["4"]
  assert not (tmp_path / "parts" / "model").exists()
  train(task, tmp_path / "parts", **arguments)
  whole = final(tmp_path / "whole")
  for path, leaf in final(tmp_path / "parts").items():
    np.testing.assert_array_equal(leaf, whole[path])
  assert list(losses(tmp_path / "parts")) == [1, 2, 3, 4, 5, 6]


def _terminating(function, *, at):
  def call(history, done):
    if done == at:
      signal.raise_signal(signal.SIGTERM)
    return function(history, done)

  return call


def test_sigterm_in_an_evaluation(task, tmp_path, monkeypatch):
  def evaluate(*args, **kwargs):
    signal.raise_signal(signal.SIGTERM)

  monkeypatch.setattr(loop.Evaluation, "with_predictions", evaluate)
  assert train(task, tmp_path, eval_period=2) == {}
  assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["2"]


@pytest.mark.parametrize("step", [2, 4])
def test_an_evaluation_that_was_cut_short_is_made_up_for(
  task, tmp_path, scores, step
):
  scores += [1.0] * (step // 2 - 1)  # Then there are none: an IndexError.
  settings = {"eval_period": 2, "best_metric": "score"}
  with pytest.raises(IndexError):
    train(task, tmp_path, **settings)
  scores += [7.0] * (3 - step // 2)
  assert train(task, tmp_path, **settings) == {"score": 7.0}
  assert scores == []
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [r["step"] for r in rows if "eval/score" in r] == [2, 4]
  best = json.loads((tmp_path / "best/metrics.json").read_text())
  assert best["step"] == step
  # What is done is not done again.
  assert train(task, tmp_path, **settings) == {"score": 7.0}


def test_a_profile_of_what_the_run_had(task, tmp_path):
  train(task, tmp_path, profile_steps=(3, 9))
  assert list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))


def texts(model_dir):
  """{(step, tag): text} of the event files."""
  found = {}
  for path in model_dir.glob("events.out.tfevents.*"):
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
      event = event_pb2.Event.FromString(record)
      for value in event.summary.value:
        if value.metadata.plugin_data.plugin_name == "text":
          (text,) = value.tensor.string_val
          found[event.step, value.tag] = text.decode()
  return found


def test_tensorboard_shows_examples(task, tmp_path):
  train(task, tmp_path, predict=True, eval_period=2)
  found = texts(tmp_path)
  tags = [f"eval/{task}/{i}" for i in range(4)]
  assert list(found) == [(step, tag) for step in (2, 4) for tag in tags]
  examples = seqio.get_mixture_or_task(task).get_dataset(
    {"inputs": 8, "targets": 3}, "validation", shuffle=False
  )
  for i, example in enumerate(examples.take(4).as_numpy_iterator()):
    for step in (2, 4):
      assert found[step, tags[i]].startswith(
        f"input\n\n    {example['inputs'].tolist()}\n\n"
        f"target\n\n    {example['targets'].tolist()}\n\n"
        "prediction\n\n    ["
      )
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [list(json.loads(line)) for line in lines if "eval/" in line] == [
    ["step", "eval/loss", "eval/token_accuracy", "eval/exact"]
  ] * 2


def test_a_dry_run_leaves_no_trace(task, tmp_path, capsys):
  coda = CodaConfig(reduction=2, bottleneck_dim=4)
  arguments = {"dry_run": True, "train_steps": 30, "coda": coda}
  assert train(task, tmp_path / "x", reductions=(2, 4), **arguments) == {}
  out = capsys.readouterr().out
  assert "30 steps of 4 examples, 120 in all, 3 epochs" in out
  assert "r = 2: a step: " in out and "r = 4: a step: " in out
  assert "encoder_input_tokens (4, 8)" in out and "nothing was written" in out
  assert "inputs cut to 8 tokens: 0.0%" in out
  assert not (tmp_path / "x").exists()


def test_the_data_are_closed_when_all_is_saved(task, tmp_path, monkeypatch):
  closed = []

  def train_batches(*args, **kwargs):
    try:
      yield from batches(*args, **kwargs)
    finally:
      closed.append((tmp_path / "model").exists())

  batches = inputs.train_batches
  kept = []
  placed = loop.setup.placed
  # Someone holds them, as a traceback does.
  monkeypatch.setattr(
    loop.setup, "placed", lambda *a: kept.append(placed(*a)) or kept[-1]
  )
  monkeypatch.setattr(inputs, "train_batches", train_batches)
  train(task, tmp_path)
  assert closed == [True]


def test_tokens_that_the_model_lacks(task, tmp_path, monkeypatch):
  # Of a task whose vocabulary says less than its examples have.
  monkeypatch.setattr(inputs, "check_task", lambda *_: None)
  model = Transformer(testing.tiny_config(num_encoder_layers=1, vocab_size=5))
  with pytest.raises(
    ValueError, match="'train' of 'toy': .*has the token id 5; expected 0 to 4"
  ):
    train(task, tmp_path, model=model)


def test_a_disk_that_fills_is_worth_another_try(task, tmp_path, monkeypatch):
  """Unlike bad input: the exit status is 1, with which a pod starts again."""

  def save(self, state):
    raise OSError("no space")

  monkeypatch.setattr(loop.state.Checkpoints, "save", save)
  with pytest.raises(InterruptedError, match=r"no space .*resumes from there"):
    train(task, tmp_path, checkpoint_period=2)


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
    ({"batch_size": 0}, "BATCH_SIZE=0; expected a whole number, 1 or"),
    ({"train_steps": -1}, "TRAIN_STEPS=-1; expected a whole number, 1"),
    ({"microbatches": 3}, "batch_size=4 does not divide into microbatches=3"),
    ({"early_stop_steps": 3}, "early_stop_steps=3 needs best_metric"),
    ({"keep": 0}, "keep=0; expected a whole number, 1 or more"),
    (
      {"best_metric": "exact", "eval_split": "test"},
      r"has no split 'test'; set eval_split to one of \['train', 'validation'",
    ),
    (
      {"model_dir": "gs://bucket/run"},
      r"MODEL_DIR='gs://bucket/run'; expected .*bucket is mounted",
    ),
    ({"profile_steps": (5, 2)}, r"profile_steps=\(5, 2\); expected"),
    ({"reductions": (2,)}, "does not route tokens; use methods/coda.gin"),
    ({"trained_patterns": ("x",)}, "match none of the"),
    ({"mixture_or_task_name": "none"}, "no seqio task or mixture 'none'"),
    (
      {"pack": True, "coda": CodaConfig(reduction=2)},
      "packing.*pack=False",
    ),
  ],
)
def test_bad_arguments(task, tmp_path, overrides, message):
  arguments = {"model_dir": tmp_path, **overrides}
  with pytest.raises(ValueError, match=message):
    train(task, **arguments)


def test_a_checkpoint_of_another_size(task, tmp_path):
  other = Transformer(testing.tiny_config(mlp_dim=20))
  model_folder.save_model(
    tmp_path / "m", other.config, testing.random_params(other)
  )
  with pytest.raises(
    ValueError, match=r"(?s)another model than.* mlp_dim = 24, .* has 20"
  ):
    train(task, tmp_path / "run", initial_checkpoint_path=tmp_path / "m")
