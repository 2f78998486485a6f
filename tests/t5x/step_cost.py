"""Prints the FLOPs of a step, ours and t5x's; for test_training.py.

python step_cost.py MICROBATCHES
"""

import functools
import json
import sys

import flax
import jax
import jax.numpy as jnp
import optax
import seqio
from t5x import models, optimizers, train_state, trainer

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer
from coda_jax.training import state, steps
from coda_jax.under_t5x.optimizer import TrainedOnly

microbatches = int(sys.argv[1])
config = testing.tiny_config(
  emb_dim=64, head_dim=16, num_heads=4, mlp_dim=256, coda=CodaConfig()
)
network = Transformer(config)
vocabulary = seqio.PassThroughVocabulary(config.vocab_size)
batch = testing.token_batch(config.vocab_size, (16,) * 4, (8,) * 4)
batch["decoder_loss_weights"] = batch["decoder_target_tokens"] > 0
key = jax.random.PRNGKey(0)


def flops(function, *arguments):
  compiled = jax.jit(function).lower(*arguments).compile()
  return compiled.cost_analysis()["flops"]


def theirs(patterns):
  model = models.EncoderDecoderModel(
    network,
    vocabulary,
    vocabulary,
    TrainedOnly(optimizers.OptaxWrapper(optax.adamw(1e-3)), patterns),
  )
  variables = model.get_initial_variables(
    key, {name: x.shape for name, x in batch.items()}
  )
  return flops(
    functools.partial(
      trainer.train_with_lr, model=model, num_microbatches=microbatches
    ),
    train_state.FlaxOptimTrainState.create(model.optimizer_def, variables),
    batch,
    jnp.float32(1e-3),
    key,
  )


def ours(patterns):
  params = flax.core.unfreeze(network.init(key, *[jnp.ones((1, 8), int)] * 3))
  trained, frozen = params_lib.split(params["params"], patterns)
  transform = optax.adamw(1e-3)
  return flops(
    steps.make_train_step(
      network, transform, Seq2Seq(), microbatches=microbatches
    ),
    state.TrainState.create(trained, transform),
    frozen,
    batch,
    jax.random.key(0),
  )


task, everything = params_lib.TASK_PATTERNS, params_lib.ALL_PATTERNS
print(
  json.dumps(
    {
      "theirs": [theirs(task), theirs(everything)],
      "ours": [ours(task), ours(everything)],
    }
  )
)
