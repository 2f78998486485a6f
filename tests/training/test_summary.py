import numpy as np

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
