"""Shows which tokens of your texts a conditional encoder processed.

  python -m coda_jax.show_routing --model=all-MiniLM-L6-v2 \
    --adapter=runs/embed_distil/adapter --input=texts.txt --output=routing.html

The output is one file that needs no other: a page (.html) or a picture (.svg).
It has the first --texts texts of the input, as `embed_file` reads them, without
a prompt. A token is the darker, the more of the layers that route took it.

The exit status is 2 for bad input.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Sequence

from coda_jax import backbones, cli
from coda_jax.checkpoints import files, formats, load_adapter, load_pretrained
from coda_jax.nn.checks import check_whole
from coda_jax.sentences import embedding, shading, text_files

PROGRAM = "python -m coda_jax.show_routing"

_RENDERERS = {".html": shading.page, ".svg": shading.draw}


def show_routing(
  path: str,
  output: str,
  model_path: str,
  *,
  adapter_path: str | None = None,
  reduction: float | None = None,
  column: str = "text",
  count: int = 20,
  max_length: int | None = None,
) -> None:
  """Writes the page or the picture; it replaces one that is there.

  Args:
    path: the texts.
    output: ends in .html or .svg.
    model_path: of the sentence encoder.
    adapter_path: of an adapter on it.
    reduction: r to run at; None takes the encoder's own.
    column: of a table.
    count: the most texts to show, the first ones of the file.
    max_length: see `embedding.embed`.

  Raises:
    ModuleNotFoundError: the model is a package that is not installed.
    OSError, ValueError: arguments, a checkpoint or a row that do not fit.
  """
  target = pathlib.Path(output)
  if target.suffix not in _RENDERERS:
    raise ValueError(
      f"--output={output}; expected a name that ends in {list(_RENDERERS)}"
    )
  check_whole("--texts", count, 1)
  texts = list(itertools.islice(text_files.read(path, column), count))
  if not texts:
    raise ValueError(f"--input={path} has no texts")
  sentences = embedding.load_sentences(model_path)
  folder = pathlib.Path(formats.find_folder(model_path))
  model, params = load_pretrained(folder / sentences.encoder.transformer)
  if adapter_path is not None:
    model, params = load_adapter(adapter_path, model, params)
  if reduction is not None:
    model = backbones.build(model.config.with_reduction(reduction))
  limit = embedding.token_limit(model, sentences.encoder, max_length)
  shaded = shading.pieces(
    model, params, sentences.tokenizer, texts, max_length=limit
  )
  with files.aside(target) as temporary:
    temporary.write_text(_RENDERERS[target.suffix](shaded), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
  """Shows the texts of the command line; returns the exit code."""
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
  parser.add_argument(
    "--output", required=True, metavar="FILE", help="ends in .html or .svg"
  )
  parser.add_argument(
    "--column", default="text", help="of a table (default: text)"
  )
  parser.add_argument("--texts", type=int, default=20, help="default: 20")
  parser.add_argument(
    "--max_length", type=int, help="in tokens (default: the model's)"
  )
  args = parser.parse_args(argv)
  try:
    show_routing(
      args.input,
      args.output,
      args.model,
      adapter_path=args.adapter,
      reduction=args.reduction,
      column=args.column,
      count=args.texts,
      max_length=args.max_length,
    )
  except (ModuleNotFoundError, OSError, ValueError) as error:
    cli.fail(error, PROGRAM)
    return 2
  print(f"wrote {args.output}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
