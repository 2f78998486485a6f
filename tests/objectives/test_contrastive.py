"""Contrastive learning against NumPy, and the library that it comes from."""

import dataclasses

import jax
import numpy as np
import pytest

from coda_jax import backbones, partitioning, testing
from coda_jax import params as params_lib
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.contrastive import Contrastive, pair_losses
from coda_jax.training import steps

CODA = CodaConfig(reduction=2.0, bottleneck_dim=4)
CONFIGS = {
  "bert": testing.tiny_bert_config(coda=CODA, num_encoder_layers=1),
  "plain": testing.tiny_bert_config(num_encoder_layers=1),
  "t5": testing.tiny_config(coda=CODA, num_encoder_layers=1),
}
INPUTS, TARGETS = (5, 3, 6, 4), (9, 6, 7, 2)


def make_batch(inputs=INPUTS, targets=TARGETS, more=0):
  """A row each, `more` columns longer than needed."""
  batch = {}
  for seed, (prefix, lengths) in enumerate(
    (("", inputs), ("target_", targets))
  ):
    width = max(lengths) + more
    mask = np.arange(width)[None, :] < np.array(lengths)[:, None]
    batch |= {
      f"{prefix}encoder_input_tokens": testing.random_tokens(
        lengths, width, 40, seed
      ),
      f"{prefix}encoder_mask": mask.astype(np.int32),
    }
  return batch


