"""Trains what gin files describe.

python -m coda_jax.train --gin_file=experiments/tiny_pretrain.gin \
  --gin.MODEL_DIR=runs/tiny

With --dry_run it builds everything, says what the run would do and cost, and
stops; nothing is written. With --compile_for=v5e:4x4 it compiles the step for
TPUs that are not there, and says what it would need: docs/tpu.md.

Of several processes, each is started with --distributed where the platform
tells jax of the others (TPU pods, Slurm), and elsewhere with
--coordinator_address=HOST:PORT, of the first one, --num_processes=N and
--process_id=I.
"""

import argparse
import contextlib
from collections.abc import Sequence

from coda_jax import cli
from coda_jax.compiling import command
from coda_jax.training import failures, hosts, loop, tf_iterator

_PROGRAM = "python -m coda_jax.train"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `loop.train` with the bindings of the command line."""
  return command.run(
    loop.train, command.compile_training, _PROGRAM, __doc__, argv, _train
  )


def _train(argv: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument("--dry_run", action="store_true")
  for option, how in cli.PROCESS_OPTIONS.items():
    parser.add_argument(option, **how)
  args, rest = parser.parse_known_args(argv)
  if args.dry_run:
    rest.append("--gin.loop.train.dry_run=True")
  where = (args.coordinator_address, args.num_processes, args.process_id)
  several = args.distributed or any(x is not None for x in where)
  try:
    with hosts.joined(*where) if several else contextlib.nullcontext():
      tell = failures.tell if several else None
      code = cli.run(loop.train, _PROGRAM, __doc__, rest, on_failure=tell)
      # Bad input leaves no trace.
      if code != 2 and not args.dry_run and hosts.is_first():
        cli.write_config("MODEL_DIR")
      if code and several:
        failures.end(code)
      return code
  except (ValueError, ConnectionError) as error:
    cli.fail(error, _PROGRAM)
    # The others may only be late: worth another try, unlike bad input.
    return 1 if isinstance(error, ConnectionError) else 2


if __name__ == "__main__":
  tf_iterator.exit(main())
