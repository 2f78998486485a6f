"""Turns the texts of a file into vectors.

  python -m coda_jax.embed_file --model=all-MiniLM-L6-v2 \
    --input=texts.txt --output=vectors.npy

The input is plain text, a text a line, or a table (CSV, TSV, JSON lines,
Parquet, ...), of which --column is embedded. The output ends in .npy, an array
of float32, or in .parquet, with the columns text and vector. A run that was
killed resumes where it stopped.

The exit status is 2 for bad input, which would fail again, and 1 for an error
after which another try may succeed, such as a full disk.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence

from coda_jax import backbones, cli, partitioning
from coda_jax.checkpoints import formats, load_adapter, load_pretrained
from coda_jax.data import table_files
from coda_jax.inference import batching, settings
from coda_jax.inference.progress import Progress
from coda_jax.sentences import embedding, text_files, vector_files

PROGRAM = "python -m coda_jax.embed_file"

# Texts that are sorted by length and written together; a killed run loses at
# most these.
_WINDOW = 2048
# Errors that come again with the same command.
_BAD_INPUT = (
  FileExistsError,
  FileNotFoundError,
  IsADirectoryError,
  ModuleNotFoundError,
  NotADirectoryError,
  PermissionError,
  ValueError,
)


def embed_file(
  path: str,
  output: str,
  model_path: str,
  *,
  adapter_path: str | None = None,
  reduction: float | None = None,
  column: str = "text",
  prompt: str | None = None,
  prompt_name: str | None = None,
  max_length: int | None = None,
  normalise: bool = False,
  batch_size: int = 32,
  dtype: str = "float32",
  mesh: Mapping[str, int] | None = None,
) -> int:
  """Embeds a file; see `embedding.embed` for further arguments.

  Memory holds a window of texts and their vectors, whatever the file's size.

  Args:
    path: the texts.
    output: gets the vectors.
    model_path: of the sentence encoder.
    adapter_path: of an adapter on it.
    reduction: r to run at; None takes the encoder's own.
    column: of a table.
    prompt: see `embed`.
    prompt_name: see `embed`.
    max_length: see `embed`.
    normalise: see `embed`.
    batch_size: texts a batch.
    dtype: of the computation, "float32" or "bfloat16".
    mesh: see `partitioning.mesh_of`.

  Returns:
    How many vectors were written.

  Raises:
    FileExistsError: the output is there already.
    FileNotFoundError, ValueError: arguments, a checkpoint or a row that do not
      fit.
    OSError: the output can't be written. What was computed is kept.
  """
  vector_files.check(output)
  if not os.path.isfile(path):
    raise FileNotFoundError(f"--input={path} is not a file")
  if not path.endswith(".txt"):
    table_files.check_ending(path)
  devices = partitioning.mesh_of(mesh)
  partitioning.check_batch(batch_size, devices)
  sentences = embedding.load_sentences(model_path)
  encoder = sentences.encoder
  folder = pathlib.Path(formats.find_folder(model_path))
  model, params = load_pretrained(
    folder / encoder.transformer, dtype=dtype, mesh=devices
  )
  if adapter_path is not None:
    model, params = load_adapter(adapter_path, model, params)
    config = dataclasses.replace(model.config, dtype=dtype)
    model = model.clone(config=config)
  if reduction is not None:
    model = backbones.build(model.config.with_reduction(reduction))
  depends_on = {
    "--column": column,
    "--prompt": prompt,
    "--prompt_name": prompt_name,
    "--max_length": max_length,
    "--normalise": normalise,
    "--dtype": dtype,
    "--reduction": reduction,
    "--model": settings.of_model(model, params),
    "its tokenizer and pooling": embedding.digest(sentences),
  }
  with vector_files.partial(
    output, encoder.dim, depends_on, _WINDOW
  ) as vectors:
    texts = text_files.read(path, column)
    vectors.skip(texts)
    progress = Progress(done=vectors.done, bar=sys.stderr.isatty())
    if vectors.done:
      progress.say(f"{output} has {vectors.done:,} vectors; continuing")
    try:
      for window in batching.windows(texts, _WINDOW):
        found = embedding.embed(
          model,
          params,
          window,
          sentences,
          prompt=prompt,
          prompt_name=prompt_name,
          max_length=max_length,
          normalise=normalise,
          batch_size=batch_size,
          report=progress.add,
          mesh=devices,
        )
        vectors.add(window, found)
    finally:
      progress.close()
      progress.say(progress.summary())
    vectors.finish(text_files.read(path, column))
    return vectors.done


def _mesh(text: str) -> dict[str, int]:
  """{axis: devices} of "data=4,model=2"."""
  pairs = [part.partition("=") for part in text.split(",")]
  try:
    sizes = {axis.strip(): int(size) for axis, _, size in pairs}
  except ValueError:
    sizes = {}
  if len(sizes) < len(pairs):
    raise argparse.ArgumentTypeError(
      f"{text!r}; expected each axis once, with a whole number, such as "
      "data=4,model=2"
    )
  return sizes


def main(argv: Sequence[str] | None = None) -> int:
  """Embeds the file of the command line; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--model", required=True, metavar="PATH", help="a folder, or a name"
  )
  parser.add_argument("--adapter", metavar="PATH", help="of save_adapter")
  parser.add_argument(
    "--reduction", type=float, metavar="R", help="default: the encoder's own"
  )
  parser.add_argument("--input", required=True, metavar="FILE")
  parser.add_argument("--output", required=True, metavar="FILE")
  parser.add_argument(
    "--column", default="text", help="of a table (default: text)"
  )
  parser.add_argument("--prompt", help="text before each text")
  parser.add_argument("--prompt_name", help="one of the model's prompts")
  parser.add_argument(
    "--max_length", type=int, help="in tokens (default: the model's)"
  )
  parser.add_argument(
    "--normalise", action="store_true", help="scale vectors to length 1"
  )
  parser.add_argument("--batch_size", type=int, default=32, help="default: 32")
  parser.add_argument("--dtype", default="float32", help="or bfloat16")
  parser.add_argument(
    "--mesh",
    type=_mesh,
    metavar="AXIS=N,...",
    help="devices that share the work, such as data=4,model=2; -1 for all",
  )
  args = parser.parse_args(argv)
  try:
    count = embed_file(
      args.input,
      args.output,
      args.model,
      adapter_path=args.adapter,
      reduction=args.reduction,
      column=args.column,
      prompt=args.prompt,
      prompt_name=args.prompt_name,
      max_length=args.max_length,
      normalise=args.normalise,
      batch_size=args.batch_size,
      dtype=args.dtype,
      mesh=args.mesh,
    )
  except _BAD_INPUT as error:
    cli.fail(error, PROGRAM)
    return 2
  except OSError as error:
    cli.fail(error, PROGRAM)
    return 1
  print(f"wrote {count:,} vectors to {args.output}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
