"""Converts a checkpoint to another format, a leaf at a time.

  python -m coda_jax.convert flan-t5-base/ flan-t5-base-t5x/ --to t5x

SOURCE is a Hugging Face, t5x or coda_jax folder, told apart by its content, or
an adapter folder, whose backbone --initial_checkpoint_path names. TARGET is a
new or empty folder. Nothing is written until every leaf of the source has its
place in the target.

t5x keeps no configuration: --coda describes the adapters and routers of a t5x
checkpoint, and a conversion to t5x prints this option.
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

from coda_jax import backbones, initialise
from coda_jax import params as params_lib
from coda_jax.checkpoints import (
  adapter,
  arrays,
  files,
  folders,
  formats,
  hf,
  leaves,
  model_folder,
  t5x,
)
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.data import hf_tokenizer
from coda_jax.nn.config import CodaConfig, Conditional, LoraConfig
from coda_jax.sentences import sentence_transformers

PROGRAM = "python -m coda_jax.convert"
TARGETS = (*formats.FORMATS, "adapter")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


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
) -> tuple[Conditional, dict[str, Leaf]]:
  """Converts a checkpoint; memory holds one leaf at a time.

  Args:
    source: a folder of any format, or an adapter folder.
    target: a new or empty folder; for t5x it may be in a bucket.
    to: the target's format, one of `TARGETS`; "adapter" writes the adapter
      alone, as `coda_jax.save_adapter` does.
    layout: for t5x, one of `t5x.LAYOUTS`.
    step: for t5x, the step of the train state.
    dtype: "float32" or "bfloat16"; None keeps the source's, float16 excepted,
      which becomes float32. An adapter is float32 always.
    shard_bytes: for hf, the largest size of a file of weights.
    backbone: leave adapters, routers and a head out.
    coda: describes the adapters and routers of a t5x checkpoint; other formats
      have their own description.
    initial_checkpoint_path: the pretrained model of an adapter.
    dry_run: check everything, write nothing.

  Returns:
    (config, {parameter path: Leaf}) as they were written.

  Raises:
    FileNotFoundError: `source` has no checkpoint.
    FileExistsError: `target` is not empty.
    OSError: a bucket can't be reached.
    ValueError: the checkpoint can't be read, or the target can't hold it.
  """
  if to != "t5x" and "://" in os.fspath(target):
    raise ValueError(
      f"{target}: only t5x checkpoints can be written to a bucket; write the "
      f"format {to} to a local folder, and copy it"
    )
  config, found = folders.read(source, initial_checkpoint_path)
  if coda is not None:
    if config.coda is not None:
      raise ValueError(
        f"{source} describes its adapters and routers itself; leave --coda out"
      )
    config = dataclasses.replace(config, coda=coda)
  if backbone:
    config = dataclasses.replace(config, coda=None, **config.without_head())
    found = {p: x for p, x in found.items() if not params_lib.is_added(p)}
  elif (
    config.coda is None
    and not config.head_fields
    and any(map(params_lib.is_added, found))
  ):
    raise ValueError(
      f"{source} has adapters or routers, which a t5x checkpoint does not "
      "describe; add --coda with the fields that differ from CodaConfig's "
      """defaults, such as --coda='{"reduction": 5, "bottleneck_dim": 32}', """
      "or --backbone to leave them out"
    )
  model = backbones.build(config)
  expected = params_lib.flatten(initialise.abstract_params(model))
  leaves.check(found, expected, str(source))
  # In the model's order.
  written = {path: _cast(found[path], dtype) for path in expected}
  if to == "hf":
    hf.convert(config, written)
  elif to == "adapter" and config.coda is None:
    raise ValueError(
      f"{source} is a plain {backbones.of(config).title}: it has no adapter to "
      "write"
    )
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
      adapter.write(folder, config, whole)
    else:
      model_folder.write(folder, config, written)
    if to in ("hf", "coda_jax"):
      for place in (initial_checkpoint_path, source):
        if place is not None:
          _copy_others(formats.find_folder(place), folder)
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
    # Keep what another process has written there meanwhile.
    files.check_new(pathlib.Path(target))


def _copy_others(source: Any, target: pathlib.Path) -> None:
  """Copies the tokenizer's files, and those of a sentence encoder."""
  if "://" in str(source):
    return
  for name in (*hf_tokenizer.FILES, *sentence_transformers.files_of(source)):
    file = pathlib.Path(source) / name
    if file.is_file():
      (target / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(file, target / name)


def summary(config: Conditional, written: Mapping[str, Leaf]) -> str:
  """One line that describes a checkpoint."""
  dtypes = sorted({leaf.dtype.name for leaf in written.values()})
  size = sum(leaf.nbytes for leaf in written.values())
  kind = backbones.of(config).title
  if config.coda is not None:
    kind += " with adapters"
  layers = f"{config.num_encoder_layers}"
  if decoder := getattr(config, "num_decoder_layers", 0):
    layers += f" + {decoder}"
  return (
    f"{kind}, {layers} layers, {len(written)} leaves, "
    f"{params_lib.count(written):,} parameters, {size / 1e6:,.1f} MB of "
    f"{' and '.join(dtypes)}"
  )


def configuration(coda: CodaConfig) -> str:
  """The flags of t5x, and ours, that describe a t5x checkpoint."""
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
  """Runs the conversion of the command line; returns the exit code."""
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
    help="for t5x: what it writes today, or the layout of published models",
  )
  parser.add_argument(
    "--step", type=parse_step, default=0, help="for t5x: of the train state"
  )
  parser.add_argument(
    "--dtype", choices=leaves.DTYPES, help="default: the source's"
  )
  parser.add_argument(
    "--max_shard_size",
    type=parse_size,
    default=hf.SHARD_BYTES,
    help="for hf: of a file of weights, such as 500MB (default: 5GB)",
  )
  parser.add_argument(
    "--backbone",
    action="store_true",
    help="leave adapters and routers out",
  )
  parser.add_argument(
    "--coda",
    type=parse_coda,
    metavar="JSON",
    help="for a t5x source: the fields of coda_jax.CodaConfig that differ from "
    "its defaults, such as '{\"reduction\": 5}'",
  )
  parser.add_argument(
    "--initial_checkpoint_path",
    metavar="FOLDER",
    help="the pretrained model of an adapter",
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
  """A step that fits an int32; for argparse.

  Raises:
    argparse.ArgumentTypeError: the text is not such a number.
  """
  if not text.isdecimal() or int(text) >= 2**31:
    raise argparse.ArgumentTypeError(
      f"{text!r} is not a step; expected a whole number, 0 or more"
    )
  return int(text)


def parse_coda(text: str) -> CodaConfig:
  """A `CodaConfig` of the fields in a JSON object; for argparse.

  Raises:
    argparse.ArgumentTypeError: invalid JSON, an unknown field, or a value out
      of range.
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
    argparse.ArgumentTypeError: not a size above 0.
  """
  match = re.fullmatch(r"(\d+)\s*(|KB|MB|GB)", text.strip(), re.IGNORECASE)
  if match is None or not int(match[1]):
    raise argparse.ArgumentTypeError(
      f"{text!r} is not a size; expected a number of bytes, KB, MB or GB"
    )
  return int(match[1]) * _UNITS[match[2].upper()]


if __name__ == "__main__":
  sys.exit(main())
