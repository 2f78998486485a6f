"""Compares coda_jax with what else makes an encoder of texts fast on a CPU.

As `python -m coda_jax.compare_embeddings`, whose options it takes, with more
rows: sentence-transformers in torch, ONNX Runtime in float32 and with dynamic
int8, a shallow student that sentence-transformers trains (--student), and the
static vectors of model2vec. All have the same texts, the same length and the
same number of threads, and are timed in turn.

  pip install sentence-transformers onnx onnxruntime 'model2vec[distill]'
  python scripts/compare_encoders.py --model=all-MiniLM-L6-v2 \
    --adapter=runs/embed_distil/adapter --input=data/retrieval/news-test.jsonl
"""

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from onnxruntime import InferenceSession, SessionOptions, quantization
from sentence_transformers import SentenceTransformer

from coda_jax import compare_embeddings
from coda_jax.checkpoints import formats
from coda_jax.compare_embeddings import Encoder

BATCH_SIZE = 32
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class _Hidden(torch.nn.Module):
  """A transformer whose only result is its last hidden state."""

  def __init__(self, transformer: torch.nn.Module):
    super().__init__()
    self.transformer = transformer

  def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
    named = dict(zip(_INPUTS, inputs, strict=True))
    return self.transformer(**named).last_hidden_state


def torch_encoder(path: str, max_length: int) -> SentenceTransformer:
  """The model as sentence-transformers runs it."""
  model = SentenceTransformer(path, device="cpu")
  model.max_seq_length = max_length
  return model


def in_torch(name: str, model: SentenceTransformer) -> Encoder:
  """A row for a model of sentence-transformers."""

  def embed(texts: Sequence[str]) -> np.ndarray:
    return model.encode(
      list(texts), batch_size=BATCH_SIZE, show_progress_bar=False
    )

  return Encoder(name, embed, embed)


def export(model: SentenceTransformer, path: pathlib.Path) -> None:
  """Writes the transformer as ONNX, for any batch and length."""
  example = torch.ones(2, 16, dtype=torch.long)
  axes = {name: {0: "batch", 1: "length"} for name in (*_INPUTS, "hidden")}
  torch.onnx.export(
    _Hidden(model[0].auto_model).eval(),
    (example, example, 0 * example),
    str(path),
    input_names=list(_INPUTS),
    output_names=["hidden"],
    dynamic_axes=axes,
    opset_version=17,
    dynamo=False,
  )


def in_onnx(
  name: str, model: SentenceTransformer, path: pathlib.Path, threads: int
) -> Encoder:
  """A row for an exported transformer, with the model's tokenizer."""
  options = SessionOptions()
  options.intra_op_num_threads = threads
  session = InferenceSession(
    str(path), options, providers=["CPUExecutionProvider"]
  )

  def embed(texts: Sequence[str]) -> np.ndarray:
    # By length, as sentence-transformers and coda_jax do.
    order = np.argsort([-len(text) for text in texts])
    found = [np.zeros(0)] * len(texts)
    for start in range(0, len(texts), BATCH_SIZE):
      places = order[start : start + BATCH_SIZE]
      rows = model.tokenizer(
        [texts[place] for place in places],
        padding=True,
        truncation=True,
        max_length=model.max_seq_length,
        return_tensors="np",
      )
      (hidden,) = session.run(None, {key: rows[key] for key in _INPUTS})
      mask = rows["attention_mask"][..., None]
      mean = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
      mean /= np.linalg.norm(mean, axis=1, keepdims=True)
      for place, vector in zip(places, mean, strict=True):
        found[place] = vector
    return np.stack(found)

  return Encoder(name, embed, embed)


def static(path: str) -> Encoder:
  """A row for vectors of tokens that model2vec makes of the model."""
  from model2vec.distill import distill

  model = distill(model_name=path, pca_dims=256, device="cpu")
  embed = lambda texts: model.encode(list(texts))  # noqa: E731
  return Encoder("model2vec, 256 dimensions", embed, embed)


def peers(
  path: str, folder: pathlib.Path, *, max_length: int, students: Sequence[str]
) -> list[Encoder]:
  """All rows but coda_jax's own.

  Args:
    path: the model's folder.
    folder: for the files that ONNX Runtime reads.
    max_length: of a text, in tokens.
    students: folders of models that sentence-transformers trained.
  """
  threads = len(os.sched_getaffinity(0))
  torch.set_num_threads(threads)
  model = torch_encoder(path, max_length)
  found = [in_torch("sentence-transformers, torch", model)]
  export(model, folder / "float32.onnx")
  found.append(
    in_onnx("ONNX Runtime, float32", model, folder / "float32.onnx", threads)
  )
  quantization.quantize_dynamic(
    folder / "float32.onnx",
    folder / "int8.onnx",
    weight_type=quantization.QuantType.QInt8,
  )
  found.append(
    in_onnx("ONNX Runtime, int8", model, folder / "int8.onnx", threads)
  )
  for student in students:
    name = f"sentence-transformers, {pathlib.Path(student).name}"
    found.append(in_torch(name, torch_encoder(student, max_length)))
  found.append(static(path))
  return found


def main() -> int:
  """Compares, as the command line says; returns the exit code."""
  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument("--student", action="append", default=[])
  ours, others = parser.parse_known_args()
  options = compare_embeddings.parser().parse_args(others)
  with tempfile.TemporaryDirectory() as folder:
    more = peers(
      str(formats.find_folder(options.model)),
      pathlib.Path(folder),
      max_length=options.max_length,
      students=ours.student,
    )
    return compare_embeddings.run(options, more)


if __name__ == "__main__":
  sys.exit(main())
