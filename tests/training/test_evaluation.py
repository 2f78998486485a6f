import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from coda_jax import decoding, testing
from coda_jax.nn.config import CodaConfig
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.t5.network import Transformer
from coda_jax.training import evaluation

LENGTHS = {"inputs": 8, "targets": 3}


def evaluate(model, params, task, **kwargs):
  return evaluation.Evaluation(
    model, task, split="validation", task_feature_lengths=LENGTHS, **kwargs
  )(params)


def test_against_the_whole_split_at_once(task):
  model = Transformer(testing.tiny_config())
  params = testing.random_params(model)
  dataset = seqio.get_dataset(
    task,
    LENGTHS,
    seqio.EncDecFeatureConverter(pack=False),
    dataset_split="validation",
  )
  (batch,) = dataset.batch(7).as_numpy_iterator()
  weights = batch.pop("decoder_loss_weights")
  logits = model.apply({"params": params}, **batch, enable_dropout=False)
  log_p = np.asarray(jax.nn.log_softmax(logits))
  targets = batch["decoder_target_tokens"]
  picked = np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
  correct = log_p.argmax(-1) == targets
  decoded = decoding.generate(
    model, params, batch["encoder_input_tokens"], max_length=3
  ).tokens
  exact = np.mean((np.asarray(decoded) == targets).all(1))

  # 7 examples in batches of 4: the last one is filled up.
  results = evaluate(model, params, task, batch_size=4)
  assert results.keys() == {"loss", "token_accuracy", "exact"}
  total = weights.sum()
  np.testing.assert_allclose(
    results["loss"], -(picked * weights).sum() / total, rtol=1e-5
  )
  np.testing.assert_allclose(
    results["token_accuracy"], (correct * weights).sum() / total, rtol=1e-6
  )
  np.testing.assert_allclose(results["exact"], 100 * exact)


def test_metric_counts_right_answers(task, monkeypatch):
  model = Transformer(testing.tiny_config())

  def generate(model, params, tokens, *, max_length, method):
    assert method == "beam" and tokens.shape == (4, 8)
    # Right, as long as the first token is not 3.
    first = np.where(tokens[:, :1] == 3, 2, tokens[:, :1])
    answer = np.concatenate([first, np.ones_like(first)], 1)
    tokens = jnp.asarray(np.pad(answer, ((0, 0), (0, 1))))
    return decoding.Decoded(tokens, None)

  monkeypatch.setattr(decoding, "generate", generate)
  results = evaluate(
    model,
    testing.random_params(model),
    task,
    batch_size=4,
    num_examples=6,
    objective=Seq2Seq(generate={"method": "beam"}),
  )
  dataset = seqio.get_mixture_or_task(task).get_dataset(
    LENGTHS, "validation", shuffle=False
  )
  firsts = [int(e["inputs"][0]) for e in dataset.take(6).as_numpy_iterator()]
  assert 0 < firsts.count(3) < 6
  np.testing.assert_allclose(results["exact"], 100 * (6 - firsts.count(3)) / 6)


def test_predictions_are_what_the_metrics_saw(task):
  model = Transformer(testing.tiny_config())
  params = testing.random_params(model)
  measure = evaluation.Evaluation(
    model,
    task,
    split="validation",
    task_feature_lengths=LENGTHS,
    batch_size=4,
  )
  metrics, predictions = measure.with_predictions(params)
  assert metrics == measure(params)
  first = measure.with_predictions(params, texts=2)
  assert first == (metrics, {task: predictions[task][:2]})
  (texts,) = predictions.values()
  examples = seqio.get_mixture_or_task(task).get_dataset(
    LENGTHS, "validation", shuffle=False
  )
  examples = list(examples.as_numpy_iterator())
  assert list(predictions) == [task] and len(texts) == len(examples) == 7
  for text, example in zip(texts, examples, strict=True):
    tokens = np.zeros((1, 8), np.int32)
    tokens[0, : len(example["inputs"])] = example["inputs"]
    decoded = decoding.generate(model, params, tokens, max_length=3)
    assert text["input"] == example["inputs"].tolist()
    assert text["target"] == example["targets"].tolist()
    end = 1 + [*decoded.tokens[0].tolist(), 1].index(1)
    assert text["prediction"] == decoded.tokens[0].tolist()[:end]


def test_tokens_that_the_model_lacks(task):
  model = Transformer(testing.tiny_config(vocab_size=5))
  with pytest.raises(ValueError, match="'toy': encoder_.* has the token id 5"):
    evaluate(model, testing.random_params(model), task, batch_size=4)


def test_metrics_of_scores_are_refused(task):
  def by_score(targets, scores):
    return {"mean": np.mean(scores)}

  toy = seqio.get_mixture_or_task(task)
  seqio.TaskRegistry.add(
    "scored",
    source=toy.source,
    preprocessors=toy.preprocessors,
    output_features=toy.output_features,
    metric_fns=[by_score],
  )
  try:
    with pytest.raises(ValueError, match="'scored' has a metric of .*SCORE"):
      evaluate(Transformer(testing.tiny_config()), {}, "scored", batch_size=4)
  finally:
    seqio.TaskRegistry.remove("scored")


def test_for_another_model(task):
  model = Transformer(testing.tiny_config())
  other = Transformer(testing.tiny_config(coda=CodaConfig(reduction=2)))
  params = testing.random_params(other)
  kwargs = {"split": "validation", "task_feature_lengths": LENGTHS}
  measure = evaluation.Evaluation(model, task, batch_size=4, **kwargs)
  alone = evaluation.Evaluation(other, task, batch_size=4, **kwargs)
  assert measure.for_model(other)(params) == alone(params)
  assert measure(params)["loss"] != alone(params)["loss"]
