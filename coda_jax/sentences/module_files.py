"""The modules of sentence-transformers that have parameters: their folders."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from coda_jax.checkpoints import files, tensors
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.data import text_settings
from coda_jax.sentences.sentence_encoder import ACTIVATIONS, Dense, LayerNorm

WEIGHTS_FILE = "model.safetensors"
_PICKLE_FILE = "pytorch_model.bin"


def read_dense(
  place: pathlib.Path, name: str, width: int
) -> tuple[Dense, dict[str, np.ndarray]]:
  """Reads the folder of a `Dense`.

  Args:
    place: the module's folder.
    name: of the module, for its parameters.
    width: of the vectors that the module before it gives.

  Returns:
    (module, {name of a parameter: float32 array}).

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a file is damaged, or the module does not fit or is not
      supported.
  """
  source = place / "config.json"
  fields = files.read_json(source)
  check_names(source, fields)
  with files.naming(source):
    module = Dense(
      name,
      text_settings.positive(fields, "in_features"),
      text_settings.positive(fields, "out_features"),
      _activation(fields.get("activation_function", "torch.nn.Tanh")),
      bool(fields.get("use_residual", False)),
    )
    if module.in_dim != width:
      raise ValueError(
        f"in_features is {module.in_dim}, but the module before it gives "
        f"{width}"
      )
    shape = module.out_dim, module.in_dim
    shapes = {"linear.weight": shape}
    if fields.get("bias", True):
      shapes["linear.bias"] = (module.out_dim,)
    if module.residual and module.in_dim != module.out_dim:
      shapes["residual.weight"] = shape
  arrays = _read_weights(place, shapes)
  params = {"kernel": arrays["linear.weight"].T}
  if "linear.bias" in arrays:
    params["bias"] = arrays["linear.bias"]
  if "residual.weight" in arrays:
    params["residual_kernel"] = arrays["residual.weight"].T
  return module, params


def _activation(path: Any) -> str:
  package, _, name = str(path).rpartition(".")
  if package.partition(".")[0] != "torch" or name not in ACTIVATIONS:
    raise ValueError(
      f"activation_function is {path!r}; only torch's "
      f"{', '.join(ACTIVATIONS)} are supported"
    )
  return name


def read_layer_norm(
  place: pathlib.Path, name: str, width: int
) -> tuple[LayerNorm, dict[str, np.ndarray]]:
  """Reads the folder of a `LayerNorm`, as `read_dense` does."""
  source = place / "config.json"
  fields = files.read_json(source)
  with files.naming(source):
    if fields["dimension"] != width:
      raise ValueError(
        f"dimension is {fields['dimension']}, but the module before it gives "
        f"{width}"
      )
  shapes = {"norm.weight": (width,), "norm.bias": (width,)}
  arrays = _read_weights(place, shapes)
  params = {"scale": arrays["norm.weight"], "bias": arrays["norm.bias"]}
  return LayerNorm(name, width), params


def _read_weights(
  place: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
  """The arrays of a module, float32, if they are those expected."""
  path, pickle = place / WEIGHTS_FILE, place / _PICKLE_FILE
  if not path.exists() and pickle.exists():
    raise FileNotFoundError(
      f"{place} has no {WEIGHTS_FILE}, only {_PICKLE_FILE}, which is a pickle "
      "and never opened here. Where you trust the file, turn it into "
      "safetensors with\n"
      '  python -c "import torch; from safetensors.torch import save_file; '
      f"save_file(torch.load('{pickle}', weights_only=True), '{path}')\""
    )
  leaves = tensors.read(path)
  found = {name: leaf.shape for name, leaf in leaves.items()}
  if found != dict(shapes):
    raise ValueError(
      f"{path} holds {found}; its config.json asks for {dict(shapes)}; get "
      "the module again"
    )
  return {name: _float32(leaf) for name, leaf in leaves.items()}


def _float32(leaf: Leaf) -> np.ndarray:
  return leaf.read().astype(np.float32)


def check_names(source: pathlib.Path, fields: Mapping[str, Any]) -> None:
  """Refuses a module that is applied to something else than the embeddings.

  Args:
    source: the module's `config.json`.
    fields: that it holds.

  Raises:
    ValueError: naming the field.
  """
  for key in ("module_input_name", "module_output_name"):
    if fields.get(key) not in (None, "sentence_embedding"):
      raise ValueError(
        f"{source}: {key} is {fields[key]!r}; only 'sentence_embedding' is "
        "supported"
      )
