import pytest

from coda_jax import testing
from coda_jax.objectives.classify import Classify
from coda_jax.objectives.of_model import objective_of
from coda_jax.objectives.seq2seq import Seq2Seq


def test_an_encoder_decoder():
  assert objective_of(testing.tiny_config()) == Seq2Seq()


@pytest.mark.parametrize(
  ("labels", "expected"), [(("no", "yes"), ("no", "yes")), ((), ("0", "1"))]
)
def test_a_head_has_labels(labels, expected):
  config = testing.tiny_bert_config(
    head="classification", num_labels=2, labels=labels
  )
  assert objective_of(config) == Classify(expected)


@pytest.mark.parametrize(
  "head", [{}, {"head": "token_classification", "num_labels": 2}]
)
def test_other_encoders(head):
  with pytest.raises(ValueError, match="a BERT with head=.* gives no answers"):
    objective_of(testing.tiny_bert_config(**head))
