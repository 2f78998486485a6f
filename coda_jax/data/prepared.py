"""Data sets on disk that TensorFlow Datasets (TFDS) has prepared.

Nothing here downloads anything: missing data is an error at once, with the
command that prepares it.
"""

import functools
import os
from collections.abc import Mapping

import seqio
import tensorflow as tf

# Flags that `tfds build` needs besides the name; docs/tasks.md says more.
_FURTHER_FLAGS = {
  "c4": "--beam_pipeline_options=RUNNER_OPTIONS",
  "xsum": "--manual_dir=FOLDER_OF_THE_DOWNLOADED_ARTICLES",
}


def data_dir() -> str:
  """TFDS_DATA_DIR, or TFDS's default folder."""
  return os.path.expanduser(
    os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
  )


def folder(name: str) -> str:
  """The folder of a data set in `data_dir`, prepared or not.

  Args:
    name: with its version, "glue/mnli:2.0.0".

  Raises:
    ValueError: a name without its version.
  """
  path, _, version = name.partition(":")
  if not version:
    raise ValueError(
      f"data set {name!r} lacks its version: expected a name such as"
      " 'glue/mnli:2.0.0'"
    )
  return os.path.join(data_dir(), *path.split("/"), version)


def source(
  name: str, splits: Mapping[str, str] | None = None
) -> seqio.TfdsDataSource:
  """Makes a seqio source of a prepared data set.

  Args:
    name: with its version, "glue/mnli:2.0.0".
    splits: {seqio's name of a split: TFDS's name}; None takes all.

  Raises:
    FileNotFoundError: the data set is not prepared, or lacks one of its files.
    ValueError: a split that is missing or empty.
  """
  where = folder(name)
  if not tf.io.gfile.exists(os.path.join(where, "dataset_info.json")):
    raise FileNotFoundError(_not_prepared(name, where))
  data = seqio.TfdsDataSource(tfds_data_dir=where, read_only=True)
  infos = data.tfds_dataset.info.splits
  wanted = dict(splits) if splits else {split: split for split in infos}
  files = _files(where)
  for split in wanted.values():
    if split not in infos:
      raise ValueError(
        f"{name} has no split {split!r}; {where} has {', '.join(infos)}"
      )
    if not infos[split].num_examples:
      raise ValueError(
        f"split {split!r} of {name} in {where} is empty: expected at least one"
        f" example; prepare it again with `{command(name)} --overwrite`"
      )
    if absent := sorted(set(infos[split].filenames) - files):
      raise FileNotFoundError(
        f"{where} lacks {len(absent)} files of split {split!r}, such as"
        f" {absent[0]}; prepare it again with `{command(name)} --overwrite`"
      )
  return seqio.TfdsDataSource(
    tfds_data_dir=where, splits=wanted, read_only=True
  )


def command(name: str) -> str:
  """The command that prepares a data set where `source` looks."""
  flags = _FURTHER_FLAGS.get(name.partition("/")[0].partition(":")[0])
  words = ["tfds build", name, f"--data_dir={data_dir()}", flags]
  return " ".join(word for word in words if word)


def _not_prepared(name: str, where: str) -> str:
  others = _versions(os.path.dirname(where))
  given = os.environ.get("TFDS_DATA_DIR")
  return (
    f"data set {name} is not prepared: {where} does not exist"
    + (f", only version {', '.join(others)}" if others else "")
    + f" (TFDS_DATA_DIR is {given or 'not set'}). Prepare it with"
    f" `{command(name)}`, or set TFDS_DATA_DIR to the folder that has it"
  )


@functools.lru_cache
def _files(where: str) -> frozenset[str]:
  # mC4 has very many, and each of its languages asks for them.
  return frozenset(tf.io.gfile.listdir(where))


def _versions(where: str) -> list[str]:
  if not tf.io.gfile.isdir(where):
    return []
  return sorted(name.rstrip("/") for name in tf.io.gfile.listdir(where))
