"""Labels for texts, in real processes, from a BERT's folder or an adapter's."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import coda_jax
from coda_jax import infer
from coda_jax.checkpoints import assemble, formats, pretrained
from coda_jax.nn.config import CodaConfig

LABELS = ("bad", "fair", "good")
TEXTS = ["w0 w1", "w3", "w19 w7 w7 w2 w1", "", "w9 w8", "w4 w4 w4 w12"]
PAIRS = ["w5", "w1 w2 w6", "w3", "w0", "w11 w10", "w13"]


def arguments(folder, out, *more):
  return [
    "--gin_file=tasks/text.gin",
    "--gin_file=runs/infer.gin",
    f"--gin.VOCABULARY={folder}",
    f"--gin.CHECKPOINT_PATH={folder}",
    f"--gin.INFER_OUTPUT_DIR={out}",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 14}",
    "--gin.BATCH_SIZE=4",
    "--gin.DTYPE=float32",
    *more,
  ]


def start(*argv):
  """Runs the program as users do; returns its standard output."""
  done = subprocess.run(
    [sys.executable, "-m", "coda_jax.infer", *argv],
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def logits(model, params, text, pair=None):
  """By hand: [CLS] is 2, [SEP] is 3, w0 is 4, and a second text's type is 1."""
  rows = [[4 + int(word[1:]) for word in x.split()] for x in (text, pair or "")]
  tokens, types = [2, *rows[0], 3], [0] * (len(rows[0]) + 2)
  if pair is not None:
    tokens += [*rows[1], 3]
    types += [1] * (len(rows[1]) + 1)
  return model.apply(
    {"params": params},
    np.array([tokens]),
    np.array([types]),
    enable_dropout=False,
  )[0]


def records(folder):
  lines = (folder / "predictions.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_a_label_a_line(tmp_path, bert_folder):
  """An adapter's own head and labels, at another r than its own."""
  folder, out = bert_folder(), tmp_path / "out"
  coda = CodaConfig(reduction=3, bottleneck_dim=4)
  model = pretrained.model_of(
    folder, coda=coda, head="classification", labels=LABELS
  )
  _, leaves = formats.read(folder)
  params = assemble.from_leaves(model, leaves, jax.random.key(0), "bert")
  at_2 = coda_jax.Bert(model.config.with_reduction(2))
  # So that no label is always the likeliest.
  means = np.mean([logits(at_2, params, text) for text in TEXTS], axis=0)
  last = params["encoder"]["head"]["logits_dense"]
  last["bias"] = last["bias"] - means
  coda_jax.save_adapter(tmp_path / "adapter", model, params)
  (tmp_path / "x.txt").write_text("\n".join(TEXTS))
  argv = arguments(
    folder,
    out,
    f"--gin.INPUT_PATH={tmp_path}/x.txt",
    f"--gin.CHECKPOINT_PATH={tmp_path}/adapter",
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    "--gin.REDUCTION=2",
  )
  assert start(*argv) == ""
  expected = [LABELS[logits(at_2, params, x).argmax()] for x in TEXTS]
  assert len(set(expected)) > 1
  assert (out / "predictions.txt").read_text().splitlines() == expected
  assert records(out) == [
    {"index": i, "input": text, "prediction": expected[i]}
    for i, text in enumerate(TEXTS)
  ]


def test_pairs_of_a_table_and_a_restart(tmp_path, bert_folder, capsys):
  """A number for each pair."""
  folder = bert_folder(head="classification", num_labels=1)
  rows = [
    {"a": a or "w1", "b": b, "c": "good"}
    for a, b in zip(TEXTS, PAIRS, strict=True)
  ]
  text = "".join(json.dumps(row) + "\n" for row in rows)
  (tmp_path / "x.jsonl").write_text(text)
  out = tmp_path / "out"
  argv = arguments(
    folder,
    out,
    f"--gin.INPUT_PATH={tmp_path}/x.jsonl",
    "--gin.INPUT_TEMPLATE={a}",
    "--gin.PAIR_TEMPLATE={b}",
    "--gin.TARGET_TEMPLATE={c}",
  )
  start(*argv)
  model, params = coda_jax.load_pretrained(folder)

  def check():
    for i, (row, record) in enumerate(zip(rows, records(out), strict=True)):
      number = float(record.pop("prediction"))
      expected = logits(model, params, row["a"], row["b"])[0]
      np.testing.assert_allclose(number, expected, rtol=1e-4)
      shown = f"{row['a']}\n{row['b']}"
      assert record == {"index": i, "input": shown, "target": "good"}

  check()
  # A run that was killed in its third line.
  lines = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
  (out / "predictions.jsonl").write_text("".join(lines[:2]) + lines[2][:9])
  (out / "predictions.txt").unlink()
  assert infer.main(argv) == 0
  assert "has 2 results; continuing" in capsys.readouterr().err
  check()
  numbers = (out / "predictions.txt").read_text().splitlines()
  assert numbers == [record["prediction"] for record in records(out)]


def test_numbers_on_a_mesh(tmp_path, bert_folder, capsys):
  folder = bert_folder(
    head="classification", num_labels=1, emb_dim=16, num_heads=4
  )
  (tmp_path / "x.txt").write_text("\n".join(TEXTS))
  argv = arguments(
    folder,
    "-",
    f"--gin.INPUT_PATH={tmp_path}/x.txt",
    "--gin.MESH={'data': 2, 'model': 2}",
  )
  assert infer.main(argv) == 0
  found = map(json.loads, capsys.readouterr().out.splitlines())
  model, params = coda_jax.load_pretrained(folder)
  np.testing.assert_allclose(
    [float(record["prediction"]) for record in found],
    [logits(model, params, text)[0] for text in TEXTS],
    rtol=1e-4,
  )


@pytest.mark.parametrize(
  ("head", "more", "message"),
  [
    ({}, [], "a BERT with head=None gives no answers"),
    (None, ["--gin.GENERATE={'method': 'beam'}"], "answers with labels"),
    (
      None,
      ["--gin.MODE=score", "--gin.TARGET_TEMPLATE={text}"],
      "MODE='score' and GENERATE={}, but",
    ),
    (None, ["--gin.PAIR_TEMPLATE={b}"], "no value for b"),
    (None, ["--gin.TASK_FEATURE_LENGTHS={'inputs': 17}"], "positions for 16"),
  ],
)
def test_what_does_not_fit(tmp_path, bert_folder, head, more, message, capsys):
  if head is None:
    head = {"head": "classification", "num_labels": 3, "labels": LABELS}
  folder = bert_folder(**head)
  (tmp_path / "x.txt").write_text("\n".join(TEXTS))
  source = f"--gin.INPUT_PATH={tmp_path}/x.txt"
  assert infer.main(arguments(folder, "-", source, *more)) == 2
  assert message in capsys.readouterr().err


def test_texts_need_a_length(capsys, tmp_path):
  (tmp_path / "x.txt").write_text("a\n")
  argv = arguments("tiny", "-", f"--gin.INPUT_PATH={tmp_path}/x.txt")
  assert infer.main([*argv, "--gin.VOCABULARY=tiny"]) == 2
  assert "lack 'targets', which the model" in capsys.readouterr().err
