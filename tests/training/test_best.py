import json
import math

import pytest

from coda_jax.training.best import Best


def update(best, step, value):
  return best.update(
    step,
    {"score": value, "loss": 1.0},
    lambda folder: (folder.mkdir(), (folder / "x").write_text(str(step))),
  )


@pytest.mark.parametrize(
  ("mode", "kept"), [("max", [1, 3]), ("min", [1, 2, 4])]
)
def test_keeps_the_best_across_resumptions(tmp_path, mode, kept):
  values = {1: 0.5, 2: 0.4, 3: 0.7, 4: 0.3, 5: 0.3}
  updated = []
  for step, value in values.items():
    best = Best(tmp_path, "score", mode)  # as if each were a run of its own
    if update(best, step, value):
      updated.append(step)
    assert best.step == updated[-1]
  assert updated == kept
  assert (tmp_path / "best" / "x").read_text() == str(kept[-1])
  record = json.loads((tmp_path / "best" / "metrics.json").read_text())
  assert record["step"] == kept[-1]
  assert record["results"]["score"] == values[kept[-1]]


def test_nan_is_never_the_best(tmp_path):
  best = Best(tmp_path, "score")
  updated = [
    update(best, i, x) for i, x in enumerate([math.nan, 1.0, math.nan])
  ]
  assert updated == [False, True, False]
  assert not update(best, 3, 0.5)
  assert best.step == 1


def test_an_interrupted_save_leaves_the_old_one(tmp_path):
  best = Best(tmp_path, "score")
  update(best, 1, 0.5)

  def fail(folder):
    folder.mkdir()
    raise OSError("disk full")

  with pytest.raises(OSError, match="disk full"):
    best.update(2, {"score": 0.6}, fail)
  assert (tmp_path / "best" / "x").read_text() == "1"
  assert Best(tmp_path, "score").step == 1


def test_a_save_that_was_killed_does_not_lower_the_bar(tmp_path):
  update(Best(tmp_path, "score"), 1, 0.9)
  # As after kill -9 between the two renames of the next one.
  (tmp_path / "best").rename(tmp_path / ".best.old")
  best = Best(tmp_path, "score")
  assert best.step == 1
  assert not update(best, 2, 0.1)
  assert (tmp_path / "best" / "x").read_text() == "1"


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ('{"metric"', "is not valid JSON"),
    ("[]", "holds a list"),
    ('{"metric": "score"}', "lacks 'step'"),
    ('{"metric": "score", "step": 1, "results": {}}', "lacks 'score'"),
    ('{"metric": "score", "step": 1, "results": 5}', "not subscriptable"),
    ('{"metric": "score", "step": [], "results": {"score": 1}}', "int"),
  ],
)
def test_a_damaged_record_is_named(tmp_path, content, message):
  update(Best(tmp_path, "score"), 1, 0.5)
  (tmp_path / "best" / "metrics.json").write_text(content)
  with pytest.raises(ValueError, match=rf"best/metrics\.json.*{message}"):
    Best(tmp_path, "score")


def test_bad_input(tmp_path):
  with pytest.raises(ValueError, match="best_mode='most'; expected one of"):
    Best(tmp_path, "score", "most")
  best = Best(tmp_path, "bleu")
  with pytest.raises(ValueError, match=r"'bleu' is not among.*'loss', 'score'"):
    update(best, 1, 0.5)
  update(Best(tmp_path, "score"), 1, 0.5)
  with pytest.raises(ValueError, match="was written for metric 'score'"):
    Best(tmp_path, "loss")
  with pytest.raises(ValueError, match="best_mode='max', but it is 'min'"):
    Best(tmp_path, "score", "min")
