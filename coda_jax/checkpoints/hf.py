"""Hugging Face T5 folders: `config.json` and safetensors, both ways.

Needs neither torch nor transformers. One table maps names, in both directions.
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from coda_jax.checkpoints import files, hf_config, kinds, tensors
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.t5.config import T5Config

CONFIG_FILE = kinds.CONFIG_FILE
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = kinds.HF_INDEX_FILE
SHARD_BYTES = 5 * 10**9
# (name in the file, parameter path, whether the matrix is transposed). {i} is a
# layer; {p} one of q k v o, which we spell out; {w} one of wi wi_0 wi_1 wo.
_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
_TABLE = (
  ("shared.weight", "token_embedder/embedding", False),
  ("lm_head.weight", "decoder/logits_dense/kernel", True),
  *(
    row
    for stack in ("encoder", "decoder")
    for row in (
      (
        f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        f"{stack}/relpos_bias/rel_embedding",
        True,
      ),
      (
        f"{stack}.final_layer_norm.weight",
        f"{stack}/{stack}_norm/scale",
        False,
      ),
    )
  ),
  *(
    (f"{stack}.block.{{i}}.layer.{theirs}.weight", path, transposed)
    for stack, rows in {
      "encoder": (
        ("0.SelfAttention.{p}", "attention/{p}/kernel", True),
        ("0.layer_norm", "pre_attention_layer_norm/scale", False),
        ("1.DenseReluDense.{w}", "mlp/{w}/kernel", True),
        ("1.layer_norm", "pre_mlp_layer_norm/scale", False),
      ),
      "decoder": (
        ("0.SelfAttention.{p}", "self_attention/{p}/kernel", True),
        ("0.layer_norm", "pre_self_attention_layer_norm/scale", False),
        (
          "1.EncDecAttention.{p}",
          "encoder_decoder_attention/{p}/kernel",
          True,
        ),
        ("1.layer_norm", "pre_cross_attention_layer_norm/scale", False),
        ("2.DenseReluDense.{w}", "mlp/{w}/kernel", True),
        ("2.layer_norm", "pre_mlp_layer_norm/scale", False),
      ),
    }.items()
    for theirs, ours, transposed in rows
    for path in (f"{stack}/layers_{{i}}/{ours}",)
  ),
)

# Copies of the embedding that older files hold; and a bias that the first
# release of T5 saved by mistake, which no model uses.
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias"


def read(folder: str | os.PathLike[str]) -> tuple[T5Config, dict[str, Leaf]]:
  """Reads the shape of a model, and its leaves by parameter path.

  A file whose logits share the embedding, but unscaled, or whose own matrix is
  scaled, is read as the same function with a matrix of its own.

  Args:
    folder: with `config.json` and `model.safetensors`, or its shards.

  Returns:
    (config, {parameter path: Leaf}).

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: not a T5 that `Transformer` can be, or a damaged file.
  """
  folder = pathlib.Path(folder)
  fields = files.read_json(folder / CONFIG_FILE)
  found = _read_tensors(folder)
  tied = "lm_head.weight" not in found
  if tied and fields.get("tie_word_embeddings") is False:
    raise ValueError(
      f"{folder} has no lm_head.weight, though {CONFIG_FILE} says "
      "tie_word_embeddings: false; get the checkpoint again"
    )
  with files.naming(folder / CONFIG_FILE):
    scaled = hf_config.scales_outputs(fields)
  config = hf_config.read(
    fields, logits_via_embedding=tied and scaled, source=folder / CONFIG_FILE
  )
  leaves, unknown = {}, []
  for name, leaf in found.items():
    if name in _COPIES or name == f"{_UNUSED}.weight":
      continue
    path, transposed = to_path(name)
    if path is None:
      unknown.append(f"{name} {leaf.shape}")
    else:
      leaves[path] = leaf.transposed() if transposed else leaf
  if unknown:
    raise ValueError(
      f"{folder} has tensors that no T5 has; is it one of another kind, with "
      "changed layers?\n  " + "\n  ".join(unknown)
    )
  if "shared.weight" not in found:
    raise ValueError(f"{folder} has no shared.weight, a T5's embedding")
  for name in _COPIES:
    if name in found and not _equal(found[name], found["shared.weight"]):
      raise ValueError(
        f"{folder}: {name} differs from shared.weight; a T5's encoder and "
        "decoder have one embedding"
      )
  logits = "decoder/logits_dense/kernel"
  if tied and not scaled:
    leaves[logits] = leaves["token_embedder/embedding"].transposed()
  elif scaled and not tied:
    leaves[logits] = leaves[logits].times(config.emb_dim**-0.5)
  return config, leaves


def write(
  folder: str | os.PathLike[str],
  config: T5Config,
  leaves: Mapping[str, Leaf],
  *,
  shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes what `T5ForConditionalGeneration.from_pretrained` reads.

  Args:
    folder: a new one, or empty.
    config: the model's shape.
    leaves: {parameter path: Leaf}, a plain T5's.
    shard_bytes: size that a file of weights may have.

  Raises:
    FileExistsError: the folder holds something.
    ValueError: leaves that a T5 of Hugging Face's does not have.
  """
  folder = pathlib.Path(folder)
  files.check_new(folder)
  check(config, leaves)
  renamed = {}
  for path, leaf in leaves.items():
    name, transposed = to_name(path)
    renamed[name] = leaf.transposed() if transposed else leaf
  fields = hf_config.write(config, _dtype_name(renamed))
  parts = tensors.shards(renamed, shard_bytes)
  metadata = {"format": "pt"}  # What transformers asks for.
  if len(parts) == 1:
    tensors.write(folder / WEIGHTS_FILE, renamed, metadata=metadata)
  else:
    places = {}
    for number, part in enumerate(parts, 1):
      file = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
      tensors.write(folder / file, part, metadata=metadata)
      places |= dict.fromkeys(part, file)
    total = sum(leaf.nbytes for leaf in renamed.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    files.write_json(folder / INDEX_FILE, index)
  files.write_json(folder / CONFIG_FILE, fields)


def check(config: T5Config, leaves: Mapping[str, Any]) -> None:
  """Refuses what Hugging Face's T5 can't be.

  Raises:
    ValueError: leaves or activations that it does not have.
  """
  if unknown := [path for path in leaves if to_name(path)[0] is None]:
    raise ValueError(
      "Hugging Face's T5 has no place for these leaves; convert the backbone "
      "alone (--backbone), and keep the adapter beside it:\n  "
      + "\n  ".join(unknown)
    )
  hf_config.write(config, "float32")


def to_path(name: str) -> tuple[str | None, bool]:
  """(parameter path, transposed) of a tensor's name; None if it has none."""
  for theirs, ours, transposed in _TABLE:
    if match := re.fullmatch(_pattern(theirs, "qkvo"), name):
      values = match.groupdict()
      if "p" in values:
        values["p"] = _ATTENTION[values["p"]]
      return ours.format(**values), transposed
  return None, False


def to_name(path: str) -> tuple[str | None, bool]:
  """(tensor's name, transposed) of a parameter path; None if it has none."""
  letters = {ours: letter for letter, ours in _ATTENTION.items()}
  for theirs, ours, transposed in _TABLE:
    if match := re.fullmatch(_pattern(ours, letters), path):
      values = match.groupdict()
      if "p" in values:
        values["p"] = letters[values["p"]]
      return theirs.format(**values), transposed
  return None, False


def _pattern(template: str, projections: Any) -> str:
  """The regular expression of a name with {i}, {p} and {w}."""
  pattern = re.escape(template)
  for field, values in (
    ("i", r"\d+"),
    ("p", "|".join(projections)),
    ("w", "wi|wi_0|wi_1|wo"),
  ):
    pattern = pattern.replace(rf"\{{{field}\}}", f"(?P<{field}>{values})")
  return pattern


def _read_tensors(folder: pathlib.Path) -> dict[str, Leaf]:
  single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
  if single.exists() and index.exists():
    raise ValueError(
      f"{folder} has both {WEIGHTS_FILE} and {INDEX_FILE}; remove the one that "
      "does not belong to this model"
    )
  if single.exists():
    return tensors.read(single)
  if not index.exists():
    raise FileNotFoundError(_missing_weights(folder))
  places = files.read_json(index).get("weight_map")
  if not isinstance(places, dict) or not places:
    raise ValueError(f"{index} has no weight_map of tensors to files")
  if not all(isinstance(file, str) for file in places.values()):
    raise ValueError(f"{index}: weight_map should map tensors to files' names")
  shards = {}
  for file in sorted(set(places.values())):
    # Nothing outside the folder, whatever the index says.
    if pathlib.PurePath(file).name != file or file in ("", ".", ".."):
      raise ValueError(
        f"{index} names the file {file!r}; expected names without a folder"
      )
    if not (folder / file).is_file():
      raise FileNotFoundError(
        f"{folder / file} is not there, though {index.name} names it; get the "
        "missing shard"
      )
    shards[file] = tensors.read(folder / file)
  absent = [n for n, file in places.items() if n not in shards[file]]
  extra = [n for file in shards for n in shards[file] if places.get(n) != file]
  if absent or extra:
    raise ValueError(
      f"{index} and its files disagree; not in the files: {absent}; not in the "
      f"index: {extra}; get the checkpoint again"
    )
  return {name: shards[file][name] for name, file in places.items()}


def _equal(a: Leaf, b: Leaf) -> bool:
  return a.shape == b.shape and np.array_equal(a.read(), b.read())


def _missing_weights(folder: pathlib.Path) -> str:
  message = f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}"
  pickles = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
  if not pickles:
    return message
  return (
    f"{message}, only {', '.join(pickles)}, which is a pickle and never opened "
    "here. Where you trust the file, turn it into safetensors with\n"
    '  python -c "from transformers import T5ForConditionalGeneration as T5; '
    f"T5.from_pretrained('{folder}').save_pretrained('{folder}-safetensors')\""
  )


def _dtype_name(leaves: Mapping[str, Leaf]) -> str:
  names = {leaf.dtype.name for leaf in leaves.values()}
  return names.pop() if len(names) == 1 else "float32"
