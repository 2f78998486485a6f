r"""Makes what t5x.export wrote readable to the released TensorFlow.

  python -m coda_jax.under_t5x.saved_model exports/topic_cpu/1

jax writes a newer StableHLO than TensorFlow 2.21 reads: it writes top_k, which
routers and beam search use, as an operation that TensorFlow does not know. This
program rewrites the folder's programs in TensorFlow's version, in place.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from coda_jax.checkpoints import files

PROGRAM = "python -m coda_jax.under_t5x.saved_model"
FILE = "saved_model.pb"


def convert(folder: str | os.PathLike[str]) -> int:
  """Rewrites every program of a SavedModel in TensorFlow's version.

  Args:
    folder: of a SavedModel; its `saved_model.pb` is replaced.

  Returns:
    How many programs there are.

  Raises:
    FileNotFoundError: no SavedModel is there.
    ModuleNotFoundError: tensorflow is not installed.
    OSError: the file is damaged.
    ValueError: it has no such programs.
  """
  from tensorflow.python.saved_model import loader_impl

  from coda_jax.exporting import portable

  path = pathlib.Path(folder) / FILE
  if not path.is_file():
    raise FileNotFoundError(
      f"{path} does not exist; pass the folder that t5x.export wrote, whose "
      "path ends in _cpu/ and a number"
    )
  model = loader_impl.parse_saved_model(os.fspath(folder))
  programs = [
    node.attr["module"]
    for graph in model.meta_graphs
    for function in graph.graph_def.library.function
    for node in function.node_def
    if node.op == "XlaCallModule"
  ]
  if not programs:
    raise ValueError(
      f"{path} contains no jax program; pass a SavedModel of t5x.export"
    )
  for program in programs:
    program.s = portable.for_tensorflow(program.s)
  with files.aside(path) as temporary:
    temporary.write_bytes(model.SerializeToString())
  return len(programs)


def main(argv: Sequence[str] | None = None) -> int:
  """Converts the folder that the command line names; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("folder", metavar="FOLDER")
  args = parser.parse_args(argv)
  try:
    count = convert(args.folder)
  except (ModuleNotFoundError, OSError, ValueError) as error:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return 2
  print(f"converted {count} programs in {args.folder}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
