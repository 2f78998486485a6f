"""Exports a model as programs that run without coda_jax.

  python -m coda_jax.export runs/topic/adapter exports/topic --to stablehlo \
    --initial_checkpoint_path tiny_coda --vocabulary tiny \
    --lengths 64,256 --max_length 8

CHECKPOINT is a model folder of any format, or an adapter folder, whose backbone
--initial_checkpoint_path names. TARGET is a new or empty folder. `stablehlo`
takes tokens and needs jax; `saved_model` takes texts and needs tensorflow and
tensorflow_text. Both answer as `coda_jax.generate` does.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from coda_jax import arguments, backbones, cli, decoding
from coda_jax.checkpoints import files, folders
from coda_jax.checkpoints.leaves import DTYPES, leaves_of
from coda_jax.data import texts
from coda_jax.exporting import programs, stablehlo
from coda_jax.version import __version__

PROGRAM = "python -m coda_jax.export"
FORMATS = ("stablehlo", "saved_model")


def export(
  checkpoint_path: str | os.PathLike[str],
  target: str | os.PathLike[str],
  to: str,
  *,
  vocabulary: str,
  lengths: Sequence[int],
  max_length: int,
  initial_checkpoint_path: str | os.PathLike[str] | None = None,
  reduction: float | None = None,
  method: str = "greedy",
  num_beams: int = 4,
  alpha: float = 0.6,
  dtype: str = "float32",
  platforms: Sequence[str] = programs.PLATFORMS,
) -> dict[str, Any]:
  """Exports a model.

  Args:
    checkpoint_path: a model folder of any format, an adapter folder, or the
      name of a shipped model.
    target: a new or empty folder.
    to: one of `FORMATS`.
    vocabulary: an argument of `data.vocabularies.load`.
    lengths: to pad inputs to, in tokens, ascending; one program for each.
    max_length: most tokens to generate, the end token included.
    initial_checkpoint_path: the pretrained model of an adapter.
    reduction: r to run at; None takes the checkpoint's own.
    method: "greedy" or "beam".
    num_beams: see `coda_jax.generate`.
    alpha: see `coda_jax.generate`.
    dtype: of the computation, "float32" or "bfloat16"; parameters are float32.
    platforms: some of `programs.PLATFORMS`, to compile the programs for.

  Returns:
    The manifest, which describes the export; JSON-ready.

  Raises:
    FileNotFoundError: the checkpoint or the vocabulary does not exist.
    FileExistsError: `target` is not empty.
    ModuleNotFoundError: seqio, tensorflow or tensorflow_text is not installed.
    ValueError: invalid arguments, or a checkpoint that does not fit them.
  """
  _check(to, lengths, dtype, platforms)
  arguments.check_generate(
    {"method": method, "num_beams": num_beams, "alpha": alpha}, source=""
  )
  files.check_new(pathlib.Path(target))
  write, loaded = _load_tools(to, vocabulary)
  ((_, model, params),) = folders.load_each(
    [os.fspath(checkpoint_path)], initial_checkpoint_path, dtype=dtype
  )
  if reduction is not None:
    model = backbones.build(model.config.with_reduction(reduction))
  texts.check_vocabulary(loaded, model.config.vocab_size, str(checkpoint_path))
  generate = {
    "max_length": max_length,
    "method": method,
    "num_beams": num_beams,
    "alpha": alpha,
    "eos_id": loaded.eos_id,
  }
  leaves = leaves_of(params)
  lowered = {
    length: programs.lower(
      model, leaves, length, generate=generate, platforms=platforms
    )
    for length in lengths
  }
  manifest = {
    "format": f"coda_jax.export.{to}",
    "coda_jax_version": __version__,
    "generate": generate,
    "lengths": list(lengths),
    "reductions": [
      model.config.layer_reduction(i)
      for i in range(model.config.num_encoder_layers)
    ],
    "dtype": dtype,
    "platforms": list(platforms),
    "vocab_size": loaded.vocab_size,
  }
  with files.aside(pathlib.Path(target)) as folder:
    write(folder, lowered, leaves, loaded, manifest)
  return manifest


def _load_tools(to: str, vocabulary: str) -> tuple[Callable[..., None], Any]:
  """The format's `write`, and the vocabulary."""
  # Imported here: tensorflow takes seconds, and is in an extra.
  with cli.quiet_imports():
    from coda_jax.data import vocabularies

    if to == "saved_model":
      from coda_jax.exporting import saved_model

      write = saved_model.write
    else:
      write = stablehlo.write
  return write, vocabularies.load(vocabulary)


