"""A TensorFlow SavedModel that takes texts and answers with texts.

  texts -> tokens, cut, padded to a length -> StableHLO -> tokens -> texts

tensorflow and tensorflow_text are enough to run it; the signature
`serving_default` is what tensorflow-serving asks for.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tensorflow_text as tf_text
from jax import export as jax_export
from tensorflow.compiler.tf2xla.python import xla

from coda_jax.checkpoints import files
from coda_jax.checkpoints.leaves import Leaf
from coda_jax.exporting import portable

# TensorFlow's place for a SavedModel's additional files.
MANIFEST_FILE = "assets.extra/manifest.json"

_BYTES = 256
_FIRST_BYTE = 3  # ByT5's ids: padding, end, unknown, then the bytes.


class Pieces(tf.Module):
  """A SentencePiece vocabulary as a part of the graph."""

  def __init__(self, vocabulary: Any):
    super().__init__()
    self._tokenizer = tf_text.SentencepieceTokenizer(vocabulary.sp_model)
    self._size = vocabulary.vocab_size
    self._unknown = vocabulary.unk_id

  def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """String [b] -> int32 [b, (n)], without an end token."""
    return self._tokenizer.tokenize(texts)

  def decode(self, tokens: tf.Tensor) -> tf.Tensor:
    """int32 [b, n], padded with 0 -> string [b]."""
    # An embedding may have more rows than there are pieces.
    known = tf.where(tokens < self._size, tokens, self._unknown)
    return self._tokenizer.detokenize(tf.ragged.boolean_mask(known, known > 0))


class Bytes(tf.Module):
  """ByT5's vocabulary as a part of the graph; same methods as `Pieces`."""

  def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
    """String [b] -> int32 [b, (n)], without an end token."""
    tokens = tf.strings.bytes_split(texts)
    raw = tf.io.decode_raw(tokens.flat_values, tf.uint8, fixed_length=1)
    return tokens.with_flat_values(
      tf.cast(tf.reshape(raw, [-1]), tf.int32) + _FIRST_BYTE
    )

  def decode(self, tokens: tf.Tensor) -> tf.Tensor:
    """int32 [b, n], padded with 0 -> string [b], bad UTF-8 left out."""
    is_byte = (tokens >= _FIRST_BYTE) & (tokens < _FIRST_BYTE + _BYTES)
    values = tf.ragged.boolean_mask(tokens, is_byte) - _FIRST_BYTE
    each = tf.constant([bytes([i]) for i in range(_BYTES)])
    texts = tf.strings.reduce_join(tf.gather(each, values), axis=-1)
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", "ignore")


class Server(tf.Module):
  """Parameters, vocabulary and programs; `serve` is the signature.

  Attributes:
    serve: string [b] -> {"texts": string [b], "scores": float32 [b]}.
  """

  def __init__(
    self,
    programs: Mapping[int, jax_export.Exported],
    leaves: Mapping[str, Leaf],
    vocabulary: Any,
  ):
    super().__init__()
    is_pieces = hasattr(vocabulary, "sp_model")
    self._vocabulary = Pieces(vocabulary) if is_pieces else Bytes()
    self._eos_id = vocabulary.eos_id
    self._variables = [
      tf.Variable(leaf.read(), trainable=False)
      for _, leaf in sorted(leaves.items())
    ]
    self._programs = dict(programs)
    self.serve = tf.function(
      self._serve,
      input_signature=[tf.TensorSpec([None], tf.string, name="texts")],
    )

  def _serve(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
    lengths = list(self._programs)
    tokens = self._vocabulary.encode(texts)[:, : lengths[-1] - 1]
    end = tf.fill([tf.shape(texts)[0], 1], self._eos_id)
    tokens = tf.concat([tokens, end], axis=1)
    too_short = tf.constant(lengths[:-1], tf.int64) < tf.reduce_max(
      tokens.row_lengths()
    )
    decoded = tf.switch_case(
      tf.reduce_sum(tf.cast(too_short, tf.int32)),
      [functools.partial(self._run, tokens, length) for length in lengths],
    )
    return {
      "texts": self._vocabulary.decode(decoded["tokens"]),
      "scores": decoded["scores"],
    }

  def _run(self, tokens: tf.RaggedTensor, length: int) -> dict[str, tf.Tensor]:
    program = self._programs[length]
    padded = tokens.to_tensor(0, shape=[None, length])
    arguments = [*self._variables, padded]
    results = xla.call_module(
      # jax leaves out what the program does not use.
      [tf.convert_to_tensor(arguments[i]) for i in program.module_kept_var_idx],
      version=program.calling_convention_version,
      module=portable.for_tensorflow(program.mlir_module_serialized),
      Tout=[result.dtype for result in program.out_avals],
      # The batch, which is symbolic, comes first in every result.
      Sout=[(None, *result.shape[1:]) for result in program.out_avals],
      platforms=[platform.upper() for platform in program.platforms],
      use_shardy_partitioner=True,
    )
    return program.out_tree.unflatten(results)


def write(
  folder: pathlib.Path,
  programs: Mapping[int, jax_export.Exported],
  leaves: Mapping[str, Leaf],
  vocabulary: Any,
  manifest: Mapping[str, Any],
) -> None:
  """Writes the SavedModel.

  Args:
    folder: a new one.
    programs: {length of the inputs: what `programs.lower` returned}, ascending;
      a batch goes to the first that holds its longest text, longer texts are
      cut to the last.
    leaves: {parameter path: array}.
    vocabulary: seqio's, of SentencePiece or of bytes.
    manifest: JSON-ready values, kept as `MANIFEST_FILE`.
  """
  server = Server(programs, leaves, vocabulary)
  tf.saved_model.save(
    server, str(folder), signatures={"serving_default": server.serve}
  )
  files.write_json(folder / MANIFEST_FILE, manifest)
