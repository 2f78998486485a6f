"""Converts a checkpoint to another format, a leaf at a time.

  python -m coda_jax.convert flan-t5-base/ flan-t5-base-t5x/ --to t5x

SOURCE is a folder of Hugging Face's, of t5x's or of coda_jax's, told apart by
what is in it, or an adapter's, whose backbone --initial_checkpoint_path names;
TARGET is made, and must not hold anything yet. Nothing is written before every
leaf of the source has its place in the target.

t5x keeps no configuration: --coda gives that of adapters and routers in a
checkpoint of t5x, and converting to t5x prints it.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from coda_jax import params as params_lib
from coda_jax.checkpoints import (
  adapter,
  arrays,
  files,
  folders,
  formats,
  hf,
  initialise,
  leaves,
  model_folder,
  t5x,
)
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.t5.config import T5Config
from coda_jax.t5.network import Transformer

PROGRAM = "python -m coda_jax.convert"
TARGETS = (*formats.FORMATS, "adapter")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
# What lies beside a model of Hugging Face's, and is the tokenizer's.
_TOKENIZER_FILES = (
  "spiece.model",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
)


def convert(
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
  to: str,
  *,
  layout: str = "orbax",
  step: int = 0,
  dtype: str | None = None,
  shard_bytes: int = hf.SHARD_BYTES,
  backbone: bool = False,
  coda: CodaConfig | None = None,
  initial_checkpoint_path: str | os.PathLike[str] | None = None,
  dry_run: bool = False,
) -> tuple[T5Config, dict[str, Leaf]]:
  """Converts a checkpoint; memory holds one leaf at a time.

  Args:
    source: a folder of any format, or an adapter's.
    target: a folder that is not there yet, or empty; one in a bucket for t5x.
    to: the target's format, one of `TARGETS`; "adapter" writes what
      `coda_jax.save_adapter` does, and leaves the backbone behind.
    layout: for t5x, one of `t5x.LAYOUTS`.
    step: for t5x, that of the train state.
    dtype: "float32" or "bfloat16"; None keeps the source's, float16 excepted,
      which becomes float32. An adapter is float32 always.
    shard_bytes: for hf, size that a file of weights may have.
    backbone: leave adapters and routers behind.
    coda: what the adapters and routers in a checkpoint of t5x are; other
      formats say so themselves.
    initial_checkpoint_path: the pretrained model that an adapter goes on.
    dry_run: check everything, write nothing.

  Returns:
    (config, {parameter path: Leaf}) as they were written.

  Raises:
    FileNotFoundError: there is no checkpoint at `source`.
    FileExistsError: `target` holds something.
    OSError: a bucket that can't be reached.
    ValueError: a checkpoint that can't be read, or has no place in the target.
  """
  if to != "t5x" and "://" in os.fspath(target):
    raise ValueError(
      f"{target}: only a checkpoint of t5x is written to a bucket; write the "
      f"format {to} to this machine's disk, and copy it"
    )
  config, found = folders.read(source, initial_checkpoint_path)
  if coda is not None:
    if config.coda is not None:
      raise ValueError(
        f"{source} says itself what its adapters and routers are; leave --coda "
        "out"
      )
    config = dataclasses.replace(config, coda=coda)
  if backbone:
    config = dataclasses.replace(config, coda=None)
    found = {p: x for p, x in found.items() if not initialise.is_added(p)}
  elif config.coda is None and any(map(initialise.is_added, found)):
    raise ValueError(
      f"{source} has adapters or routers, and a checkpoint of t5x does not say "
      "how they are used; add --coda with what differs from CodaConfig's "
      """defaults, such as --coda='{"reduction": 5, "bottleneck_dim": 32}', """
      "or --backbone to leave them behind"
    )
  expected = params_lib.flatten(initialise.abstract_params(Transformer(config)))
  leaves.check(found, expected, str(source))
  # In the model's order, whatever the source's.
  written = {path: _cast(found[path], dtype) for path in expected}
  if to == "hf":
    hf.check(config, written)
  elif to == "adapter" and config.coda is None:
    raise ValueError(f"{source} is a plain T5; it has no adapter to write")
  with arrays.reaching(target):
    files.check_new(arrays.path_of(target))
  whole = written
  if to == "adapter":
    written = adapter.owned(whole)
  if dry_run:
    return config, written
  with _folder(target) as folder:
    if to == "hf":
      hf.write(folder, config, written, shard_bytes=shard_bytes)
    elif to == "t5x":
      t5x.write(folder, written, layout=layout, step=step)
    elif to == "adapter":
      adapter.write(folder, config.coda, whole)
    else:
      model_folder.write(folder, config, written)
    if to in ("hf", "coda_jax"):
      _copy_tokenizer(formats.find_folder(source), folder)
  return config, written


def _cast(leaf: Leaf, dtype: str | None) -> Leaf:
  if dtype is None:
    dtype = "float32" if leaf.dtype == jnp.float16 else leaf.dtype.name
  return leaf.astype(dtype)


@contextlib.contextmanager
def _folder(target: str | os.PathLike[str]) -> Iterator[Any]:
  """A folder to write into, which becomes `target` once it is whole."""
  if "://" in os.fspath(target):
    # A bucket has no rename; t5x writes its commit_success.txt last.
    with arrays.reaching(target):
      yield target
    return
  with files.aside(pathlib.Path(target)) as temporary:
    temporary.mkdir()
    yield temporary
    files.check_new(pathlib.Path(target))  # What came meanwhile stays.


def _copy_tokenizer(source: Any, target: pathlib.Path) -> None:
  for name in _TOKENIZER_FILES:
    file = pathlib.Path(source) / name
    if file.is_file():
      shutil.copyfile(file, target / name)


def summary(config: T5Config, written: Mapping[str, Leaf]) -> str:
  """One line that says what a checkpoint holds."""
  dtypes = sorted({leaf.dtype.name for leaf in written.values()})
  size = sum(leaf.nbytes for leaf in written.values())
  kind = "T5" if config.coda is None else "T5 with adapters"
  return (
    f"{kind}, {config.num_encoder_layers} + {config.num_decoder_layers} layers,"
    f" {len(written)} leaves, {params_lib.count(written):,} parameters,"
    f" {size / 1e6:,.1f} MB of {' and '.join(dtypes)}"
  )


def configuration(coda: CodaConfig) -> str:
  """What to keep beside a checkpoint of t5x: flags for t5x, and for us."""
  flags = [f"--gin_file=methods/{coda.method}.gin"]
  for fields in (coda, coda.lora):
    for name, value in _changed(fields).items():
      if not dataclasses.is_dataclass(value):
        kind = type(fields).__name__
        flags.append(shlex.quote(f"--gin.{kind}.{name}={value!r}"))
  changed = _changed(coda)
  if coda.lora is not None:
    changed["lora"] = _changed(coda.lora)
  return (
    "t5x keeps no configuration of adapters and routers. Run it with\n  "
    + " ".join(flags)
    + "\nand to read the checkpoint, or what t5x makes of it, add\n  "
    + f"--coda={shlex.quote(json.dumps(changed))}"
  )


def _changed(config: Any) -> dict[str, Any]:
  """The fields of a dataclass that are not its defaults; {} for None."""
  if config is None:
    return {}
  return {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
    if getattr(config, field.name) != field.default
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Converts, as the command line says; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("source", metavar="SOURCE")
  parser.add_argument("target", metavar="TARGET")
  parser.add_argument("--to", required=True, choices=TARGETS)
  parser.add_argument(
    "--layout",
    choices=t5x.LAYOUTS,
    default="orbax",
    help="of t5x: what it writes today, or what the published models have",
  )
  parser.add_argument(
    "--step", type=parse_step, default=0, help="of the train state, for t5x"
  )
  parser.add_argument(
    "--dtype", choices=leaves.DTYPES, help="default: the source's"
  )
  parser.add_argument(
    "--max_shard_size",
    type=parse_size,
    default=hf.SHARD_BYTES,
    help="of a file of weights, for hf, such as 500MB (default: 5GB)",
  )
  parser.add_argument(
    "--backbone",
    action="store_true",
    help="leave adapters and routers behind",
  )
  parser.add_argument(
    "--coda",
    type=parse_coda,
    metavar="JSON",
    help="of a checkpoint of t5x: the fields of coda_jax.CodaConfig that are "
    "not its defaults, such as '{\"reduction\": 5}'",
  )
  parser.add_argument(
    "--initial_checkpoint_path",
    metavar="FOLDER",
    help="the pretrained model that an adapter goes on",
  )
  parser.add_argument(
    "--dry_run", action="store_true", help="check, and write nothing"
  )
  args = parser.parse_args(argv)
  try:
    config, written = convert(
      args.source,
      args.target,
      args.to,
      layout=args.layout,
      step=args.step,
      dtype=args.dtype,
      shard_bytes=args.max_shard_size,
      backbone=args.backbone,
      coda=args.coda,
      initial_checkpoint_path=args.initial_checkpoint_path,
      dry_run=args.dry_run,
    )
  except (OSError, ValueError) as error:
    print(f"{PROGRAM}: {error}", file=sys.stderr)
    return 2
  action = "would write" if args.dry_run else "wrote"
  print(f"{action} {args.target} ({args.to}): {summary(config, written)}")
  if args.to == "t5x" and config.coda is not None:
    print(configuration(config.coda))
  return 0


def parse_step(text: str) -> int:
  """A step, as an int32 holds it; for argparse.

  Raises:
    argparse.ArgumentTypeError: it is no such number.
  """
  if not text.isdecimal() or int(text) >= 2**31:
    raise argparse.ArgumentTypeError(
      f"{text!r} is no step; expected a whole number, 0 or more"
    )
  return int(text)


def parse_coda(text: str) -> CodaConfig:
  """A `CodaConfig` of the fields in a JSON object; for argparse.

  Raises:
    argparse.ArgumentTypeError: no JSON, no such field, or a value out of range.
  """
  try:
    fields = json.loads(text)
    if fields.get("lora") is not None:
      fields["lora"] = LoraConfig(**fields["lora"])
    return CodaConfig(**fields)
  except (AttributeError, TypeError, ValueError) as error:
    known = [field.name for field in dataclasses.fields(CodaConfig)]
    raise argparse.ArgumentTypeError(
      f"{text!r}: {error}; expected a JSON object of fields among {known}"
    ) from error


def parse_size(text: str) -> int:
  """Bytes of a size such as "500MB"; for argparse.

  Raises:
    argparse.ArgumentTypeError: no size, or none above 0.
  """
  match = re.fullmatch(r"(\d+)\s*(|KB|MB|GB)", text.strip(), re.IGNORECASE)
  if match is None or not int(match[1]):
    raise argparse.ArgumentTypeError(
      f"{text!r} is no size; expected a number of bytes, KB, MB or GB"
    )
  return int(match[1]) * _UNITS[match[2].upper()]


if __name__ == "__main__":
  sys.exit(main())
