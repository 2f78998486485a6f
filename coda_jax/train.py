"""Trains what gin files describe.

python -m coda_jax.train --gin_file=experiments/tiny_pretrain.gin \
  --gin.MODEL_DIR=runs/tiny
"""

import sys
from collections.abc import Sequence

from coda_jax import cli
from coda_jax.training import loop


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `loop.train` with the bindings of the command line."""
  code = cli.run(loop.train, "python -m coda_jax.train", __doc__, argv)
  if code != 2:  # Bad input leaves no trace.
    cli.write_config("MODEL_DIR")
  return code


if __name__ == "__main__":
  sys.exit(main())
