import dataclasses
import io
import json
import random
import sys

import numpy as np
import pytest

import coda_jax
from coda_jax import decoding, testing
from coda_jax.checkpoints import model_folder
from coda_jax.data import vocabularies
from coda_jax.inference import predict, sources
from coda_jax.inference.sources import Example, Text
from coda_jax.objectives.seq2seq import Seq2Seq

BYTES = vocabularies.load("byt5")
LENGTHS = {"inputs": 24, "targets": 5}


def examples(count=11):
  """Inputs of several lengths up to 18, in no order."""
  rng = random.Random(0)
  found = []
  for i in range(count):
    # Few, since each of them is compiled where it goes without padding.
    lengths = rng.choice((9, 16, 18)), rng.choice((1, 4))
    inputs, targets = (
      [*(rng.randint(3, 258) for _ in range(n - 1)), 1] for n in lengths
    )
    found.append(Example(i, f"text {i}", "target", inputs, targets))
  return found


@pytest.mark.parametrize(
  "generate", [{}, {"method": "beam", "num_beams": 2}], ids=["greedy", "beam"]
)
def test_batches_and_padding_change_nothing(either, generate):
  model, params = either
  found = predict.answer(
    model,
    params,
    examples(),
    batch_size=4,
    task_feature_lengths=LENGTHS,
    generate=generate,
  )
  assert len({tuple(answer.tokens) for answer in found}) > 3
  for example, answer in zip(examples(), found, strict=True):
    # Alone, and without any padding.
    tokens = np.array([example.input_tokens], np.int32)
    alone = decoding.generate(model, params, tokens, max_length=5, **generate)
    expected = [int(t) for t in alone.tokens[0] if t > 0]
    assert answer.tokens == expected
    np.testing.assert_allclose(answer.score, alone.scores[0], rtol=1e-4)


@pytest.mark.parametrize(
  ("mode", "inputs", "targets", "message"),
  [
    ("predict", [7, 400, 1], [400, 1], "input 5 has the token id 400"),
    ("score", [7, 1], [400, 1], "target 5 has the token id 400"),
  ],
)
def test_tokens_that_the_model_lacks(either, mode, inputs, targets, message):
  model, params = either
  with pytest.raises(ValueError, match=message):
    predict.answer(
      model,
      params,
      [Example(5, "text", "target", inputs, targets)],
      batch_size=4,
      task_feature_lengths=LENGTHS,
      mode=mode,
    )


def test_scores_of_targets(either):
  model, params = either
  found = predict.answer(
    model,
    params,
    examples(),
    batch_size=4,
    task_feature_lengths=LENGTHS,
    mode="score",
  )
  for example, answer in zip(examples(), found, strict=True):
    inputs, targets = (
      np.array([tokens], np.int32)
      for tokens in (example.input_tokens, example.target_tokens)
    )
    alone = decoding.score(model, params, inputs, targets)
    assert answer.tokens == []
    np.testing.assert_allclose(answer.score, alone[0], rtol=1e-4)


def test_a_prediction_has_the_score_of_itself_as_a_target(either):
  model, params = either
  kwargs = {"batch_size": 4, "task_feature_lengths": LENGTHS}
  answers = predict.answer(model, params, examples(), **kwargs)
  again = [
    example._replace(target_tokens=answer.tokens)
    for example, answer in zip(examples(), answers, strict=True)
  ]
  scored = predict.answer(model, params, again, mode="score", **kwargs)
  np.testing.assert_allclose(
    [a.score for a in answers], [a.score for a in scored], rtol=1e-4
  )


