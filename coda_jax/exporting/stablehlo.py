"""A folder of StableHLO programs, their parameters and a description.

  manifest.json             the manifest of `coda_jax.export`, and the files
  params.safetensors        {parameter path: array}, shared by the programs
  length_128.stablehlo      `jax.export`'s serialization, one for each length
  vocabulary.model          the SentencePiece model with T5's sentinels; bytes
                            need none

jax, numpy and safetensors are enough to run it.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from jax import export as jax_export

from coda_jax.checkpoints import files, tensors
from coda_jax.checkpoints.leaves import Leaf

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "params.safetensors"
VOCABULARY_FILE = "vocabulary.model"


def write(
  folder: pathlib.Path,
  programs: Mapping[int, jax_export.Exported],
  leaves: Mapping[str, Leaf],
  vocabulary: Any,
  manifest: Mapping[str, Any],
) -> None:
  """Writes the folder.

  Args:
    folder: a new one.
    programs: {length of the inputs: what `programs.lower` returned}.
    leaves: {parameter path: array}.
    vocabulary: seqio's.
    manifest: JSON-ready values, to which the files are added.
  """
  folder.mkdir(parents=True)
  tensors.write(folder / WEIGHTS_FILE, leaves, metadata={})
  names = {n: f"length_{n}.stablehlo" for n in programs}
  for n, program in programs.items():
    (folder / names[n]).write_bytes(program.serialize())
  pieces = getattr(vocabulary, "sp_model", None)
  if pieces is not None:
    (folder / VOCABULARY_FILE).write_bytes(pieces)
  fields = {
    **manifest,
    "programs": [{"length": n, "file": file} for n, file in names.items()],
    "calling_convention_version": max(
      program.calling_convention_version for program in programs.values()
    ),
    "params_file": WEIGHTS_FILE,
    # The order of the programs' arguments.
    "params": [
      {"name": p, "shape": list(x.shape), "dtype": x.dtype.name}
      for p, x in sorted(leaves.items())
    ],
    "vocabulary_file": None if pieces is None else VOCABULARY_FILE,
    "jax_version": jax.__version__,
  }
  files.write_json(folder / MANIFEST_FILE, fields)
