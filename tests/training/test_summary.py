import numpy as np
import pytest

from coda_jax import analysis, testing
from coda_jax.training import summary


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
  assert summary.model_table(config, lengths, trained, frozen) == (
    "parameters  trained  frozen\n"
    "----------  -------  ------\n"
    "adapters      1,200       0\n"
    "norms           100       0\n"
    "decoder           0   8,700\n"
    "all           1,300   8,700\n"
    "trained share: 13.00%\n"
    f"GFLOPs an example, forward: encoder {encoder:.3g}, decoder {decoder:.3g}"
  )


@pytest.mark.parametrize(
  ("head", "rest"),
  [({}, ""), ({"head": "classification", "num_labels": 2}, ", head 5.1e-07")],
)
def test_an_encoder_without_a_decoder(head, rest):
  """The head has products of 15 x 15 and 15 x 2."""
  config = testing.tiny_bert_config(**head)
  trained = {"encoder": {"encoder_norm": {"scale": np.zeros(15)}}}
  table = summary.model_table(config, {"inputs": 12}, trained, {})
  encoder = analysis.encoder_flops(config, 12) / 1e9
  last = table.splitlines()[-1]
  assert last == f"GFLOPs an example, forward: encoder {encoder:.3g}{rest}"
