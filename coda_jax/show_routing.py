"""Draws which tokens of your texts a conditional encoder processed.

  python -m coda_jax.show_routing --model=all-MiniLM-L6-v2 \
    --adapter=runs/embed_distil/adapter --input=texts.txt --output=routing.svg

The picture has the first --texts texts of the file, as `embed_file` reads them.
A token is the darker, the more of the layers that route took it.
"""

import argparse
import itertools
import pathlib
import sys
from collections.abc import Sequence

from coda_jax import cli
from coda_jax.checkpoints import files, formats, load_adapter, load_pretrained
from coda_jax.sentences import embedding, shading, text_files

PROGRAM = "python -m coda_jax.show_routing"


def main(argv: Sequence[str] | None = None) -> int:
  """Draws the texts of the command line; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "--model", required=True, metavar="PATH", help="a folder, or a name"
  )
  parser.add_argument("--adapter", metavar="PATH", help="of save_adapter")
  parser.add_argument("--input", required=True, metavar="FILE")
  parser.add_argument("--output", required=True, metavar="FILE.svg")
  parser.add_argument("--column", default="text", help="of a table")
  parser.add_argument("--texts", type=int, default=3, help="default: 3")
  parser.add_argument("--max_length", type=int, default=256, help="in tokens")
  args = parser.parse_args(argv)
  try:
    if not args.output.endswith(".svg"):
      raise ValueError(f"--output={args.output} must end in .svg")
    texts = list(
      itertools.islice(text_files.read(args.input, args.column), args.texts)
    )
    if not texts:
      raise ValueError(f"--input={args.input} has no texts")
    sentences = embedding.load_sentences(args.model)
    folder = pathlib.Path(formats.find_folder(args.model))
    model, params = load_pretrained(folder / sentences.encoder.transformer)
    if args.adapter is not None:
      model, params = load_adapter(args.adapter, model, params)
    picture = shading.draw(
      [
        shading.pieces(
          model,
          params,
          sentences.tokenizer,
          text,
          max_length=args.max_length,
        )
        for text in texts
      ]
    )
    with files.aside(pathlib.Path(args.output)) as temporary:
      temporary.write_text(picture, encoding="utf-8")
  except (OSError, ValueError) as error:
    cli.fail(error, PROGRAM)
    return 2
  print(f"wrote {args.output}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
