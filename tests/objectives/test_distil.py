"""Self-distillation against NumPy, with the teacher run by itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from coda_jax import backbones, testing
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.distil import DistilEncoder
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.objectives.teacher import TEACHER
from coda_jax.training import state, steps

CODA = CodaConfig(reduction=2.0, bottleneck_dim=4, convolution=3)
CONFIGS = {
  "bert": testing.tiny_bert_config(coda=CODA),
  "t5": testing.tiny_config(coda=CODA),
}


def make_batch(lengths=(9, 6, 0)):
  tokens = testing.random_tokens(lengths, 10, 40)
  mask = np.arange(10)[None, :] < np.array(lengths)[:, None]
  return {"encoder_input_tokens": tokens, "encoder_mask": mask.astype(np.int32)}


def hidden(config, params, batch):
  inputs = {
    name: batch[name]
    for name in backbones.of(config).encoder_inputs
    if name in batch
  }
  return backbones.build(config).apply(
    {"params": params}, **inputs, enable_dropout=False, method="encode"
  )


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_is_that_of_the_two_models(name):
  config, batch = CONFIGS[name], make_batch()
  model = backbones.build(config)
  params = testing.random_params(model)
  plain = dataclasses.replace(config, coda=None)
  teacher = {
    path: leaf
    for path, leaf in params_lib.flatten(params).items()
    if not params_lib.is_added(path)
  }
  found = np.float64(hidden(config, params, batch))
  expected = np.float64(hidden(plain, params_lib.unflatten(teacher), batch))
  loss, cosines = 0.0, 0.0
  for row, length in enumerate((9, 6)):
    a, b = found[row, :length], expected[row, :length]
    means = a.mean(axis=0), b.mean(axis=0)
    cosine = means[0] @ means[1] / np.prod([np.linalg.norm(m) for m in means])
    loss += 2 * ((a - b) ** 2).sum() / (b**2).sum() + 3 * (1 - cosine)
    cosines += cosine
  sums = DistilEncoder(hidden=2.0, pooled=3.0).sums(
    model, params, batch, train=False
  )
  np.testing.assert_allclose(sums.loss, loss, rtol=1e-4)
  np.testing.assert_allclose(sums.metrics["cosine"], cosines, rtol=1e-4)
  # A row of padding alone weighs nothing.
  assert (sums.weight, sums.tokens) == (2, 15)
  assert len(sums.routing) == config.num_encoder_layers


def test_the_teacher_stays_what_it_was():
  """Norms are trained; the teacher has those of the start."""
  config, batch = CONFIGS["bert"], make_batch((9, 6))
  model, objective = backbones.build(config), DistilEncoder()
  params = testing.random_params(model)
  trained, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  given = {**frozen, **objective.constants(trained)}
  own = params_lib.flatten(given[TEACHER])
  assert own and not any(map(params_lib.is_added, own))
  assert sum(leaf.size for leaf in own.values()) < 500
  before = objective.sums(
    model, params_lib.merge(trained, given), batch, train=False
  )
  moved = jax.tree.map(lambda x: x + 0.5, trained)
  after = objective.sums(
    model, params_lib.merge(moved, given), batch, train=False
  )
  assert abs(after.loss - before.loss) > 0.01
  gradient = jax.grad(
    lambda t: (
      objective.sums(
        model,
        params_lib.merge(trained, {**given, TEACHER: t}),
        batch,
        train=True,
      ).loss
    )
  )(given[TEACHER])
  assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("microbatches", [1, 2])
def test_steps_bring_the_model_to_its_teacher(microbatches):
  config = dataclasses.replace(
    CONFIGS["bert"], coda=dataclasses.replace(CODA, reduction=1.5)
  )
  model, objective = backbones.build(config), DistilEncoder()
  params = testing.random_params(model)
  trained, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
  frozen = {**frozen, **objective.constants(trained)}
  optimizer = optax.adam(0.02)
  step = steps.make_train_step(
    model, optimizer, objective, microbatches=microbatches
  )
  current = state.TrainState.create(trained, optimizer)
  losses = []
  for _ in range(25):
    current, metrics = step(
      current, frozen, make_batch((9, 6, 8, 10)), jax.random.key(0)
    )
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.5 * losses[0]
  assert 0 < float(metrics["cosine"]) <= 1


def test_without_routing_and_adapters_it_is_its_teacher():
  config = dataclasses.replace(
    CONFIGS["bert"], coda=CodaConfig(reduction=1, bottleneck_dim=0)
  )
  model = backbones.build(config)
  params = testing.random_params(model)
  sums = DistilEncoder().sums(model, params, make_batch(), train=False)
  assert abs(float(sums.loss)) < 1e-6


def test_what_can_not_be():
  with pytest.raises(ValueError, match=r"hidden=-1; expected a number"):
    DistilEncoder(hidden=-1)
  with pytest.raises(ValueError, match="an example a row: use pack=False"):
    DistilEncoder().converter({}, pack=True)
  assert Seq2Seq().constants({"a": jnp.ones(2)}) == {}
