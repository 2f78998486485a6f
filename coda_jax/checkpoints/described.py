"""A safetensors file and the JSON file that describes it, replaced as one.

Two files can't be renamed at once. So the header of the first file has a copy
of the second file's fields, and both files have the copy's digest. If a
writer is stopped between its two renames, the digests differ, and the copy is
used. Users may edit the JSON file: its digest stays that of the weights.
"""

import hashlib
import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from coda_jax.checkpoints import files, tensors
from coda_jax.checkpoints.leaves import Leaf

_DIGEST = "digest"
_COPY = "description"


def write(
  weights: pathlib.Path,
  description: pathlib.Path,
  leaves: Mapping[str, Leaf],
  fields: Mapping[str, Any],
) -> None:
  """Writes both files; the old ones stay until the new ones are complete.

  Args:
    weights: the safetensors file.
    description: the JSON file.
    leaves: {name: array}.
    fields: JSON-ready values, "format" among them.
  """
  text = json.dumps(fields, sort_keys=True)
  fields = {**fields, _DIGEST: hashlib.sha256(text.encode()).hexdigest()}
  metadata = {"format": fields["format"], _COPY: json.dumps(fields)}
  tensors.write(weights, leaves, metadata=metadata, with_checksums=True)
  files.write_json(description, fields)


def read(weights: pathlib.Path, description: pathlib.Path) -> dict[str, Any]:
  """The fields that describe the weights; warns if they are the copy.

  Raises:
    FileNotFoundError: a file is missing.
    ValueError: a damaged file.
  """
  fields = files.read_json(description)
  copy = tensors.read_metadata(weights).get(_COPY)
  if copy is None:  # An earlier version wrote none.
    return fields
  with files.naming(f"{weights}: its header"):
    inside = json.loads(copy)
    ours = fields.get("format") == inside["format"]
    if not ours or fields.get(_DIGEST) == inside[_DIGEST]:
      return fields
  warnings.warn(
    f"{description} does not match {weights.name}: a save was interrupted. "
    f"Using the copy in the header of {weights.name}.",
    stacklevel=3,
  )
  return inside
