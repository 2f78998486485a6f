"""Compiles variants of a model for slices, until each has one that fits."""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
from jax.sharding import Mesh

from coda_jax import partitioning
from coda_jax.compiling import estimate, topologies
from coda_jax.compiling.variants import Variant

# {name of a program: traces it for a variant and a mesh}.
Programs = Mapping[str, Callable[[Variant, Mesh], jax.stages.Traced]]


def compile_for(
  slices: Sequence[str],
  variants: Sequence[Variant],
  programs: Programs,
  mesh: Mapping[str, int],
  batches: Mapping[str, int],
) -> Iterator[estimate.Row]:
  """Compiles every variant's programs for one slice after another.

  It starts with the smallest slice. A variant whose programs all fit a slice is
  not compiled for larger ones.

  Args:
    slices: names, in any order.
    variants: the variants of a model.
    programs: the programs that each variant needs.
    mesh: {"data", "fsdp", "model"}, one of them -1 for all other devices.
    batches: {name, for messages: examples that a mesh must divide}.

  Yields:
    One row of `estimate.measure` for each program, with {"program", "method",
    "reduction", "reductions" (of the layers), "slice", "chips", "mesh"}.

  Raises:
    ModuleNotFoundError, ValueError: a slice, mesh, model or batch that does not
      fit the others. Raised before anything is compiled.
  """
  # Check all of them first: a typo in the last name should not cost an hour.
  ordered = sorted(map(topologies.get, slices), key=_memory)
  meshes = [_checked_mesh(one, mesh, variants, batches) for one in ordered]
  left = list(variants)
  for where, grid in zip(ordered, meshes, strict=True):
    for variant in tuple(left):
      fits = True
      for name, trace in programs.items():
        row = {
          "program": name,
          "method": variant.method,
          "reduction": variant.reduction,
          "reductions": variant.reductions,
          "slice": where.name,
          "chips": len(where.devices),
          "mesh": " x ".join(
            f"{axis} {size}" for axis, size in grid.shape.items() if size > 1
          )
          or "none",
          **estimate.measure(trace(variant, grid), where.chip, grid.size),
        }
        # Free this program before the next one: both may be large.
        jax.clear_caches()
        gc.collect()
        fits = fits and row["fits"]
        yield row
      if fits:
        left.remove(variant)
    if not left:
      return


def _memory(where: topologies.Slice) -> int:
  return where.chip.hbm_bytes * len(where.devices)


def _checked_mesh(
  where: topologies.Slice,
  sizes: Mapping[str, int],
  variants: Sequence[Variant],
  batches: Mapping[str, int],
) -> Mesh:
  """The mesh of a slice, checked against every model and batch."""
  try:
    mesh = partitioning.mesh_of(sizes, where.devices)
    for name, size in batches.items():
      partitioning.check_batch(size, mesh, name)
    for variant in variants:
      partitioning.shardings(variant.model, mesh)
  except ValueError as error:
    raise ValueError(f"{where.name}: {error}") from error
  return mesh


def summary(rows: Sequence[estimate.Row], slices: Sequence[str]) -> list[str]:
  """A line for each method and r: the smallest slice that fits, and the time.

  Args:
    rows: the rows of `compile_for`.
    slices: the slices that it was given.
  """
  lines = []
  for label, of_label in _by_variant(rows).items():
    last = [row for row in of_label if row["slice"] == of_label[-1]["slice"]]
    if not all(row["fits"] for row in last):
      most = max(row["peak_bytes"] for row in last)
      lines.append(
        f"{label}: does not fit {' or '.join(slices)}; on {last[0]['slice']} "
        f"it needs {most / 2**30:.1f} GiB a chip of "
        f"{last[0]['hbm_bytes'] / 2**30:.2f}"
      )
      continue
    times = "; ".join(
      f"{row['program']} {row['step_ms'][0]:.1f} to {row['step_ms'][1]:.1f} ms"
      for row in last
    )
    lines.append(f"{label}: fits {last[0]['slice']}; {times}")
  return lines


def all_fit(rows: Sequence[estimate.Row]) -> bool:
  """Whether every method and r has a slice that all its programs fit."""
  return all(
    all(row["fits"] for row in rows if row["slice"] == rows[-1]["slice"])
    for rows in _by_variant(rows).values()
  )


def _by_variant(rows: Sequence[estimate.Row]) -> dict[str, list[estimate.Row]]:
  grouped: dict[str, list[estimate.Row]] = {}
  for row in rows:
    r = row["reductions"]
    label = row["method"] + ("" if r == "1" else f", r = {r}")
    grouped.setdefault(label, []).append(row)
  return grouped
