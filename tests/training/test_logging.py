import json

import numpy as np

from coda_jax.training import logging


def test_parameter_table():
  trained = {
    "encoder": {
      "layers_0": {
        "adapter": {"down": {"kernel": np.zeros((100, 12))}},
        "pre_mlp_layer_norm": {"scale": np.zeros(100)},
      }
    }
  }
  frozen = {"decoder": {"layers_0": {"mlp": {"wo": np.zeros((87, 100))}}}}
  assert logging.parameter_table(trained, frozen) == (
    "parameters  trained  frozen\n"
    "----------  -------  ------\n"
    "adapters      1,200       0\n"
    "norms           100       0\n"
    "decoder           0   8,700\n"
    "all           1,300   8,700\n"
    "trained share: 13.00%"
  )


def test_logger_without_a_terminal(tmp_path, capsys):
  logger = logging.Logger(tmp_path, first_step=0, steps=100)
  logger.say("hello")
  logger.write(10, {"loss": 2.5}, "train")
  logger.progress(10, {"loss": 2.5}, 0.02, 1234.5)
  logger.close()
  assert capsys.readouterr().out == (
    "hello\n"
    "step 10/100  loss 2.5  1,234 tokens/s  0.02 steps/s  1:15:00 left\n"
  )
  lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"step": 10, "train/loss": 2.5}
  ]
  assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_format_seconds():
  assert logging.format_seconds(59.6) == "1:00"
  assert logging.format_seconds(3723) == "1:02:03"
