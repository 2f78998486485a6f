import json
import sys

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

import coda_jax
from coda_jax import testing
from coda_jax.checkpoints import assemble, model_folder
from coda_jax.checkpoints.leaves import leaves_of
from coda_jax.data import metrics, vocabularies
from coda_jax.inference import evaluate
from coda_jax.t5.network import Transformer
from coda_jax.training.evaluation import Evaluation

LENGTHS = {"inputs": 12, "targets": 4}
ROWS = {
  "validation": [("good film", "yes"), ("bad", "no"), ("so so", "no")],
  "empty": [],
}


def read(split, shuffle_files=False, seed=None):
  del shuffle_files, seed
  columns = list(zip(*ROWS[split], strict=True)) or [(), ()]
  return tf.data.Dataset.from_tensor_slices(
    {
      name: tf.constant(column, tf.string)
      for name, column in zip(("inputs", "targets"), columns, strict=True)
    }
  )


@pytest.fixture(autouse=True)
def task():
  feature = seqio.Feature(vocabularies.load("byt5"), add_eos=True)
  seqio.TaskRegistry.add(
    "reviews",
    source=seqio.FunctionDataSource(read, splits=tuple(ROWS)),
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos_after_trim,
    ],
    output_features={"inputs": feature, "targets": feature},
    metric_fns=[metrics.accuracy, metrics.rouge],
  )
  yield
  seqio.TaskRegistry.remove("reviews")


def run(checkpoint, output, **kwargs):
  return evaluate.evaluate(
    checkpoint_path=str(checkpoint),
    eval_output_dir=str(output),
    mixture_or_task_name="reviews",
    task_feature_lengths=LENGTHS,
    **{"batch_size": 2, "repeats": 0, **kwargs},
  )


def results(output):
  return json.loads((output / "results.json").read_text())


@pytest.mark.filterwarnings("ignore")  # Of qwix.
def test_int8_weights_beside_float(tmp_path, checkpoint):
  pytest.importorskip("qwix")
  rows = run(
    checkpoint, tmp_path, reductions=(2,), weights=("float", "int8"), repeats=1
  )
  assert [row["weights"] for row in rows] == ["float", "int8"]
  losses = [row["metrics"]["loss"] for row in rows]
  assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.05)
  assert all(row["encoder_ms"] > 0 for row in rows)
  folder = tmp_path / "predictions" / "model"
  assert {p.name for p in folder.iterdir()} == {"r2", "r2_int8"}


def test_unknown_weights(tmp_path, checkpoint):
  with pytest.raises(ValueError, match="WEIGHTS='int8'; expected some of"):
    run(checkpoint, tmp_path, weights="int8")


def test_several_reductions_of_one_checkpoint(tmp_path, checkpoint, capsys):
  out = tmp_path / "out"
  rows = run(checkpoint, out, reductions=(1, 2, 4), repeats=1)
  assert results(out)["rows"] == rows and results(out)["metric"] == "accuracy"
  assert [row["reduction"] for row in rows] == [1, 2, 4]
  assert {row["checkpoint"] for row in rows} == {"model"}
  for row in rows:
    model, params = coda_jax.load_pretrained(checkpoint)
    model = Transformer(model.config.with_reduction(row["reduction"]))
    alone = Evaluation(
      model,
      "reviews",
      split="validation",
      task_feature_lengths=LENGTHS,
      batch_size=2,
    )(params)
    assert row["metrics"] == pytest.approx(alone)
    assert row["encoder_ms"] > 0 and row["inference_ms"] > 0
  assert rows[0]["encoder_speedup"] == 1
  assert len({row["metrics"]["loss"] for row in rows}) == 3
  assert rows[0]["encoder_flops"] > rows[1]["encoder_flops"]
  assert (out / "accuracy_speed.png").read_bytes().startswith(b"\x89PNG")
  folder = out / "predictions" / "model" / "r4"
  lines = (folder / "reviews.jsonl").read_text().splitlines()
  texts = [json.loads(line) for line in lines]
  assert [(t["input"], t["target"]) for t in texts] == ROWS["validation"]
  assert all(isinstance(t["prediction"], str) for t in texts)
  table = capsys.readouterr().out.split("\n\n")[1].splitlines()
  assert table[0].split()[:6] == [
    "checkpoint",
    "r",
    "weights",
    "loss",
    "token_accuracy",
    "accuracy",
  ]
  assert [line.split()[:3] for line in table[2:]] == [
    ["model", "1", "float"],
    ["model", "2", "float"],
    ["model", "4", "float"],
  ]


