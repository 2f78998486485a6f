"""The configuration of CoDA and LoRA, as plain frozen dataclasses."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from coda_jax.nn.checks import check_choice, check_whole

# Fields of a backbone's configuration and of `CodaConfig` that say how a model
# computes, not what it is: the same parameters run with any of them, so files
# leave them out.
COMPUTE = ("dtype", "remat", "scan_layers", "dispatch")

ATTENTIONS = ("k_to_k", "k_to_all")
ROUTERS = ("soft_top_k", "sigmoid", "truncation", "random")
DISPATCHES = ("auto", "gather", "one_hot")


def _names(field: str, values: Any) -> tuple[str, ...]:
  if isinstance(values, str) or not isinstance(values, Sequence):
    raise ValueError(
      f"{field}={values!r}; expected names in brackets, such as ('query',)"
    )
  return tuple(values)


def _pairs(field: str, values: Any) -> tuple[tuple[int, float], ...]:
  try:
    return tuple((i, float(r)) for i, r in values)
  except (TypeError, ValueError):
    raise ValueError(
      f"{field}={values!r}; expected (layer, r) pairs, such as ((0, 1),)"
    ) from None


def _fill(config: Any) -> frozenset[str]:
  """Replaces None by a field's default; returns the names of such fields."""
  unset = [
    field
    for field in dataclasses.fields(config)
    if getattr(config, field.name) is None and field.default is not None
  ]
  for field in unset:
    object.__setattr__(config, field.name, field.default)
  return frozenset(field.name for field in unset)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adaptation of chosen projections (Hu et al., 2106.09685).

  None stands for a field's default, as in `CodaConfig`.

  Attributes:
    rank: inner dimension of the two factors.
    alpha: the delta is scaled by alpha / rank.
    targets: names of the projections that get one: query, key, value, out, wi,
      wi_0, wi_1, wo.
  """

  rank: int = 4
  alpha: float = 4.0
  targets: tuple[str, ...] = ("query", "value")

  def __post_init__(self):
    object.__setattr__(self, "unset", _fill(self))
    targets = _names("LoraConfig.targets", self.targets)
    object.__setattr__(self, "targets", targets)
    check_whole("LoraConfig.rank", self.rank, 1)
    if not isinstance(self.alpha, int | float):
      raise ValueError(f"LoraConfig.alpha={self.alpha!r}; expected a number")


@dataclasses.dataclass(frozen=True)
class CodaConfig:
  """The additions to a pretrained model, and how its tokens are routed.

  None stands for a field's default. A training run that starts from a CoDA
  checkpoint takes these fields from there instead: see `unset`.

  Attributes:
    reduction: r; each routed layer processes ceil(length / r) tokens of a
      sequence. 1 keeps the layer dense, next to its adapter: the parallel
      adapter baseline.
    layer_reductions: (layer, r) pairs that override `reduction`; layer -1 is
      the last one, as in a list.
    attention: "k_to_k" (routed tokens attend to routed tokens) or "k_to_all"
      (to every token).
    router: "soft_top_k", or one of the paper's alternatives, "sigmoid" and
      "truncation", or the baseline "random".
    epsilon: temperature of soft top-k.
    soft_top_k_method: "exact", the closed form, or "iterative", the paper's.
    bottleneck_dim: inner width of the adapters in encoder and decoder; 0 for
      no adapter.
    adapter_scale: times the adapters' output (s of He et al., 2110.04366).
      Their last matrix starts at zero and grows by the learning rate in each
      step, while T5's layers change their input by tens or hundreds.
    convolution: width of a depthwise convolution over the tokens, in the
      bottleneck of the encoder's adapters; 0 for none.
    shared_router: the first layer that routes chooses for all of them: the same
      tokens go through every layer. Otherwise each has a router of its own.
    always_ends: every layer processes the first and the last token of a
      sequence, whatever the router says. Models attend to [CLS], [SEP] or </s>
      where nothing else fits ("attention sinks"); k-to-k attention that lacks
      them is far from the dense layer's.
    lora: low-rank factors on the backbone's projections, or None.
    dispatch: "gather", "one_hot", or "auto", the faster one of the platform.
    unset: names of the fields that were given as None; not a field itself.
  """

  reduction: float = 3.0
  layer_reductions: tuple[tuple[int, float], ...] = ()
  attention: str = "k_to_k"
  router: str = "soft_top_k"
  epsilon: float = 0.03
  soft_top_k_method: str = "exact"
  bottleneck_dim: int = 64
  adapter_scale: float = 1.0
  convolution: int = 0
  shared_router: bool = False
  always_ends: bool = False
  lora: LoraConfig | None = None
  dispatch: str = "auto"

  def __post_init__(self):
    object.__setattr__(self, "unset", _fill(self))
    pairs = _pairs("CodaConfig.layer_reductions", self.layer_reductions)
    for layer, _ in pairs:
      if type(layer) is not int:
        raise ValueError(
          f"CodaConfig.layer_reductions: layer={layer!r}; expected a whole "
          "number"
        )
    if len(dict(pairs)) < len(pairs):
      raise ValueError(
        f"CodaConfig.layer_reductions={pairs} names a layer twice"
      )
    object.__setattr__(self, "layer_reductions", pairs)
    for where, r in [
      ("reduction", self.reduction),
      *((f"layer_reductions of layer {i}", r) for i, r in pairs),
    ]:
      if not (isinstance(r, int | float) and 1 <= r < math.inf):
        raise ValueError(
          f"CodaConfig.{where} is {r!r}; expected 1 (dense) or more, since a "
          "layer processes length / r tokens"
        )
    if not (isinstance(self.epsilon, int | float) and self.epsilon > 0):
      raise ValueError(f"CodaConfig.epsilon={self.epsilon!r}; expected above 0")
    if not (isinstance(s := self.adapter_scale, int | float) and 0 < s < 1e6):
      raise ValueError(
        f"CodaConfig.adapter_scale={s!r}; expected above 0, below a million"
      )
    check_whole("CodaConfig.bottleneck_dim", self.bottleneck_dim, 0)
    check_whole("CodaConfig.convolution", self.convolution, 0)
    for field in ("shared_router", "always_ends"):
      if not isinstance(value := getattr(self, field), bool):
        raise ValueError(
          f"CodaConfig.{field}={value!r}; expected True or False"
        )
    check_choice("CodaConfig.attention", self.attention, ATTENTIONS)
    check_choice("CodaConfig.router", self.router, ROUTERS)
    check_choice(
      "CodaConfig.soft_top_k_method",
      self.soft_top_k_method,
      ("exact", "iterative"),
    )
    check_choice("CodaConfig.dispatch", self.dispatch, DISPATCHES)

  @property
  def method(self) -> str:
    """The method that trains such a model, in the words of configs/methods/."""
    routed = self.reduction > 1 or any(r > 1 for _, r in self.layer_reductions)
    if self.lora:
      return "coda_lora" if routed or self.bottleneck_dim else "lora"
    return "coda" if routed else "adapter"


class Conditional:
  """The part of a backbone's configuration that is about routing.

  A mixin of frozen dataclasses.

  Attributes:
    task_fields: names of the fields that a task owns, as it owns `coda`: those
      of a head. Adapter files have them. Each has a default, for no head.
    coda: what is added to the backbone; None is the plain model.
    num_encoder_layers: depth of the encoder.
    dtype: dtype of the computation, bfloat16 or float32.
    remat: recompute each layer in the backward pass to save memory.
    scan_layers: run the layers as a loop over one, which compiles much sooner
      and costs a copy of their parameters; they must be alike.
  """

  task_fields: ClassVar[tuple[str, ...]] = ()
  coda: CodaConfig | None
  num_encoder_layers: int
  dtype: Any
  remat: bool
  scan_layers: bool

  def check_coda(self, projections: Sequence[str]) -> None:
    """Refuses a `CodaConfig` that does not fit the backbone.

    Args:
      projections: names of those that LoRA may target.

    Raises:
      ValueError: naming the field.
    """
    if self.coda is None:
      return
    depth = self.num_encoder_layers
    layers = [layer for layer, _ in self.coda.layer_reductions]
    for layer in layers:
      if not -depth <= layer < depth:
        raise ValueError(
          f"CodaConfig.layer_reductions names layer {layer}; the encoder has "
          f"layers 0 to {depth - 1}, or {-depth} to -1 from its end"
        )
    if len({layer % depth for layer in layers}) < len(layers):
      raise ValueError(
        f"CodaConfig.layer_reductions={self.coda.layer_reductions} names a "
        f"layer twice, from both ends of {depth} layers"
      )
    if self.scan_layers and (
      self.coda.layer_reductions
      or self.coda.router == "random"
      or self.coda.shared_router
    ):
      raise ValueError(
        f"{type(self).__name__}.scan_layers needs layers that are alike, but "
        f"CodaConfig has layer_reductions={self.coda.layer_reductions}, "
        f"router={self.coda.router!r} and shared_router="
        f"{self.coda.shared_router}; leave them out, or set scan_layers=False"
      )
    routed = {self.layer_reduction(i) for i in range(self.num_encoder_layers)}
    if self.coda.shared_router and len(routed - {1.0}) > 1:
      raise ValueError(
        "CodaConfig.shared_router=True lets all layers process the same "
        f"tokens, but their r differ: {sorted(routed - {1.0})}; give one r to "
        "those that route"
      )
    for target in self.lora.targets if self.lora else ():
      if target not in projections:
        raise ValueError(
          f"LoraConfig.targets has {target!r}; this model's projections are "
          f"{tuple(projections)}"
        )

  @property
  def lora(self) -> LoraConfig | None:
    """Low-rank factors on the projections, None without."""
    return self.coda.lora if self.coda else None

  @classmethod
  def without_head(cls) -> dict[str, Any]:
    """The values of `task_fields` in a model without a head."""
    return {
      field.name: field.default
      for field in dataclasses.fields(cls)
      if field.name in cls.task_fields
    }

  @property
  def head_fields(self) -> dict[str, Any]:
    """The values of `task_fields`; empty without a head."""
    fields = {name: getattr(self, name) for name in self.task_fields}
    return {} if fields == self.without_head() else fields

  @property
  def is_routed(self) -> bool:
    """Whether any encoder layer routes."""
    return any(
      self.layer_reduction(i) > 1 for i in range(self.num_encoder_layers)
    )

  def layer_reduction(self, layer: int) -> float:
    """r of encoder layer number `layer`; 1 is dense."""
    if self.coda is None:
      return 1.0
    depth = self.num_encoder_layers
    own = {i % depth: r for i, r in self.coda.layer_reductions}
    return own.get(layer, float(self.coda.reduction))

  def with_reduction(self, reduction: float) -> Self:
    """The same model at another r, in every encoder layer that routes.

    For serving one set of parameters at several r, and for training it so.
    Layers with an r of their own take this one, dense layers stay dense. At 1
    no token is left out, and the routers are not used: the model is dense,
    with its adapters.

    Raises:
      ValueError: no layer routes, or r is below 1.
    """
    if not self.is_routed:
      raise ValueError(
        f"r = {reduction:g} was asked of a model that does not route tokens; "
        "use methods/coda.gin or methods/coda_lora.gin, with REDUCTION above 1"
      )
    dense = [
      (i, 1.0)
      for i in range(self.num_encoder_layers)
      if self.layer_reduction(i) == 1
    ]
    coda = dataclasses.replace(
      self.coda, reduction=reduction, layer_reductions=tuple(dense)
    )
    return dataclasses.replace(self, coda=coda)
