"""The jitted training and evaluation steps, and the loss."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array

from coda_jax import params as params_lib
from coda_jax.nn import router
from coda_jax.training.state import TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]

# Transformer's arguments, as seqio's EncDecFeatureConverter names them with
# packing; without, the last two pairs are absent.
_MODEL_FEATURES = (
  "encoder_input_tokens",
  "decoder_input_tokens",
  "decoder_target_tokens",
  "encoder_segment_ids",
  "decoder_segment_ids",
  "encoder_positions",
  "decoder_positions",
)


def cross_entropy(
  logits: Array,
  targets: Array,
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
) -> Array:
  """Loss of each target token.

  Args:
    logits: [batch, length, vocab_size], any float dtype; float32 inside.
    targets: int [batch, length].
    z_loss: times the squared log of the softmax's normaliser, which keeps it
      near 1 (Mesh TensorFlow; T5 pretrains with 1e-4).
    label_smoothing: probability spread evenly over the vocabulary.

  Returns:
    float32 [batch, length].
  """
  logits = logits.astype(jnp.float32)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
  if z_loss or label_smoothing:
    log_z = jax.nn.logsumexp(logits, axis=-1)
    uniform = log_z - logits.mean(axis=-1)
    loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    loss += z_loss * jnp.square(log_z)
  return loss


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  *,
  z_loss: float = 0.0,
  label_smoothing: float = 0.0,
  microbatches: int = 1,
  shardings: TrainState | None = None,
) -> Callable[[TrainState, Any, Batch, Array], tuple[TrainState, Metrics]]:
  """Makes the jitted `step(state, frozen, batch, key)`.

  The gradient is taken with respect to `state.trained` alone, and its buffers
  are donated: the state that was passed in is gone afterwards. `key` is the
  run's key; each step folds its number in.

  Args:
    model: of `backbones.build`.
    optimizer: of `state.trained`.
    z_loss: see `cross_entropy`.
    label_smoothing: see `cross_entropy`.
    microbatches: parts of a batch whose gradients are computed one after the
      other and added up, to save memory; the mean is over the whole batch.
    shardings: of the state that it returns, `partitioning.state_shardings`;
      None leaves that to the compiler.
  """

  def sums(trained, frozen, batch, rngs):
    """The loss and metrics, summed over the target tokens of a batch."""
    logits = model.apply(
      {"params": params_lib.merge(trained, frozen)},
      **{name: batch[name] for name in _MODEL_FEATURES if name in batch},
      enable_dropout=True,
      rngs=rngs,
    )
    targets = batch["decoder_target_tokens"]
    loss = cross_entropy(
      logits, targets, z_loss=z_loss, label_smoothing=label_smoothing
    )
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    correct = (logits.argmax(axis=-1) == targets).astype(jnp.float32)
    loss = (loss * weights).sum()
    return loss, {
      "loss": loss,
      "token_accuracy": (correct * weights).sum(),
      "target_tokens": weights.sum(),
      "tokens": weights.sum()
      + (batch["encoder_input_tokens"] > 0).sum().astype(jnp.float32),
    }

  def gradients(trained, frozen, batch, key):
    dropout_key, routing_key = jax.random.split(key)
    rngs = {"dropout": dropout_key, "routing": routing_key}
    return jax.grad(sums, has_aux=True)(trained, frozen, batch, rngs)

  def step(state, frozen, batch, key):
    key = jax.random.fold_in(key, state.step)
    if microbatches == 1:
      gradient, metrics = gradients(state.trained, frozen, batch, key)
    else:

      def add(total, part):
        key, batch = part
        new = gradients(state.trained, frozen, batch, key)
        return jax.tree.map(jnp.add, total, new), None

      parts = (
        jax.random.split(key, microbatches),
        # Each of consecutive rows of every device, so that none is moved.
        jax.tree.map(
          lambda x: jnp.swapaxes(
            x.reshape(-1, microbatches, *x.shape[1:]), 0, 1
          ),
          dict(batch),
        ),
      )
      first = jax.tree.map(lambda x: x[0], parts)
      zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        jax.eval_shape(gradients, state.trained, frozen, first[1], first[0]),
      )
      (gradient, metrics), _ = jax.lax.scan(add, zeros, parts)
    mean = 1 / jnp.maximum(metrics["target_tokens"], 1.0)
    gradient = jax.tree.map(lambda x: x * mean.astype(x.dtype), gradient)
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it.
      updates, opt_state = optimizer.update(
        gradient, state.opt_state, state.trained
      )
    metrics |= {
      "loss": metrics["loss"] * mean,
      "token_accuracy": metrics["token_accuracy"] * mean,
      "grad_norm": optax.tree.norm(gradient),
      "update_norm": optax.tree.norm(updates),
    }
    state = TrainState(
      step=state.step + 1,
      trained=optax.apply_updates(state.trained, updates),
      opt_state=opt_state,
    )
    return state, metrics

  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def make_eval_step(model: nn.Module) -> Callable[[Any, Batch], Metrics]:
  """Makes the jitted `step(params, batch)`, without dropout.

  Its metrics are sums over the batch: `loss`, `token_accuracy` and
  `target_tokens` over target tokens; and, where the model routes,
  `router.routing_statistics` times `input_tokens`.
  """

  def step(params, batch):
    logits, routing = model.apply(
      {"params": params},
      **{name: batch[name] for name in _MODEL_FEATURES if name in batch},
      enable_dropout=False,
      return_routing=True,
    )
    targets = batch["decoder_target_tokens"]
    weights = batch["decoder_loss_weights"].astype(jnp.float32)
    correct = (logits.argmax(axis=-1) == targets).astype(jnp.float32)
    real = batch["encoder_input_tokens"] > 0
    tokens = real.sum().astype(jnp.float32)
    statistics = router.routing_statistics(routing, real)
    return {
      "loss": (cross_entropy(logits, targets) * weights).sum(),
      "token_accuracy": (correct * weights).sum(),
      "target_tokens": weights.sum(),
      "input_tokens": tokens,
      **{f"routing/{k}": v * tokens for k, v in statistics.items()},
    }

  return jax.jit(step)