def test_shapes_are_few_and_tokens_are_counted(either, monkeypatch):
  model, params = either
  shapes, reports = [], []

  def generate(model, params, tokens, *, max_length):
    shapes.append(tokens.shape)
    answer = np.array([[7, 1] + [0] * (max_length - 2)] * len(tokens))
    answer[~(tokens > 0).any(axis=1)] = 0
    return decoding.Decoded(answer, np.zeros(len(tokens)))

  monkeypatch.setattr(decoding, "generate", generate)
  predict.answer(
    model,
    params,
    examples(),
    batch_size=4,
    task_feature_lengths=LENGTHS,
    report=lambda *counts: reports.append(counts),
  )
  assert len(shapes) == 3 and set(shapes) == {(4, 24), (4, 16)}
  assert sum(count for count, _ in reports) == 11
  read = sum(len(example.input_tokens) for example in examples())
  assert sum(tokens for _, tokens in reports) == read + 2 * 11


LINES = [f"line {i} " + "x" * (i * 7 % 23) for i in range(10)]


def infer(checkpoint, output, text, **kwargs):
  predict.infer(
    checkpoint_path=str(checkpoint),
    infer_output_dir=str(output),
    task_feature_lengths=LENGTHS,
    batch_size=3,
    text=text,
    **kwargs,
  )


def records(output, name="predictions"):
  text = (output / f"{name}.jsonl").read_text("utf-8")
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def lines(tmp_path):
  (tmp_path / "x.txt").write_text("\n".join(LINES))
  return Text(str(tmp_path / "x.txt"), BYTES)


def test_results_are_in_the_order_of_the_inputs(
  tmp_path, checkpoint, lines, capsys
):
  infer(checkpoint, tmp_path / "out", lines)
  found = records(tmp_path / "out")
  assert [r["input"] for r in found] == LINES
  assert [r["index"] for r in found] == list(range(10))
  assert [set(r) for r in found] == [
    {"index", "input", "prediction", "score"}
  ] * 10
  out, err = capsys.readouterr()
  assert out == ""
  cut = sum(len(line) >= 24 for line in LINES)
  assert 0 < cut and f"cut {cut} inputs" in err
  assert "10 examples" in err and "examples/s" in err and "tokens/s" in err
  assert f"wrote 10 results to {tmp_path / 'out' / 'predictions.jsonl'}" in err
  # As the model says.
  model, params = coda_jax.load_pretrained(checkpoint)
  tokens = [*BYTES.encode(LINES[0])[:23], 1]
  alone = coda_jax.generate(model, params, np.array([tokens]), max_length=5)
  assert found[0]["prediction"] == BYTES.decode(alone.tokens[0].tolist())
  np.testing.assert_allclose(found[0]["score"], alone.scores[0], rtol=1e-4)


def test_a_second_run_goes_on_where_the_first_stopped(
  tmp_path, checkpoint, lines, capsys
):
  infer(checkpoint, tmp_path / "whole", lines)
  whole = records(tmp_path / "whole")
  out = tmp_path / "out"
  out.mkdir()
  (out / "predictions.settings.json").write_text(
    (tmp_path / "whole" / "predictions.settings.json").read_text()
  )
  # The first is marked, to see that it is not done again.
  marked = {**whole[0], "score": -1e6}
  kept = [json.dumps(record) + "\n" for record in [marked, *whole[1:4]]]
  (out / "predictions.jsonl").write_text("".join(kept) + '{"index": 4, "in')
  infer(checkpoint, out, lines)
  found = records(out)
  assert "has 4 results; continuing after them" in capsys.readouterr().err
  assert found[0] == marked
  assert [r["prediction"] for r in found] == [r["prediction"] for r in whole]
  np.testing.assert_allclose(
    [r["score"] for r in found[1:]], [r["score"] for r in whole[1:]], rtol=1e-4
  )
  before = (out / "predictions.jsonl").read_bytes()
  infer(checkpoint, out, lines)
  assert (out / "predictions.jsonl").read_bytes() == before
  assert "wrote 10 results" in capsys.readouterr().err
  with pytest.raises(ValueError, match="reduction = None, but it is 1"):
    infer(checkpoint, out, lines, reduction=1)