def _check(
  to: str,
  lengths: Sequence[int],
  dtype: str,
  platforms: Sequence[str],
) -> None:
  for name, value, allowed in (
    ("to", to, FORMATS),
    ("dtype", dtype, DTYPES),
  ):
    if value not in allowed:
      raise ValueError(f"{name}={value!r}; expected one of {allowed}")
  if not lengths or min(lengths) < 1 or sorted(set(lengths)) != list(lengths):
    raise ValueError(
      f"lengths={list(lengths)}; expected token counts of 1 or more, each once "
      "and ascending, such as 64,256"
    )
  if not platforms or not set(platforms) <= set(programs.PLATFORMS):
    raise ValueError(
      f"platforms={list(platforms)}; expected some of {programs.PLATFORMS}"
    )


def main(argv: Sequence[str] | None = None) -> int:
  """Exports the model that the command line names; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("checkpoint_path", metavar="CHECKPOINT")
  parser.add_argument("target", metavar="TARGET")
  parser.add_argument("--to", required=True, choices=FORMATS)
  parser.add_argument(
    "--initial_checkpoint_path",
    metavar="PATH",
    help="the pretrained model of an adapter",
  )
  parser.add_argument(
    "--vocabulary",
    required=True,
    help="tiny, byt5, or the path of a SentencePiece model",
  )
  parser.add_argument(
    "--lengths",
    required=True,
    type=_numbers,
    metavar="N,M",
    help="to pad inputs to, in tokens; one program for each",
  )
  parser.add_argument(
    "--max_length",
    required=True,
    type=int,
    help="most tokens to generate, the end token included",
  )
  parser.add_argument(
    "--reduction", type=float, help="r to run at (default: the checkpoint's)"
  )
  parser.add_argument(
    "--method", choices=decoding.DETERMINISTIC, default="greedy"
  )
  parser.add_argument("--num_beams", type=int, default=4, help="of beam search")
  parser.add_argument(
    "--alpha", type=float, default=0.6, help="of beam search's length penalty"
  )
  parser.add_argument(
    "--dtype", choices=DTYPES, default="float32", help="of the computation"
  )
  parser.add_argument(
    "--platforms",
    type=lambda text: text.split(","),
    default=programs.PLATFORMS,
    metavar="A,B",
    help=f"default: {','.join(programs.PLATFORMS)}",
  )
  args = parser.parse_args(argv)
  try:
    manifest = export(**vars(args))
  except ModuleNotFoundError as error:
    print(
      f"{PROGRAM}: {error}; install the `export` extra: "
      "pip install 'coda_jax[export]'",
      file=sys.stderr,
    )
    return 2
  except (OSError, ValueError) as error:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return 2
  print(
    f"wrote {args.target} ({args.to}): inputs of {_join(manifest['lengths'])} "
    f"tokens, {args.method}, for {_join(manifest['platforms'])}"
  )
  return 0


def _numbers(text: str) -> list[int]:
  """Whole numbers with commas between them, for argparse."""
  try:
    return [int(number) for number in text.split(",")]
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"{text!r}; expected whole numbers with commas between, such as 64,256"
    ) from None


def _join(values: Sequence[Any]) -> str:
  return ", ".join(map(str, values))


if __name__ == "__main__":
  sys.exit(main())
