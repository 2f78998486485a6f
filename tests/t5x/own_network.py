"""Saves t5x's own network with t5x, with its logits; for test_checkpoints.py.

python own_network.py FOLDER
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from t5x import adafactor, checkpoints, models, partitioning, utils
from t5x.examples.t5 import network

FEATURES = (
  "encoder_input_tokens",
  "decoder_input_tokens",
  "decoder_target_tokens",
)

folder = pathlib.Path(sys.argv[1])
config = network.T5Config(
  vocab_size=64,
  dtype=jnp.float32,
  emb_dim=16,
  num_heads=4,
  num_encoder_layers=3,
  num_decoder_layers=2,
  head_dim=6,
  mlp_dim=24,
  mlp_activations=("gelu", "linear"),
  dropout_rate=0.0,
)
vocabulary = seqio.PassThroughVocabulary(64)
model = models.EncoderDecoderModel(
  network.Transformer(config),
  vocabulary,
  vocabulary,
  adafactor.Adafactor(
    1e-3, logical_factor_rules=adafactor.standard_logical_factor_rules()
  ),
)
partitioner = partitioning.PjitPartitioner(num_partitions=1)
tokens = np.random.default_rng(0).integers(2, 64, (2, 9)).astype(np.int32)
tokens[1, 6:] = 0  # padding
initializer = utils.TrainStateInitializer(
  model.optimizer_def,
  model.get_initial_variables,
  dict.fromkeys(FEATURES, tokens.shape),
  partitioner,
)
state = initializer.from_scratch(jax.random.PRNGKey(0))
manager = checkpoints.OrbaxCheckpointManagerInterface(
  str(folder), initializer.global_train_state_shape, partitioner
)
manager.save(state)
manager.close()
legacy = folder / "published"
legacy.mkdir()
checkpoints.Checkpointer(
  initializer.global_train_state_shape, partitioner, str(legacy)
).save(state)
logits = model.module.apply(
  {"params": state.params}, tokens, tokens, tokens, enable_dropout=False
)
np.savez(folder / "logits.npz", tokens=tokens, logits=logits)
