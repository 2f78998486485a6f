"""Optimizers and learning-rate schedules, from optax, with T5's settings.

An optimizer here is a function from a schedule to an
`optax.GradientTransformation`, so that the trainer can log the learning rate.
"""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from coda_jax import arguments

Schedule = optax.Schedule
Optimizer = Callable[[Schedule], optax.GradientTransformation]


def adafactor(
  learning_rate: Schedule,
  *,
  multiply_by_parameter_scale: bool = True,
  weight_decay: float = 0.0,
  clip_norm: float | None = None,
) -> optax.GradientTransformation:
  """Adafactor as T5 uses it: factored, no momentum, updates clipped to 1.

  Args:
    learning_rate: schedule over steps; relative to each parameter's scale with
      `multiply_by_parameter_scale`.
    multiply_by_parameter_scale: T5's setting is True. False suits new leaves
      that start at zero: a relative step from zero is a very short one.
    weight_decay: times the learning rate.
    clip_norm: global gradient norm to clip to, None for no clipping.

  Source: Shazeer and Stern, 1804.04235.
  """
  transform = optax.chain(
    optax.adafactor(
      learning_rate=None,
      multiply_by_parameter_scale=multiply_by_parameter_scale,
    ),
    # optax.adafactor has already turned the sign around.
    optax.add_decayed_weights(-weight_decay),
    optax.scale_by_learning_rate(learning_rate, flip_sign=False),
  )
  return _clipped(transform, clip_norm)


def adamw(
  learning_rate: Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  weight_decay: float = 0.0,
  clip_norm: float | None = 1.0,
  multiply_by_parameter_scale: bool = False,
) -> optax.GradientTransformation:
  """AdamW, weight decay on everything that is trained.

  Args:
    learning_rate: schedule over steps.
    b1: decay of the first moment.
    b2: decay of the second moment.
    weight_decay: times the learning rate.
    clip_norm: global gradient norm to clip to, None for no clipping.
    multiply_by_parameter_scale: steps relative to each parameter's root mean
      square (at least 1e-3), as Adafactor's are. T5's initial scales lie far
      apart (embeddings 1, queries 1 / sqrt(emb_dim * head_dim)), so that no
      absolute step suits them all.

  Source: Loshchilov and Hutter, 1711.05101; the parameter scale is that of
  Shazeer and Stern, 1804.04235, section 8.
  """
  scale = optax.identity()
  if multiply_by_parameter_scale:
    scale = optax.scale_by_param_block_rms(min_scale=1e-3)
  transform = optax.chain(
    optax.scale_by_adam(b1=b1, b2=b2),
    scale,
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_learning_rate(learning_rate),
  )
  return _clipped(transform, clip_norm)


def constant(value: float = 1e-3) -> Schedule:
  """`value` throughout."""
  arguments.check({"peak": value})
  return optax.constant_schedule(value)


def warmup_cosine(
  peak: float, *, steps: int, warmup_steps: int = 0
) -> Schedule:
  """Linear from 0 to `peak`, then a half cosine to 0 at `steps`."""
  _check_warmup(peak, steps, warmup_steps)
  return optax.warmup_cosine_decay_schedule(0.0, peak, warmup_steps, steps)


def warmup_linear(
  peak: float, *, steps: int, warmup_steps: int = 0
) -> Schedule:
  """Linear from 0 to `peak`, then linear to 0 at `steps`."""
  _check_warmup(peak, steps, warmup_steps)
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, peak, max(warmup_steps, 1)),
      optax.linear_schedule(peak, 0.0, steps - warmup_steps),
    ],
    [warmup_steps],
  )


def rsqrt(base: float = 1.0, *, warmup_steps: int = 10_000) -> Schedule:
  """T5's pretraining schedule: base / sqrt(max(step, warmup_steps))."""
  arguments.check({"warmup_steps": warmup_steps})

  def schedule(step):
    return base / jnp.sqrt(jnp.maximum(step, warmup_steps).astype(jnp.float32))

  return schedule


def _clipped(
  transform: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
  if clip_norm is None:
    return transform
  return optax.chain(optax.clip_by_global_norm(clip_norm), transform)


def _check_warmup(peak: float, steps: int, warmup_steps: int) -> None:
  arguments.check(
    {"peak": peak, "train_steps": steps, "warmup_steps": warmup_steps}
  )
  if not 0 <= warmup_steps < steps:
    raise ValueError(
      f"warmup_steps={warmup_steps} with steps={steps}; expected 0 or more "
      "and below steps"
    )
