"""What follows the transformer in a sentence encoder: pooling and so on.

The modules are those of sentence-transformers, see
`coda_jax.sentences.sentence_transformers`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from coda_jax.sentences import pooling

# {last part of torch's class path: the function}.
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "Identity": lambda x: x,
  "Tanh": jnp.tanh,
  "ReLU": jax.nn.relu,
  "GELU": functools.partial(jax.nn.gelu, approximate=False),
  "SiLU": jax.nn.silu,
  "Sigmoid": jax.nn.sigmoid,
}
_LAYER_NORM_EPSILON = 1e-5

Params = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Pooling:
  """Sentence embeddings from those of tokens, see `coda_jax.sentences.pooling`.

  Attributes:
    dim: width of a token's embedding.
    modes: of `pooling.MODES`, in the order in which the results are joined.
    include_prompt: whether the tokens of a prompt are pooled too.
  """

  dim: int
  modes: tuple[str, ...] = ("mean",)
  include_prompt: bool = True

  @property
  def out_dim(self) -> int:
    """Width of the result."""
    return self.dim * len(self.modes)


@dataclasses.dataclass(frozen=True)
class Dense:
  """A linear layer and an activation.

  Its parameters are kernel, float32 [in_dim, out_dim]; bias, float32 [out_dim],
  if it has one; and residual_kernel, float32 [in_dim, out_dim], if the residual
  needs one.

  Attributes:
    name: of its entry in the parameters, its place in `modules.json`.
    in_dim: width of the input.
    out_dim: width of the output.
    activation: Identity, Tanh, ReLU, GELU (the exact one), SiLU or Sigmoid.
    residual: whether the input is added to the result, through a kernel of its
      own if the widths differ.
  """

  name: str
  in_dim: int
  out_dim: int
  activation: str = "Tanh"
  residual: bool = False

  def __call__(
    self, params: Mapping[str, jax.Array], x: jax.Array
  ) -> jax.Array:
    """Applies it to float32 [batch, in_dim]: float32 [batch, out_dim]."""
    y = _matmul(x, params["kernel"])
    if "bias" in params:
      y = y + params["bias"][None]
    y = ACTIVATIONS[self.activation](y)
    if not self.residual:
      return y
    if self.in_dim == self.out_dim:
      return y + x
    return y + _matmul(x, params["residual_kernel"])


@dataclasses.dataclass(frozen=True)
class LayerNorm:
  """A layer norm; its parameters are scale and bias, float32 [out_dim].

  Attributes:
    name: of its entry in the parameters, its place in `modules.json`.
    out_dim: width of input and output.
  """

  name: str
  out_dim: int

  def __call__(
    self, params: Mapping[str, jax.Array], x: jax.Array
  ) -> jax.Array:
    """Applies it to float32 [batch, out_dim], with the same result type."""
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(x * x, axis=-1, keepdims=True)
    x = x / jnp.sqrt(variance + _LAYER_NORM_EPSILON)
    return x * params["scale"][None] + params["bias"][None]


@dataclasses.dataclass(frozen=True)
class Normalize:
  """Scales embeddings to length 1, see `pooling.normalise`.

  Attributes:
    out_dim: width of input and output.
  """

  out_dim: int


@dataclasses.dataclass(frozen=True)
class SentenceEncoder:
  """All of a sentence-transformers model but its transformer.

  Attributes:
    pooling: the first module after the transformer.
    modules: the modules after it, in the order in which they apply.
    transformer: folder of the transformer and the tokenizer, inside the
      model's folder: "" or a name such as "0_Transformer".
    max_length: tokens of the longest text, prompt and special tokens included;
      longer texts are cut. None if the folder has no limit.
    lower_case: whether texts are put in lower case before the tokenizer.
    prompts: {name: text before each text, spaces included}.
    default_prompt_name: the prompt that a text gets if the caller chooses none.
    truncate_dim: how many values of an embedding are kept, or None for all.
      The cut is made after the last module, and no norm follows.
    similarity: name of the similarity that the model was made for, or None.
  """

  pooling: Pooling
  modules: tuple[Dense | LayerNorm | Normalize, ...] = ()
  transformer: str = ""
  max_length: int | None = None
  lower_case: bool = False
  prompts: Mapping[str, str] = dataclasses.field(
    default_factory=dict, hash=False
  )
  default_prompt_name: str | None = None
  truncate_dim: int | None = None
  similarity: str | None = None

  @property
  def dim(self) -> int:
    """Width of the embeddings."""
    last = self.modules[-1] if self.modules else self.pooling
    return min(last.out_dim, self.truncate_dim or last.out_dim)

  def prompt(self, text: str | None = None, *, name: str | None = None) -> str:
    """The text to put before each text.

    Args:
      text: a prompt of the caller's own, used as it is; "" for none.
      name: one of `prompts`.

    Returns:
      That prompt; without either, the model's default prompt, or "".

    Raises:
      ValueError: both are given, or the model has no prompt of this name.
    """
    if text is not None and name is not None:
      raise ValueError(
        f"both a prompt {text!r} and the name of one, {name!r}; expected one "
        "of them"
      )
    if text is not None:
      return text
    name = self.default_prompt_name if name is None else name
    if name is None:
      return ""
    if name not in self.prompts:
      known = ", ".join(map(repr, self.prompts)) or "none"
      raise ValueError(
        f"no prompt {name!r}; the model has these names: {known}. A prompt "
        "that only its documentation names can be given as a text"
      )
    return self.prompts[name]

  def apply(
    self,
    params: Params,
    hidden: jax.Array,
    mask: jax.Array,
    *,
    prompt_length: int | jax.Array = 0,
    normalise: bool = False,
  ) -> jax.Array:
    """Sentence embeddings from the transformer's last hidden states.

    A pure function; the encoder itself may be a static argument of `jax.jit`.

    Args:
      params: the parameters of the modules, see `read`.
      hidden: float [batch, length, d].
      mask: bool or integer [batch, length], of the tokens.
      prompt_length: tokens of the prompt at the start of each row, a number or
        int32 [batch]; counts only for a model that does not pool its prompt.
      normalise: scale the result to length 1 in the end, after the cut to
        `truncate_dim`.

    Returns:
      float32 [batch, self.dim]; finite for a row without tokens.

    Raises:
      ValueError: hidden states of another width.
    """
    if hidden.shape[-1] != self.pooling.dim:
      raise ValueError(
        f"hidden states of width {hidden.shape[-1]}; the model's pooling "
        f"expects {self.pooling.dim}; is it another transformer?"
      )
    x = pooling.pool(
      hidden,
      mask,
      self.pooling.modes,
      prompt_length=0 if self.pooling.include_prompt else prompt_length,
    )
    for module in self.modules:
      if isinstance(module, Normalize):
        x = pooling.normalise(x)
      else:
        x = module(params[module.name], x)
    x = x[:, : self.dim]
    return pooling.normalise(x) if normalise else x


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
  # Without it, GPUs and TPUs round float32 factors.
  return jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
