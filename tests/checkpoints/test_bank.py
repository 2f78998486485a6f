import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import coda_jax
from coda_jax import params as params_lib
from coda_jax import testing
from coda_jax.checkpoints.bank import load_bank

CODA = coda_jax.CodaConfig(reduction=2, bottleneck_dim=4)
TASKS = ("news", "mail", "law")
FROZEN = testing.random_params(coda_jax.Transformer(testing.tiny_config()))


def task_params(seed, coda=CODA):
  """A model of which everything that a task owns is random."""
  model = coda_jax.Transformer(testing.tiny_config(coda=coda))
  trained, _ = params_lib.split(
    testing.random_params(model, seed), params_lib.TASK_PATTERNS
  )
  _, frozen = params_lib.split(FROZEN, params_lib.TASK_PATTERNS)
  return model, params_lib.merge(trained, frozen)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  root = tmp_path_factory.mktemp("adapters")
  for seed, name in enumerate(TASKS):
    coda_jax.save_adapter(root / name, *task_params(seed))
  return {name: root / name for name in TASKS}


@pytest.fixture
def bank(folders):
  return load_bank(coda_jax.Transformer(testing.tiny_config()), FROZEN, folders)


def test_each_task_by_name_is_the_model_that_was_saved(bank):
  assert bank.names == TASKS
  batch = testing.token_batch(48)
  traced = []

  @jax.jit
  def logits(params):
    traced.append(None)
    return bank.model.apply({"params": params}, **batch, enable_dropout=False)

  for seed, name in enumerate(TASKS):
    model, params = task_params(seed)
    expected = model.apply({"params": params}, **batch, enable_dropout=False)
    np.testing.assert_allclose(
      logits(bank.params(name)), expected, rtol=1e-5, atol=1e-5
    )
  assert len(traced) == 1  # switching compiles nothing


def test_a_mixed_batch_is_every_example_by_itself(bank):
  tokens = testing.random_tokens((9, 4, 7, 6), 9, 48)
  task_ids = jnp.array([2, 0, 2, 1])

  @jax.jit
  def generated(task_ids, tokens):
    return bank.apply(
      lambda params, rows: coda_jax.generate(
        bank.model, params, rows, max_length=5
      ),
      task_ids,
      tokens,
    )

  found = generated(task_ids, tokens)
  rows = set()
  for row, task in enumerate(task_ids):
    expected = coda_jax.generate(
      bank.model, bank.params(TASKS[task]), tokens[row : row + 1], max_length=5
    )
    np.testing.assert_array_equal(found.tokens[row], expected.tokens[0])
    np.testing.assert_allclose(found.scores[row], expected.scores[0], rtol=1e-4)
    rows.add(tuple(expected.tokens[0].tolist()))
  assert len(rows) > 1


@pytest.mark.parametrize("task_id", [-1, 3, 7])
def test_a_task_that_is_not_there_answers_nothing(bank, task_id):
  """Instead of what another task would have."""
  tokens = testing.random_tokens((9, 4), 9, 48)
  found = bank.apply(
    lambda params, rows: bank.model.apply(
      {"params": params}, rows, enable_dropout=False, method="encode"
    ),
    jnp.array([task_id, 1]),
    tokens,
  )
  assert jnp.isnan(found[0]).all() and jnp.isfinite(found[1]).all()


def test_adding_replacing_and_removing(bank, folders):
  fewer = bank.remove("mail")
  assert fewer.names == ("news", "law") and bank.names == TASKS
  swapped = fewer.add("news", folders["mail"])
  assert swapped.names == ("news", "law")
  again = swapped.add("post", folders["news"])
  assert again.names == ("news", "law", "post")
  for name, original in (("news", "mail"), ("law", "law"), ("post", "news")):
    jax.tree.map(
      np.testing.assert_array_equal, again.params(name), bank.params(original)
    )


def test_how_a_task_was_computed_does_not_matter(bank, tmp_path):
  other = dataclasses.replace(CODA, dispatch="gather")
  coda_jax.save_adapter(tmp_path / "gather", *task_params(7, other))
  assert bank.add("gather", tmp_path / "gather").model == bank.model


def test_tasks_that_do_not_fit(bank, folders, tmp_path):
  other = dataclasses.replace(CODA, reduction=3)
  coda_jax.save_adapter(tmp_path / "r3", *task_params(0, other))
  with pytest.raises(ValueError, match=r"reduction=3.*bank need the same"):
    bank.add("r3", tmp_path / "r3")
  with pytest.raises(KeyError, match="no task 'post'"):
    bank.params("post")
  alone = bank.remove("news").remove("law")
  with pytest.raises(ValueError, match="'mail' is the bank's only task"):
    alone.remove("mail")
  with pytest.raises(ValueError, match="one adapter or more"):
    load_bank(bank.model, FROZEN, {})
