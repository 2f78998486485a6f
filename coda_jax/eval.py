"""Evaluates checkpoints on a task, and times them: accuracy against speed.

python -m coda_jax.eval --gin_file=tasks/bbc_topic.gin \
  --gin_file=runs/eval.gin --gin.VOCABULARY=tiny \
  --gin.CHECKPOINT_PATH=runs/topic/adapter \
  --gin.INITIAL_CHECKPOINT_PATH=tiny_coda --gin.REDUCTIONS='(3, 5, 8, 32)' \
  --gin.EVAL_OUTPUT_DIR=runs/topic_eval
"""

from collections.abc import Sequence

from coda_jax import cli
from coda_jax.compiling import command
from coda_jax.inference import evaluate
from coda_jax.training import tf_iterator

_PROGRAM = "python -m coda_jax.eval"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `evaluate.evaluate` with the bindings of the command line."""
  return command.run(
    evaluate.evaluate,
    command.compile_evaluation,
    _PROGRAM,
    __doc__,
    argv,
    _evaluate,
  )


def _evaluate(argv: Sequence[str]) -> int:
  code = cli.run(evaluate.evaluate, _PROGRAM, __doc__, argv)
  if code != 2:  # Bad input leaves no trace.
    cli.write_config("EVAL_OUTPUT_DIR")
  return code


if __name__ == "__main__":
  tf_iterator.exit(main())
