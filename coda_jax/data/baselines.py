"""The scores of simple methods on the BBC tasks, on the same split as ours."""

from collections.abc import Callable

from sklearn.feature_extraction import text as features
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from coda_jax.data import bbc, metrics

Scores = dict[str, dict[str, float]]


def first_words(text: str, count: int) -> str:
  """The first `count` words of `text`."""
  return " ".join(text.split()[:count])


def tfidf_topic(
  splits: dict[str, list[bbc.Article]],
  text: Callable[[bbc.Article], str] = bbc.topic_text,
) -> Scores:
  """Fits TF-IDF with logistic regression, on `train`.

  Args:
    splits: see `bbc.split`.
    text: function from an article to the text that the classifier reads.

  Returns:
    {"validation": {"accuracy": ..}, "test": {"accuracy": ..}}.
  """
  classifier = make_pipeline(
    features.TfidfVectorizer(), LogisticRegression(max_iter=1000)
  )
  classifier.fit(
    [text(article) for article in splits["train"]],
    [article.topic for article in splits["train"]],
  )
  return {
    name: metrics.accuracy(
      [article.topic for article in splits[name]],
      list(classifier.predict([text(article) for article in splits[name]])),
    )
    for name in ("validation", "test")
  }


def lead_headline(
  splits: dict[str, list[bbc.Article]], num_words: int = 8
) -> Scores:
  """Scores the first words of the body as a headline.

  Returns:
    {"validation": {"rouge1": .., "rouge2": .., "rougeL": ..}, "test": ..}.
  """
  return {
    name: metrics.rouge(
      [article.title for article in splits[name]],
      [first_words(article.body, num_words) for article in splits[name]],
    )
    for name in ("validation", "test")
  }
