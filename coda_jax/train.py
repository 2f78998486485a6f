"""Trains what gin files describe.

python -m coda_jax.train --gin_file=experiments/tiny_pretrain.gin \
  --gin.MODEL_DIR=runs/tiny

With --dry_run it builds everything, says what the run would do and cost, and
stops; nothing is written. With --compile_for=v5e:4x4 it compiles the step for
TPUs that are not there, and says what it would need: docs/tpu.md.
"""

import functools
import sys
from collections.abc import Sequence

from coda_jax import cli
from coda_jax.compiling import command
from coda_jax.training import loop

_PROGRAM = "python -m coda_jax.train"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `loop.train` with the bindings of the command line."""
  options, argv = command.take(sys.argv[1:] if argv is None else argv)
  if options:
    compile_it = functools.partial(command.compile_training, options)
    return cli.run(loop.train, _PROGRAM, __doc__, argv, instead=compile_it)
  dry_run = "--dry_run" in argv
  if dry_run:
    argv[argv.index("--dry_run")] = "--gin.loop.train.dry_run=True"
  code = cli.run(loop.train, _PROGRAM, __doc__, argv)
  if code != 2 and not dry_run:  # Bad input leaves no trace.
    cli.write_config("MODEL_DIR")
  return code


if __name__ == "__main__":
  sys.exit(main())