def test_scores_between_do_not_hide_another_reduction(tmp_path, checkpoint):
  path = tmp_path / "x.csv"
  path.write_text("q,a\nwhat,yes\nwho,no\n")
  out = tmp_path / "out"
  text = Text(str(path), BYTES, input_template="{q}", target_template="{a}")
  infer(checkpoint, out, text, reduction=1)
  infer(checkpoint, out, text, reduction=5, mode="score")
  with pytest.raises(ValueError, match="with reduction = 1, but it is 5"):
    infer(checkpoint, out, text, reduction=5)


def test_another_model_or_vocabulary_is_not_continued(tmp_path, lines):
  folder, out = tmp_path / "model", tmp_path / "out"

  def save(seed, **changes):
    config = testing.tiny_config(vocab_size=8192, **changes)
    model = coda_jax.Transformer(config)
    model_folder.save_model(folder, config, testing.random_params(model, seed))

  save(0)
  infer(folder, out, lines)
  tiny = dataclasses.replace(lines, vocabulary=vocabularies.load("tiny"))
  with pytest.raises(ValueError, match="vocabulary = 'ByteVocabulary 259"):
    infer(folder, out, tiny)
  for change in ({"seed": 1}, {"seed": 0, "logits_via_embedding": True}):
    save(**change)
    with pytest.raises(ValueError, match=r"jsonl was started with model = "):
      infer(folder, out, lines)
  save(0)
  infer(folder, out, lines)


def test_standard_input_to_standard_output(checkpoint, monkeypatch, capsys):
  rows = "".join(json.dumps({"t": line}) + "\n" for line in LINES)
  stdin = io.TextIOWrapper(io.BytesIO(rows.encode()))
  monkeypatch.setattr(sys, "stdin", stdin)
  text = Text("-", BYTES, input_template="{t}", stdin_format="jsonl")
  infer(checkpoint, "-", text, window=4)
  out, err = capsys.readouterr()
  found = [json.loads(line) for line in out.splitlines()]
  assert [r["input"] for r in found] == LINES
  assert "wrote 10 results to" in err


def test_scores_of_the_rows_targets(tmp_path, checkpoint):
  (tmp_path / "x.csv").write_text("q,a\nwhat,yes\nwho,no\n")
  text = Text(
    str(tmp_path / "x.csv"), BYTES, input_template="{q}", target_template="{a}"
  )
  infer(checkpoint, tmp_path / "out", text, mode="score")
  found = records(tmp_path / "out", "scores")
  model, params = coda_jax.load_pretrained(checkpoint)
  for record, (question, target) in zip(
    found, [("what", "yes"), ("who", "no")], strict=True
  ):
    expected = decoding.score(
      model,
      params,
      np.array([[*BYTES.encode(question), 1]]),
      np.array([[*BYTES.encode(target), 1]]),
    )
    assert (record["input"], record["target"]) == (question, target)
    assert set(record) == {"index", "input", "target", "score"}
    np.testing.assert_allclose(record["score"], expected[0], rtol=1e-4)


def test_another_reduction(tmp_path, checkpoint, lines):
  infer(checkpoint, tmp_path / "own", lines)
  infer(checkpoint, tmp_path / "two", lines, reduction=2)
  infer(checkpoint, tmp_path / "eight", lines, reduction=8)
  own, two, eight = (
    [r["score"] for r in records(tmp_path / name)]
    for name in ("own", "two", "eight")
  )
  assert own == two != eight


def test_a_bad_row_stops_and_loses_nothing(tmp_path, checkpoint, capsys):
  path = tmp_path / "x.jsonl"
  rows = [json.dumps({"text": line}) for line in LINES]
  path.write_text("\n".join([*rows[:5], '{"text": 3', *rows[6:]]))
  text = Text(str(path), BYTES)
  with pytest.raises(ValueError, match=r"x\.jsonl, line 6: not JSON"):
    infer(checkpoint, tmp_path / "out", text, window=3)
  assert [r["input"] for r in records(tmp_path / "out")] == LINES[:5]
  path.write_text("\n".join(rows))
  infer(checkpoint, tmp_path / "out", text, window=3)
  assert [r["input"] for r in records(tmp_path / "out")] == LINES

  path.write_text("\n".join([*rows[:5], '{"text": 3', *rows[6:]]))
  text = Text(str(path), BYTES, skip_bad_rows=True)
  infer(checkpoint, tmp_path / "skipped", text, window=3)
  found = [r["index"] for r in records(tmp_path / "skipped")]
  assert found == [0, 1, 2, 3, 4, 6, 7, 8, 9]
  assert "left out 1 bad rows; the first is" in capsys.readouterr().err


