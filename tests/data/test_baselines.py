import pytest

from coda_jax.data import baselines, bbc


@pytest.fixture
def splits():
  words = {"sport": "goal match", "tech": "chip phone"}
  articles = [
    bbc.Article(topic, f"{text} {i}", f"{text} one two three {i}")
    for topic, text in words.items()
    for i in range(10)
  ]
  return bbc.split(articles)


def test_tfidf_topic(splits):
  scores = baselines.tfidf_topic(splits)
  assert scores == {
    "validation": {"accuracy": 1.0},
    "test": {"accuracy": 1.0},
  }


def test_text_is_what_the_classifier_reads(splits):
  # The same word for every article: no better than one topic of two.
  scores = baselines.tfidf_topic(splits, lambda article: "same")
  assert scores["test"]["accuracy"] == 0.5


def test_lead_headline(splits):
  # Title "goal match 3", first two words "goal match": F = 2*1*(2/3)/(5/3).
  scores = baselines.lead_headline(splits, num_words=2)
  assert scores["test"]["rouge1"] == pytest.approx(0.8)
