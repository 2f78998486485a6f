import json

import pytest

from coda_jax.training import logger


def test_logger_without_a_terminal(tmp_path, capsys):
  log = logger.Logger(tmp_path, first_step=0, steps=100)
  log.say("hello")
  log.write(10, {"loss": 2.5}, "train")
  log.progress(10, 2.5, 0.02, 1234.5)
  log.close()
  assert capsys.readouterr().out == (
    "hello\nstep 10/100  loss 2.5  1,234 tokens/s  0.02 steps/s  1:15:00 left\n"
  )
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": 10, "train/loss": 2.5}
  ]
  assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_a_resumed_run_replaces_later_lines(tmp_path):
  lines = [json.dumps({"step": step, "x": step}) for step in (2, 4, 6)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "')
  log = logger.Logger(tmp_path, first_step=4, steps=8)
  log.write(5, {"loss": 1.0}, "train")
  log.close()
  found = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line)["step"] for line in found] == [2, 4, 5]


@pytest.mark.parametrize(
  "line", [b"{", b"[1]", b"{}", b'{"step": "x"}', b'{"step": 2, "\xe9": 1}']
)
def test_a_damaged_line_is_named(tmp_path, line):
  path = tmp_path / "metrics.jsonl"
  path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
  before = path.read_bytes()
  with pytest.raises(
    ValueError, match=r"metrics\.jsonl, line 2: .*remove that"
  ):
    logger.Logger(tmp_path, first_step=3, steps=4)
  assert path.read_bytes() == before
