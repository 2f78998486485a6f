"""`load_pretrained`: a model and its parameters from a checkpoint folder."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from coda_jax import backbones, partitioning
from coda_jax.checkpoints import assemble, files, formats
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.nn.config import CodaConfig, Conditional


def load_pretrained(
  path: str | os.PathLike[str],
  *,
  coda: CodaConfig | None = None,
  dtype: Any = "float32",
  param_dtype: Any = "float32",
  mesh: Mesh | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
  """Reads a checkpoint, and makes it conditional if asked to.

  Args:
    path: a Hugging Face folder (config.json and safetensors) of a T5 or BERT, a
      checkpoint_N t5x folder, or a folder written by coda_jax, told apart by
      its content; an adapter's folder that names its model; or the name of a
      model: "tiny" and "tiny_coda" come with the package,
      "all-MiniLM-L6-v2" with the extra `minilm`.
    coda: turns the checkpoint into a CoDA model: adapters and routers that the
      file does not have are initialised, the backbone is the file's. None takes
      the model as it is in the file.
    dtype: of the computation, float32 or bfloat16.
    param_dtype: of the returned parameters.
    mesh: of `partitioning.make_mesh`, to put the parameters on; None is one
      device.

  Returns:
    (model, params): a linen module and a nested dict of arrays.

  Raises:
    FileNotFoundError: no such checkpoint.
    ModuleNotFoundError: the package of the named model is not installed.
    ValueError: another format, or leaves that do not fit, all named.
  """
  config, leaves = formats.read(path)
  if coda is not None:
    config = dataclasses.replace(config, coda=coda)
  return from_read(
    config, leaves, str(path), dtype=dtype, param_dtype=param_dtype, mesh=mesh
  )


def model_of(
  path: str | os.PathLike[str],
  *,
  coda: CodaConfig | None = None,
  dtype: Any = "float32",
  head: str | None = None,
  labels: Sequence[str] = (),
  dropout_rate: float | None = None,
  fields: Mapping[str, Any] | None = None,
) -> nn.Module:
  """The model of a checkpoint's size, without parameters.

  So that a run that starts from the checkpoint need not describe it.

  Args:
    path: see `load_pretrained`.
    coda: what is added to the model; None is the plain model.
    dtype: of the computation, float32 or bfloat16.
    head: the head for a task, such as "classification"; None for none.
    labels: names of what the head tells apart, in the order of its logits.
    dropout_rate: of all dropout; None for the checkpoint's rates.
    fields: further ones of its configuration, such as {"remat": True}.

  Raises:
    FileNotFoundError: no such checkpoint.
    ValueError: another format, a model that can't have this head, or one that
      has another head.
  """
  saved = formats.read_config(path)
  changes = {"coda": coda, "dtype": dtype, **saved.without_head()}
  if head is not None:
    if not saved.task_fields:
      raise ValueError(
        f"head={head!r}, but {path} is a {backbones.of(saved).title}, which "
        "has no heads; use another checkpoint, or the files of models/ and "
        "sizes/ of that model"
      )
    if isinstance(labels, str) or not labels:
      raise ValueError(
        f"LABELS={labels!r}; expected the texts of a task's targets in "
        "brackets, such as ('no', 'yes')"
      )
    changes |= {"head": head, "num_labels": len(labels), "labels": labels}
    _check_head(saved, head, tuple(labels), path)
  if dropout_rate is not None:
    known = {field.name for field in dataclasses.fields(saved)}
    for name in known & {"dropout_rate", "attention_dropout_rate"}:
      changes[name] = dropout_rate
  changes |= fields or {}
  with files.naming(path):
    return backbones.build(dataclasses.replace(saved, **changes))


def _check_head(
  saved: Any, head: str, labels: tuple[str, ...], path: Any
) -> None:
  """Refuses a checkpoint whose own head does not fit."""
  if not saved.head_fields:
    return
  own = saved.labels
  reordered = own != labels and set(own) == set(labels)
  if (saved.head, saved.num_labels) == (head, len(labels)) and not reordered:
    return
  raise ValueError(
    f"LABELS={labels}, but {path} has a head for {saved.head}, with "
    f"{saved.num_labels} labels {own or ''}; set LABELS to these, or leave its "
    f"head out with python -m coda_jax.convert --backbone"
  )


def from_read(
  config: Conditional,
  leaves: Mapping[str, Leaf],
  source: str,
  *,
  dtype: Any = "float32",
  param_dtype: Any = "float32",
  mesh: Mesh | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
  """`load_pretrained` of what was read: a shape, and {parameter path: Leaf}.

  Args:
    config: of the model.
    leaves: of the checkpoint.
    source: its name, for messages.
    dtype: see `load_pretrained`.
    param_dtype: see `load_pretrained`.
    mesh: see `load_pretrained`.

  Raises:
    ValueError: leaves that do not fit, all named.
  """
  model = backbones.build(dataclasses.replace(config, dtype=dtype))
  params = assemble.from_leaves(
    model,
    leaves,
    jax.random.key(0),
    source,
    dtype=param_dtype,
    shardings=mesh and partitioning.shardings(model, mesh),
  )
  return model, params