def save_folder(tmp_path):
  """Two adapters of one shape, one of another, beside their backbone."""
  dense = Transformer(testing.tiny_config(vocab_size=384))
  params = testing.random_params(dense)
  model_folder.save_model(tmp_path / "backbone", dense.config, params)
  for name, reduction in [("coda_10", 2), ("coda_9", 2), ("adapter", 1)]:
    coda = coda_jax.CodaConfig(reduction=reduction, bottleneck_dim=4)
    model = Transformer(testing.tiny_config(vocab_size=384, coda=coda))
    added = assemble.from_leaves(
      model, leaves_of(params), jax.random.key(len(name)), "backbone"
    )
    coda_jax.save_adapter(tmp_path / "all" / name, model, added)
  return tmp_path / "all"


def test_all_of_a_folder(tmp_path, monkeypatch):
  folder = save_folder(tmp_path)
  timed = []

  def costs(models, batch, **kwargs):
    tokens = batch["encoder_input_tokens"]
    assert tokens.shape == (2, 12) and kwargs["max_length"] == 4
    timed.extend(config.layer_reduction(0) for config, _ in models)
    return {key: {"encoder_ms": 1.0} for key in models}

  monkeypatch.setattr(evaluate.analysis, "inference_costs", costs)
  monkeypatch.setattr(evaluate, "_plot", lambda *args: None)
  rows = run(
    folder,
    tmp_path / "out",
    initial_checkpoint_path=tmp_path / "backbone",
    reductions=(2, 3),
    repeats=3,
  )
  # The adapter does not route, and is run as it is.
  assert [(row["checkpoint"], row["reduction"]) for row in rows] == [
    ("adapter", 1),
    ("coda_9", 2),
    ("coda_9", 3),
    ("coda_10", 2),
    ("coda_10", 3),
  ]
  # A shape is timed once.
  assert timed == [1, 2, 3]
  assert all(row["encoder_ms"] == 1.0 for row in rows)


def test_without_matplotlib(tmp_path, checkpoint, monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  run(checkpoint, tmp_path / "out", repeats=1)
  assert "no plot: matplotlib is missing" in capsys.readouterr().out
  assert results(tmp_path / "out")["rows"][0]["encoder_ms"] > 0
  assert not (tmp_path / "out" / "accuracy_speed.png").exists()


def test_a_metric_that_does_not_exist(tmp_path, checkpoint):
  with pytest.raises(
    ValueError, match=r"METRIC='f1', but .*'accuracy', 'loss'"
  ):
    run(checkpoint, tmp_path / "out", metric="f1")
  # What was measured is there.
  assert "accuracy" in results(tmp_path / "out")["rows"][0]["metrics"]
  rows = run(checkpoint, tmp_path / "out", metric="rouge1")
  assert results(tmp_path / "out")["metric"] == "rouge1" and len(rows) == 1


def test_diverged_parameters_lose_nothing(tmp_path):
  model = Transformer(testing.tiny_config(vocab_size=384))
  params = testing.random_params(model)
  model_folder.save_model(tmp_path / "all" / "1", model.config, params)
  norm = params["decoder"]["decoder_norm"]
  norm["scale"] = norm["scale"].at[0].set(np.nan)
  model_folder.save_model(tmp_path / "all" / "2", model.config, params)
  with pytest.raises(FloatingPointError, match=r"all/2: the loss is nan"):
    run(tmp_path / "all", tmp_path / "out")
  (row,) = results(tmp_path / "out")["rows"]
  assert row["checkpoint"] == "1"


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"split": "test"}, r"no split 'test'; choose one of \['validation', 'em"),
    ({"split": "empty"}, "split 'empty' of 'reviews' has no examples"),
    ({"batch_size": 0}, "BATCH_SIZE=0; expected a whole number, 1 or"),
    ({"repeats": -1}, "TIMING_REPEATS=-1; expected a whole number"),
    ({"reductions": (2, 0)}, r"REDUCTIONS=\(2, 0\); expected numbers, 1 or"),
    ({"reductions": 3}, r"REDUCTIONS=3; expected numbers.* in brackets"),
    ({"dtype": "float16"}, "float16 is refused"),
  ],
)
def test_wrong_arguments(tmp_path, checkpoint, kwargs, message):
  with pytest.raises(ValueError, match=message):
    run(checkpoint, tmp_path / "out", **kwargs)
  assert not (tmp_path / "out").exists()


def test_reductions_of_a_model_that_does_not_route(tmp_path):
  model = Transformer(testing.tiny_config(vocab_size=384))
  params = testing.random_params(model)
  model_folder.save_model(tmp_path / "model", model.config, params)
  with pytest.raises(ValueError, match="r = 3 was asked of a model that does"):
    run(tmp_path / "model", tmp_path / "out", reductions=(3,))