def reference(a, b, scale):
  """The loss of each pair, and how many have the nearest target."""
  cosines = np.array(
    [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
  )
  powers = np.exp(scale * cosines)
  own = np.diag(powers)
  losses = -np.log(own / powers.sum(axis=1)) - np.log(own / powers.sum(axis=0))
  return losses / 2, int((cosines.argmax(axis=1) == np.arange(len(a))).sum())


def params_of(config):
  """Random ones that tell texts apart: biases would be most of a vector."""
  leaves = params_lib.flatten(testing.random_params(backbones.build(config)))
  return params_lib.unflatten(
    {path: 0 * x if path.endswith("/bias") else x for path, x in leaves.items()}
  )


def sums_of(config, batch, scale=20.0):
  model = backbones.build(config)
  objective = Contrastive(scale)
  return jax.jit(
    lambda params, batch: objective.sums(model, params, batch, train=False)
  )(params_of(config), batch)


def vectors(config, batch, prefix):
  """The means over the tokens of each text."""
  model = backbones.build(config)
  names = ("encoder_input_tokens", "encoder_mask")
  arrays = {name: batch[f"{prefix}{name}"] for name in names}
  hidden = jax.jit(
    lambda params: model.apply(
      {"params": params},
      **backbones.encoder_inputs(config, arrays),
      enable_dropout=False,
      method="encode",
    )
  )(params_of(config))
  return [
    np.float64(x[: mask.sum()]).mean(axis=0)
    for x, mask in zip(hidden, arrays["encoder_mask"], strict=True)
  ]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_that_of_the_texts(name):
  config, batch = CONFIGS[name], make_batch()
  losses, nearest = reference(
    vectors(config, batch, ""), vectors(config, batch, "target_"), 5.0
  )
  # Padding changes nothing.
  sums = sums_of(config, make_batch(more=2), 5.0)
  np.testing.assert_allclose(sums.loss, losses.sum(), rtol=1e-4)
  assert (sums.metrics["first"], sums.weight) == (nearest, 4)
  # Far from what vectors have that are all the same.
  assert abs(sums.loss - 4 * np.log(4)) > 0.5
  assert sums.tokens == sum(INPUTS) + sum(TARGETS)
  # What is logged is how the longer texts are routed.
  assert sums.mask.sum() == sum(TARGETS)
  (routing,) = sums.routing
  assert (routing is None) == (name == "plain")


def test_rows_that_fill_a_batch_are_no_negatives():
  config = CONFIGS["bert"]
  plain = sums_of(config, make_batch(), 1.0)
  filled = sums_of(config, make_batch((*INPUTS, 0, 0), (*TARGETS, 0, 0)), 1.0)
  for name in ("loss", "weight", "tokens", "metrics"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
      getattr(filled, name),
      getattr(plain, name),
    )
  none = sums_of(config, jax.tree.map(np.zeros_like, make_batch()))
  assert (none.loss, none.weight) == (0, 0)


def test_training_is_finite_with_rows_that_fill_a_batch():
  config = CONFIGS["bert"]
  model, batch = backbones.build(config), make_batch((5, 3, 0), (4, 2, 0))
  key = jax.random.key(0)
  gradient = jax.jit(
    jax.grad(
      lambda params: (
        Contrastive()
        .sums(model, params, batch, train=True, rngs={"dropout": key})
        .loss
      )
    )
  )(params_of(config))
  leaves = jax.tree.leaves(gradient)
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  assert any(leaf.any() for leaf in leaves)


def random_vectors(rows, dim=7):
  rng = np.random.default_rng(0)
  a = rng.standard_normal((rows, dim))
  b = a + rng.standard_normal((rows, dim))
  return [np.float32(x / np.linalg.norm(x, axis=1)[:, None]) for x in (a, b)]


def test_the_loss_is_that_of_sentence_transformers():
  torch = pytest.importorskip("torch")
  losses = pytest.importorskip(
    "sentence_transformers.sentence_transformer.losses"
  )
  a, b = random_vectors(6)
  expected = losses.MultipleNegativesRankingLoss(
    model=None,
    directions=("query_to_doc", "doc_to_query"),
    partition_mode="per_direction",
  ).compute_loss_from_embeddings([torch.tensor(a), torch.tensor(b)], None)
  found, _ = pair_losses(a, b, np.ones(6, bool), scale=Contrastive().scale)
  np.testing.assert_allclose(found.mean(), float(expected), rtol=1e-5)


def test_who_is_nearest_by_hand():
  a = np.float32([[1, 0], [0, 1], [1, 0]])
  b = np.float32([[0.8, 0.6], [0.6, 0.8], [-1, 0]])
  _, is_first = pair_losses(a, b, np.ones(3, bool), scale=1.0)
  assert is_first.tolist() == [True, True, False]
  # Without the first pair, the third input's nearest is the second target.
  losses, _ = pair_losses(a, b, np.array([False, True, True]), scale=1.0)
  expected, _ = reference(np.float64(a[1:]), np.float64(b[1:]), 1.0)
  np.testing.assert_allclose(losses[1:], expected, rtol=1e-5)


def test_negatives_are_those_of_all_devices():
  config, batch = CONFIGS["bert"], make_batch()
  model = backbones.build(config)
  params = params_of(config)
  step = steps.make_eval_step(model, Contrastive())
  expected = step(params, batch)
  mesh = partitioning.make_mesh(data=2, devices=jax.devices()[:2])
  sharding = partitioning.batch_sharding(mesh)
  with partitioning.under(mesh):
    found = step(
      params, partitioning.place_batch(batch, 4, np.arange(4), sharding)
    )
  for name in ("loss", "first", "weight"):
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
  halves = [
    step(params, {name: x[part] for name, x in batch.items()})
    for part in (slice(2), slice(2, 4))
  ]
  # Half of the negatives make another loss.
  assert abs(sum(x["loss"] for x in halves) - expected["loss"]) > 0.01


def test_its_vectors_and_shapes():
  config, batch = CONFIGS["plain"], make_batch()
  model = backbones.build(config)
  found = Contrastive().predict(model, params_of(config), batch, max_length=1)
  for x, y in zip(found, vectors(config, batch, ""), strict=True):
    np.testing.assert_allclose(x, y / np.linalg.norm(y), atol=1e-5)
  shapes = Contrastive().shapes(config, 4, {"inputs": 6, "targets": 9})
  assert {n: s.shape for n, s in shapes.items()} == {
    n: x.shape for n, x in batch.items()
  }


def test_what_can_not_be():
  for scale in (0, -1, float("inf"), "20"):
    with pytest.raises(ValueError, match=r"scale=.* \(SCALE\); expected a"):
      Contrastive(scale)
  with pytest.raises(ValueError, match="an example a row: use pack=False"):
    Contrastive().converter({}, pack=True)
  config = dataclasses.replace(CONFIGS["plain"], vocab_size=40)
  with pytest.raises(ValueError, match="no 'inputs'; use tasks/pairs.gin"):
    Contrastive().check({}, config)
  with pytest.raises(NotImplementedError, match="a task without metrics"):
    Contrastive().answers(np.zeros((1, 2)))
