"""Answers the inputs of a task, a file or standard input.

python -m coda_jax.infer --gin_file=tasks/text.gin --gin_file=runs/infer.gin \
  --gin.INPUT_PATH=articles.txt --gin.INPUT_TEMPLATE='topic: {text}' \
  --gin.VOCABULARY=tiny \
  --gin.TASK_FEATURE_LENGTHS="{'inputs': 256, 'targets': 8}" \
  --gin.CHECKPOINT_PATH=runs/topic/adapter \
  --gin.INITIAL_CHECKPOINT_PATH=tiny_coda --gin.INFER_OUTPUT_DIR=runs/answers

The same command resumes a killed one. INFER_OUTPUT_DIR=- writes
to standard output, and INPUT_PATH=- reads standard input.
"""

from collections.abc import Sequence

from coda_jax.compiling import command
from coda_jax.inference import predict
from coda_jax.training import tf_iterator

_PROGRAM = "python -m coda_jax.infer"


def main(argv: Sequence[str] | None = None) -> int:
  """Runs `predict.infer` with the bindings of the command line."""
  return command.run(
    predict.infer, command.compile_inference, _PROGRAM, __doc__, argv
  )


if __name__ == "__main__":
  tf_iterator.exit(main())
