"""Compares encoders of texts: what they keep of the dense one, and how fast.

  python -m coda_jax.compare_embeddings --model=all-MiniLM-L6-v2 \
    --adapter=runs/embed_distil/adapter --reductions=3,5 \
    --input=test.jsonl --train=train.jsonl --max_length=256

A row of the tables has a title, a body, and perhaps a topic. A title is to find
its own body among all of them: `first` is how often it is the nearest one,
`mrr` the mean reciprocal rank. `topic` is the accuracy of a logistic
regression, fitted on the encoder's own vectors of --train. `cosine` is that of
the bodies with the dense encoder's. The times are those of --timed bodies,
texts to vectors, taken in turn in one run.

Beside the dense encoder and the adapters stand the cheap ways to be faster: the
dense encoder on the first tokens alone, and the first layers alone. The dense
encoder embeds the titles, which are short; only fewer layers, whose vectors are
others, embed their own.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from coda_jax import analysis, cli, quantization, report
from coda_jax.checkpoints import files, formats, load_adapter, load_pretrained
from coda_jax.data import table_files
from coda_jax.sentences import embedding, retrieval

PROGRAM = "python -m coda_jax.compare_embeddings"

_COLUMNS = (
  ("encoder", "encoder", "{}"),
  ("first", "first_place", "{:.3f}"),
  ("mrr", "mrr", "{:.3f}"),
  ("topic", "topic", "{:.3f}"),
  ("cosine", "cosine", "{:.3f}"),
  ("ms", "ms", "{:.0f}"),
  ("speed-up", "speedup", "{:.2f}x"),
)

Embed = Callable[[Sequence[str]], np.ndarray]


class Texts(NamedTuple):
  """The columns of a table; `topics` is empty without such a column."""

  titles: list[str]
  bodies: list[str]
  topics: list[str]


class Encoder(NamedTuple):
  """An encoder to compare.

  Attributes:
    name: in the table.
    bodies: texts to vectors.
    titles: the same for the queries.
  """

  name: str
  bodies: Embed
  titles: Embed


def read_texts(path: str) -> Texts:
  """Reads the columns title, body and topic of a table.

  Raises:
    ValueError: a row that can't be read or lacks a title or a body.
  """
  table_files.check_ending(path)
  texts = Texts([], [], [])
  for where, row in table_files.read(path):
    if isinstance(row, str):
      raise ValueError(f"{where}: {row}")
    for name, column in zip(
      ("title", "body"), (texts.titles, texts.bodies), strict=True
    ):
      if not isinstance(row.get(name), str):
        raise ValueError(
          f"{where}: {name} is {row.get(name)!r}; expected a text. The columns "
          f"are {sorted(map(str, row))}"
        )
      column.append(row[name])
    if row.get("topic") is not None:
      texts.topics.append(str(row["topic"]))
  if not texts.titles:
    raise ValueError(f"{path} has no rows")
  if texts.topics and len(texts.topics) < len(texts.titles):
    raise ValueError(f"{path}: some rows have a topic, others have none")
  return texts


def encoders(
  model_path: str,
  adapters: Sequence[tuple[str, str]],
  *,
  reductions: Sequence[float],
  first_tokens: Sequence[int],
  first_layers: Sequence[int],
  max_length: int,
  batch_size: int = 32,
  int8: bool = False,
) -> list[Encoder]:
  """The encoders to compare, the dense one first.

  Args:
    model_path: see `load_pretrained`.
    adapters: (name, folder) of adapters that were trained on it.
    reductions: values of r to serve each adapter at; none takes its own.
    first_tokens: lengths to cut texts to, for the dense encoder.
    first_layers: depths of shallow encoders.
    max_length: of a text, in tokens, for all others.
    batch_size: texts that are embedded together.
    int8: also the dense encoder and the adapters with int8 weights.

  Raises:
    ModuleNotFoundError: `int8` needs a package that is not installed.
  """
  sentences = embedding.load_sentences(model_path)
  folder = pathlib.Path(formats.find_folder(model_path))
  model, params = load_pretrained(folder / sentences.encoder.transformer)

  def embed(model, params, length: int = max_length) -> Embed:
    return lambda texts: embedding.embed(
      model,
      params,
      texts,
      sentences,
      max_length=length,
      batch_size=batch_size,
    )

  dense = embed(model, params)
  found = [Encoder("dense", dense, dense)]
  if int8:
    vectors = embed(*quantization.int8(model, params))
    found.append(Encoder("dense, int8 weights", vectors, vectors))
  for name, path in adapters:
    coda, coda_params = load_adapter(path, model, params)
    for r in reductions or (coda.config.coda.reduction,):
      at_r = coda.clone(config=coda.config.with_reduction(r))
      label = f"{name}, r = {r:g}"
      found.append(Encoder(label, embed(at_r, coda_params), dense))
      if int8:
        vectors = embed(*quantization.int8(at_r, coda_params))
        found.append(Encoder(f"{label}, int8 weights", vectors, dense))
  for length in first_tokens:
    cut = embed(model, params, length)
    found.append(Encoder(f"first {length} tokens", cut, dense))
  for depth in first_layers:
    shallow = embed(
      model.clone(
        config=dataclasses.replace(model.config, num_encoder_layers=depth)
      ),
      params,
    )
    found.append(Encoder(f"first {depth} layers", shallow, shallow))
  return found


def compare(
  found: Sequence[Encoder],
  test: Texts,
  train: Texts | None,
  *,
  timed: int,
  repeats: int,
) -> list[dict[str, Any]]:
  """One row of results for each encoder; the first is what others are held to.

  Args:
    found: the encoders.
    test: the texts to judge by.
    train: texts to fit the probe on, None for no probe.
    timed: how many bodies are timed.
    repeats: how often.
  """
  rows = []
  dense = None
  for encoder in found:
    bodies = encoder.bodies(test.bodies)
    dense = bodies if dense is None else dense
    row = {"encoder": encoder.name}
    row |= retrieval.retrieval(encoder.titles(test.titles), bodies)
    if train is not None:
      row["topic"] = retrieval.probe(
        encoder.bodies(train.bodies), train.topics, bodies, test.topics
      )
    if bodies.shape == dense.shape:
      row["cosine"] = retrieval.cosine(bodies, dense)
    rows.append(row)
  some = test.bodies[:timed]
  times = analysis.paired_times(
    {e.name: lambda e=e: e.bodies(some) for e in found}, repeats
  )
  base = float(np.median(times[found[0].name]))
  for row in rows:
    row["ms"] = float(np.median(times[row["encoder"]]))
    row["speedup"] = base / row["ms"]
  return rows


def parser() -> argparse.ArgumentParser:
  """The options of the command line."""
  options = argparse.ArgumentParser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  options.add_argument("--model", required=True, metavar="PATH")
  options.add_argument(
    "--adapter",
    action="append",
    default=[],
    metavar="[NAME=]PATH",
    help="of save_adapter; may be repeated",
  )
  options.add_argument("--reductions", type=_numbers(float), default=[])
  options.add_argument(
    "--input", required=True, metavar="TABLE", help="columns title, body, topic"
  )
  options.add_argument("--train", metavar="TABLE", help="to fit the probe on")
  options.add_argument("--max_length", type=int, default=256)
  options.add_argument("--first_tokens", type=_numbers(int), default=[])
  options.add_argument("--first_layers", type=_numbers(int), default=[])
  options.add_argument("--batch_size", type=int, default=32)
  options.add_argument(
    "--int8", action="store_true", help="also with int8 weights (needs qwix)"
  )
  options.add_argument("--timed", type=int, default=64, help="bodies")
  options.add_argument("--repeats", type=int, default=7)
  options.add_argument("--json", type=pathlib.Path, metavar="FILE")
  return options


def run(options: argparse.Namespace, more: Sequence[Encoder] = ()) -> int:
  """Compares, prints the table and writes the JSON file.

  Args:
    options: see `parser`.
    more: further encoders.

  Returns:
    The exit code.
  """
  adapters = [
    tuple(text.split("=", 1)) if "=" in text else ("CoDA", text)
    for text in options.adapter
  ]
  try:
    test = read_texts(options.input)
    train = read_texts(options.train) if options.train else None
    if train and not (train.topics and test.topics):
      raise ValueError("--train needs the column topic, in --input too")
    found = encoders(
      options.model,
      adapters,
      reductions=options.reductions,
      first_tokens=options.first_tokens,
      first_layers=options.first_layers,
      max_length=options.max_length,
      batch_size=options.batch_size,
      int8=options.int8,
    )
    rows = compare(
      [*found, *more],
      test,
      train,
      timed=options.timed,
      repeats=options.repeats,
    )
  except (ModuleNotFoundError, OSError, ValueError) as error:
    cli.fail(error, PROGRAM)
    return 2
  print(report.table(_COLUMNS, rows))
  if options.json:
    about = {"input": pathlib.Path(options.input).name, "rows": rows}
    about |= {"environment": report.environment()}
    files.write_json(options.json, about)
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Compares what the command line names; returns the exit code."""
  return run(parser().parse_args(argv))


def _numbers(kind: type) -> Callable[[str], list[Any]]:
  return lambda text: [kind(part) for part in text.split(",")]


if __name__ == "__main__":
  sys.exit(main())
