"""The objective that a model's answers belong to, as its configuration says."""

from coda_jax import backbones
from coda_jax.nn.config import Conditional
from coda_jax.objectives.classify import Classify
from coda_jax.objectives.seq2seq import Seq2Seq


def objective_of(config: Conditional) -> Classify | Seq2Seq:
  """The objective whose `predict` and `answers` are those of a model.

  Args:
    config: of the model.

  Returns:
    `Seq2Seq` for an encoder-decoder; for an encoder with a head for
    classification, `Classify` with its labels. Labels without names are
    numbered from "0".

  Raises:
    ValueError: an encoder without such a head.
  """
  if not config.task_fields:
    return Seq2Seq()
  head = config.head_fields
  if head.get("head") != "classification":
    raise ValueError(
      f"a {backbones.of(config).title} with head={head.get('head')!r} gives no "
      "answers; expected an encoder-decoder, or an encoder with a head for "
      "classification: use an adapter or a model that was trained with "
      "objectives/classify.gin"
    )
  return Classify(head["labels"] or tuple(map(str, range(head["num_labels"]))))
