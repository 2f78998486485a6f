"""One checkpoint or a folder of them: models, adapters, runs."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh

from coda_jax import params as params_lib
from coda_jax.checkpoints import (
  adapter,
  arrays,
  formats,
  run,
  tensors,
)
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.checkpoints.pretrained import from_read, load_pretrained
from coda_jax.nn.config import Conditional


def is_adapter(path: str | os.PathLike[str]) -> bool:
  """Whether a folder holds an adapter of `save_adapter`."""
  with arrays.reaching(path):
    return (arrays.path_of(path) / adapter.CONFIG_FILE).exists()


def find(path: str | os.PathLike[str]) -> list[str]:
  """The checkpoints at `path`: itself, or else its subfolders that hold one.

  Args:
    path: a model folder of any format, an adapter folder, a run's
      `checkpoints/N`, a name in `formats.SHIPPED`, or a folder of such folders.

  Returns:
    Their paths, in natural order: checkpoint_900 before checkpoint_1000.

  Raises:
    FileNotFoundError: no checkpoint was found.
  """
  if _holds_checkpoint(path):
    return [os.fspath(path)]
  folder = arrays.path_of(path)
  children = folder.iterdir() if folder.is_dir() else ()
  paths = [
    os.fspath(child)
    for child in children
    if child.is_dir()
    and not child.name.startswith(".")
    and ".orbax-checkpoint-tmp" not in child.name  # Incomplete.
    and _holds_checkpoint(child)
  ]
  if not paths:
    raise FileNotFoundError(
      f"no checkpoint found in {path} and its subfolders; expected a model "
      "folder (coda_jax, Hugging Face or t5x), an adapter folder, a run's "
      f"checkpoints/N, a folder of such folders, or one of {formats.SHIPPED}"
    )
  return sorted(paths, key=_natural)


def check(
  paths: Sequence[str], backbone_path: str | os.PathLike[str] | None
) -> None:
  """Opens every checkpoint, to find a damaged one before the work starts.

  Args:
    paths: the result of `find`.
    backbone_path: the pretrained model of the adapters; None is what each of
      them names.

  Raises:
    FileNotFoundError, ValueError: a file is missing, incomplete or of an
      unknown format, or an adapter has no backbone.
  """
  for path in paths:
    if run.is_run(path):
      if not run.is_whole(path):
        _backbone_of(path, backbone_path)
      continue
    if not is_adapter(path):
      formats.read(path)
      continue
    adapter.read_config(path)
    tensors.read(pathlib.Path(path) / adapter.WEIGHTS_FILE)
    if backbone_path is None:
      formats.read(_backbone_of(path, None))
  if backbone_path is not None:
    formats.read(backbone_path)


def read_config(
  path: str | os.PathLike[str], backbone_path: str | os.PathLike[str] | None
) -> Conditional:
  """The configuration of `read`, without hashing the backbone.

  Raises:
    FileNotFoundError, ValueError: see `check`.
  """
  if run.is_run(path):
    return run.read_config(path)
  if not is_adapter(path):
    return formats.read_config(path)
  fields = adapter.read_config(path)
  base = formats.read_config(_backbone_of(path, backbone_path))
  return adapter.configured(path, fields, base)


def read(
  path: str | os.PathLike[str], backbone_path: str | os.PathLike[str] | None
) -> tuple[Conditional, dict[str, Leaf]]:
  """`formats.read`, of an adapter or a run on its backbone too.

  Args:
    path: one path of `find`.
    backbone_path: the pretrained model of an adapter; None is what it names.

  Returns:
    (config, {parameter path: Leaf}) of the whole model.

  Raises:
    FileNotFoundError, ValueError: see `check`; or an adapter of another
      backbone.
  """
  if run.is_run(path):
    check([path], backbone_path)
    return run.read(path, backbone_path)
  if not is_adapter(path):
    return formats.read(path)
  return formats.read_adapted(path, _backbone_of(path, backbone_path))


def load_each(
  paths: Sequence[str],
  backbone_path: str | os.PathLike[str] | None,
  *,
  dtype: Any = "float32",
  mesh: Mesh | None = None,
) -> Iterator[tuple[str, nn.Module, dict[str, Any]]]:
  """Loads checkpoints one after the other.

  The backbone of adapters is read and hashed once, and shared by all of them
  that follow each other.

  Args:
    paths: the result of `find`.
    backbone_path: the pretrained model of the adapters; None is what each of
      them names.
    dtype: of the computation, float32 or bfloat16.
    mesh: see `load_pretrained`; an adapter's own parameters are small, and
      stay on one device.

  Yields:
    (path, model, params).

  Raises:
    FileNotFoundError, ValueError: see `check`; or an adapter of another
      backbone.
  """
  check(paths, backbone_path)
  loaded, backbone = None, None
  for path in paths:
    if run.is_run(path):
      config, leaves = run.read(path, backbone_path)
      yield path, *from_read(config, leaves, path, dtype=dtype, mesh=mesh)
      continue
    if not is_adapter(path):
      yield path, *load_pretrained(path, dtype=dtype, mesh=mesh)
      continue
    if loaded != (needed := _backbone_of(path, backbone_path)):
      base, params = load_pretrained(needed, dtype=dtype, mesh=mesh)
      loaded = needed
      fingerprint = adapter.backbone_fingerprint(params)
      _, frozen = params_lib.split(params, params_lib.TASK_PATTERNS)
      backbone = base, frozen, fingerprint
    base, frozen, fingerprint = backbone
    model, trained = adapter.read_trained(
      path, adapter.read_config(path), base, fingerprint
    )
    yield path, model, params_lib.merge(trained, frozen)


def _backbone_of(
  path: str | os.PathLike[str], backbone_path: str | os.PathLike[str] | None
) -> str | os.PathLike[str]:
  """The pretrained model of an adapter or a run: given, or named by itself."""
  if backbone_path is not None:
    return backbone_path
  if is_adapter(path):
    with contextlib.suppress(FileNotFoundError):
      return adapter.base_model_of(path, adapter.read_config(path))
  raise ValueError(
    f"{path} needs its backbone: set INITIAL_CHECKPOINT_PATH to the "
    "pretrained model that it was trained on"
  )


def _holds_checkpoint(path: str | os.PathLike[str]) -> bool:
  if is_adapter(path) or run.is_run(path):
    return True
  try:
    formats.detect(path)
  except FileNotFoundError:
    return False
  except ValueError:
    return True  # It is damaged; reading it raises an error that says how.
  return True


def _natural(path: str) -> list[tuple[int, str]]:
  name = path.rstrip("/").rsplit("/", 1)[-1]
  return [
    (int(part), "") if part.isdigit() else (-1, part)
    for part in re.split(r"(\d+)", name)
  ]
