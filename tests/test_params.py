"""Trained and frozen leaves by path: split, merge, count, on real trees."""

import jax
import numpy as np
import pytest
from flax import core

from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.t5 import config, network

TREE = {
  "encoder": {
    "layers_0": {
      "attention": {
        "query": {
          "kernel": np.ones((2, 3)),
          "lora": {"a": np.ones(2), "b": np.ones(5)},
        }
      },
      "adapter": {"down": {"kernel": np.ones((2, 1))}},
      "router": {"kernel": np.ones(2)},
      "pre_attention_layer_norm": {"scale": np.ones(2)},
    },
    "encoder_norm": {"scale": np.ones(2)},
  },
  "token_embedder": {"embedding": np.ones((7, 2))},
}
LAYER = "encoder/layers_0"
TASK_PATHS = {
  f"{LAYER}/attention/query/lora/a",
  f"{LAYER}/attention/query/lora/b",
  f"{LAYER}/adapter/down/kernel",
  f"{LAYER}/router/kernel",
  f"{LAYER}/pre_attention_layer_norm/scale",
  "encoder/encoder_norm/scale",
}
BACKBONE_PATHS = {
  f"{LAYER}/attention/query/kernel",
  "token_embedder/embedding",
}


def same(ours, expected):
  assert jax.tree.structure(ours) == jax.tree.structure(expected)
  assert all(jax.tree.leaves(jax.tree.map(np.array_equal, ours, expected)))


def test_paths():
  leaves = params_lib.flatten(TREE)
  assert set(leaves) == TASK_PATHS | BACKBONE_PATHS
  assert (
    leaves[f"{LAYER}/router/kernel"]
    is (TREE["encoder"]["layers_0"]["router"]["kernel"])
  )
  same(params_lib.unflatten(leaves), TREE)
  assert set(params_lib.flatten(core.freeze(TREE))) == set(leaves)


def test_task_patterns_train_what_the_task_owns():
  trained, frozen = params_lib.split(TREE, params_lib.TASK_PATTERNS)
  assert set(params_lib.flatten(trained)) == TASK_PATHS
  assert set(params_lib.flatten(frozen)) == BACKBONE_PATHS
  for path in TASK_PATHS | BACKBONE_PATHS:
    assert params_lib.matches(path, params_lib.TASK_PATTERNS) == (
      path in TASK_PATHS
    )


@pytest.mark.parametrize(
  "path",
  [
    "encoder/adapters/kernel",  # a name that only begins alike
    "encoder/layers_0/my_router/kernel",
    "encoder/layers_0/query/lora",  # a leaf of the name, not under it
    "encoder/encoder_norm/scale/v",  # patterns match whole paths
    "encoder/layers_0/relpos_bias/rel_embedding",  # UMT5's
    "encoder/layer_norm_wrapper/kernel",
  ],
)
def test_task_patterns_match_whole_names(path):
  assert not params_lib.matches(path, params_lib.TASK_PATTERNS)


def test_all_patterns_train_everything():
  trained, frozen = params_lib.split(TREE, params_lib.ALL_PATTERNS)
  same(trained, TREE)
  assert frozen == {}
  same(params_lib.merge(trained, frozen), TREE)


def test_merge_undoes_split():
  trained, frozen = params_lib.split(TREE, params_lib.TASK_PATTERNS)
  same(params_lib.merge(trained, frozen), TREE)
  # As in a loss: traced, differentiated in the trained leaves alone.
  grads = jax.grad(
    lambda trained: sum(
      leaf.sum() for leaf in jax.tree.leaves(params_lib.merge(trained, frozen))
    )
  )(jax.tree.map(np.float32, trained))
  same(grads, trained)


def test_patterns_that_match_nothing():
  dense = {"encoder": {"kernel": np.ones(2)}}
  with pytest.raises(ValueError, match="match none of the 1 .*encoder/kernel"):
    params_lib.split(dense, params_lib.TASK_PATTERNS)
  with pytest.raises(ValueError, match="match none"):
    params_lib.split(TREE, ())


def test_count_needs_no_values():
  assert params_lib.count(TREE) == 6 + 2 + 5 + 2 + 2 + 2 + 2 + 14
  shapes = jax.eval_shape(lambda: TREE)
  assert params_lib.count(shapes) == params_lib.count(TREE)
  assert params_lib.count({}) == 0


def tree_of(**overrides):
  model = network.Transformer(testing.tiny_config(**overrides))
  batch = testing.token_batch(model.config.vocab_size)
  return jax.eval_shape(model.init, jax.random.key(0), **batch)["params"]


def test_frozen_leaves_of_a_coda_model_are_the_dense_backbone():
  dense = params_lib.flatten(tree_of())
  coda = tree_of(coda=config.CodaConfig(reduction=2.0))
  trained, frozen = params_lib.split(coda, params_lib.TASK_PATTERNS)
  trained, frozen = params_lib.flatten(trained), params_lib.flatten(frozen)

  # What CoDA adds is trained; of what was there, the norms alone are.
  norms = {path for path in dense if path.endswith("_norm/scale")}
  assert len(norms) == 2 * 2 + 1 * 3 + 2  # the layers' and the two last ones
  assert set(frozen) == set(dense) - norms
  added = set(trained) - norms
  assert added and added.isdisjoint(dense)
  assert {"adapter", "router"} == {path.split("/")[2] for path in added}
  same(frozen, {path: dense[path] for path in frozen})
