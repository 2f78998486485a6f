import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.training import optimizers

GRADIENT = np.array([0.3, -2.0, 5.0], np.float32)
VALUE = np.array([1.0, -2.0, 3.0], np.float32)


def first_step(transform):
  params = {"x": jnp.asarray(VALUE)}
  with jax.numpy_dtype_promotion("standard"):  # As the training step does.
    updates, _ = transform.update(
      {"x": jnp.asarray(GRADIENT)}, transform.init(params), params
    )
  return np.asarray(updates["x"])


def test_adafactor_first_step():
  # The second moment starts as the squared gradient: a step of +-1, times the
  # learning rate and the parameter's root mean square.
  rate = optimizers.constant(0.1)
  scale = np.sqrt(np.mean(VALUE**2))
  np.testing.assert_allclose(
    first_step(optimizers.adafactor(rate)),
    -0.1 * scale * np.sign(GRADIENT),
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    first_step(
      optimizers.adafactor(
        rate, multiply_by_parameter_scale=False, weight_decay=0.5
      )
    ),
    -0.1 * (np.sign(GRADIENT) + 0.5 * VALUE),
    rtol=1e-5,
  )


def test_adamw_first_step():
  rate = optimizers.constant(0.1)
  np.testing.assert_allclose(
    first_step(optimizers.adamw(rate, weight_decay=0.5)),
    -0.1 * (np.sign(GRADIENT) + 0.5 * VALUE),
    rtol=1e-5,
  )


def test_adamw_relative_to_the_parameter():
  rate = optimizers.constant(0.1)
  step = first_step(
    optimizers.adamw(rate, multiply_by_parameter_scale=True, clip_norm=None)
  )
  scale = np.sqrt(np.mean(VALUE**2))
  np.testing.assert_allclose(step, -0.1 * scale * np.sign(GRADIENT), rtol=1e-5)


def test_clip_norm():
  # Clipped to 1e-8 of its size, Adam's epsilon halves the step.
  rate = optimizers.constant(0.1)
  norm = np.linalg.norm(GRADIENT)
  clipped = first_step(optimizers.adamw(rate, clip_norm=1e-8))
  expected = GRADIENT / norm * 1e-8
  np.testing.assert_allclose(
    clipped, -0.1 * expected / (np.abs(expected) + 1e-8), rtol=1e-4
  )


@pytest.mark.parametrize(
  ("schedule", "expected"),
  [
    (optimizers.constant(2.0), {0: 2.0, 9: 2.0}),
    (
      optimizers.warmup_linear(2.0, steps=12, warmup_steps=4),
      {0: 0.0, 2: 1.0, 4: 2.0, 8: 1.0, 12: 0.0, 99: 0.0},
    ),
    (optimizers.warmup_linear(2.0, steps=4), {0: 2.0, 2: 1.0, 4: 0.0}),
    (
      optimizers.warmup_cosine(2.0, steps=12, warmup_steps=4),
      {0: 0.0, 2: 1.0, 4: 2.0, 6: 1 + np.cos(np.pi / 4), 8: 1.0, 12: 0.0},
    ),
    (optimizers.rsqrt(warmup_steps=100), {0: 0.1, 100: 0.1, 400: 0.05}),
  ],
)
def test_schedules(schedule, expected):
  for step, value in expected.items():
    with jax.numpy_dtype_promotion("standard"):
      rate = schedule(jnp.asarray(step, jnp.int32))
    np.testing.assert_allclose(rate, value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  "schedule", [optimizers.warmup_linear, optimizers.warmup_cosine]
)
def test_warmup_longer_than_training(schedule):
  with pytest.raises(ValueError, match="warmup_steps=10 with steps=10"):
    schedule(1.0, steps=10, warmup_steps=10)