def test_damaged_parameters(tmp_path, lines):
  model = coda_jax.Transformer(testing.tiny_config(vocab_size=384))
  params = testing.random_params(model)
  norm = params["encoder"]["encoder_norm"]
  norm["scale"] = norm["scale"].at[0].set(np.nan)
  model_folder.save_model(tmp_path / "model", model.config, params)
  with pytest.raises(FloatingPointError, match="input 0|input .* score nan"):
    infer(tmp_path / "model", tmp_path / "out", lines)


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"mode": "rank"}, r"MODE='rank'; expected one of \('predict', 'score'\)"),
    ({"mode": "score"}, "set TARGET_TEMPLATE"),
    ({"generate": {"method": "sample"}}, "call coda_jax.generate with an rng"),
    ({"window": 0}, "window=0; expected a whole number, 1 or more"),
    ({"mixture_or_task_name": "x"}, "set just one of them"),
    ({"reduction": 0.5}, "REDUCTION=0.5; expected a number, 1 or more"),
  ],
)
def test_wrong_arguments(tmp_path, checkpoint, lines, kwargs, message):
  with pytest.raises(ValueError, match=message):
    infer(checkpoint, tmp_path / "out", lines, **kwargs)
  assert not (tmp_path / "out").exists()


def test_neither_task_nor_text(tmp_path, checkpoint):
  with pytest.raises(ValueError, match="INPUT_PATH=None; set just one of"):
    infer(checkpoint, tmp_path / "out", None)


def test_several_checkpoints(tmp_path, checkpoint, lines):
  checkpoint.rename(tmp_path / "b")
  (tmp_path / "a").mkdir()
  for file in (tmp_path / "b").iterdir():
    (tmp_path / "a" / file.name).write_bytes(file.read_bytes())
  with pytest.raises(ValueError, match="2 checkpoints; set CHECKPOINT_PATH to"):
    infer(tmp_path, tmp_path / "out", lines)


def test_a_vocabulary_that_the_model_does_not_have(tmp_path, lines):
  model = coda_jax.Transformer(testing.tiny_config())
  params = testing.random_params(model)
  model_folder.save_model(tmp_path / "model", model.config, params)
  with pytest.raises(
    ValueError, match=r"x\.txt has 259 tokens, the model only"
  ):
    infer(tmp_path / "model", tmp_path / "out", lines)


def test_no_inputs(tmp_path, checkpoint):
  (tmp_path / "x.txt").write_text("")
  text = Text(str(tmp_path / "x.txt"), BYTES)
  with pytest.raises(ValueError, match=r"no inputs in .*x\.txt"):
    infer(checkpoint, tmp_path / "out", text)


def test_a_task(tmp_path, checkpoint, monkeypatch):
  calls = []
  monkeypatch.setattr(predict.inputs, "check_task", lambda *a: calls.append(a))
  monkeypatch.setattr(sources, "check_task", lambda name, split: BYTES)
  monkeypatch.setattr(
    sources, "read_task", lambda name, split, lengths: iter(examples(4))
  )
  infer(checkpoint, tmp_path / "out", None, mixture_or_task_name="x")
  found = records(tmp_path / "out")
  assert [r["target"] for r in found] == ["target"] * 4
  ((name, objective, config),) = calls
  assert (name, objective, config.vocab_size) == ("x", Seq2Seq(), 384)
