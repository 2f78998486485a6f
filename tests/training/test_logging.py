import json

import numpy as np
import pytest

from coda_jax import analysis, testing
from coda_jax.training import logging


def test_model_table():
  trained = {
    "encoder": {
      "layers_0": {
        "adapter": {"down": {"kernel": np.zeros((100, 12))}},
        "pre_mlp_layer_norm": {"scale": np.zeros(100)},
      }
    }
  }
  frozen = {"decoder": {"layers_0": {"mlp": {"wo": np.zeros((87, 100))}}}}
  config = testing.tiny_config()
  lengths = {"inputs": 32, "targets": 8}
  encoder = analysis.encoder_flops(config, 32) / 1e9
  decoder = analysis.decoder_flops(config, 32, 8) / 1e9
  assert logging.model_table(config, lengths, trained, frozen) == (
    "parameters  trained  frozen\n"
    "----------  -------  ------\n"
    "adapters      1,200       0\n"
    "norms           100       0\n"
    "decoder           0   8,700\n"
    "all           1,300   8,700\n"
    "trained share: 13.00%\n"
    f"GFLOPs an example, forward: encoder {encoder:.3g}, decoder {decoder:.3g}"
  )


def test_logger_without_a_terminal(tmp_path, capsys):
  logger = logging.Logger(tmp_path, first_step=0, steps=100)
  logger.say("hello")
  logger.write(10, {"loss": 2.5}, "train")
  logger.progress(10, 2.5, 0.02, 1234.5)
  logger.close()
  assert capsys.readouterr().out == (
    "hello\nstep 10/100  loss 2.5  1,234 tokens/s  0.02 steps/s  1:15:00 left\n"
  )
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": 10, "train/loss": 2.5}
  ]
  assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_format_seconds():
  assert logging.format_seconds(59.6) == "1:00"
  assert logging.format_seconds(3723) == "1:02:03"


def test_rate(monkeypatch):
  now = [10.0]
  monkeypatch.setattr(logging.time, "perf_counter", lambda: now[0])
  rate = logging.Rate(3)
  now[0] = 12.0
  assert rate.measure(8) == (2.5, 0.0)
  now[0] = 20.0
  rate.reset(9)
  with rate.waiting():
    now[0] = 20.25
  now[0] = 21.0
  assert rate.measure(11) == (2.0, 0.25)


def test_a_resumed_run_replaces_later_lines(tmp_path):
  lines = [json.dumps({"step": step, "x": step}) for step in (2, 4, 6)]
  (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "')
  logger = logging.Logger(tmp_path, first_step=4, steps=8)
  logger.write(5, {"loss": 1.0}, "train")
  logger.close()
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
    logging.Logger(tmp_path, first_step=3, steps=4)
  assert path.read_bytes() == before
