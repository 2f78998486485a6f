"""seqio tasks on the BBC News articles."""

from collections.abc import Sequence

from coda_jax.data import bbc, bbc_find, metrics, tables, tasks


def _topic(articles: Sequence[bbc.Article]) -> tables.Texts:
  return tables.Texts(
    [f"topic: {bbc.topic_text(article)}" for article in articles],
    [article.topic for article in articles],
  )


def _headline(articles: Sequence[bbc.Article]) -> tables.Texts:
  return tables.Texts(
    [f"headline: {article.body}" for article in articles],
    [article.title for article in articles],
  )


def _find(articles: Sequence[bbc.Article]) -> tables.Texts:
  questions = bbc_find.questions(articles)
  return tables.Texts(
    [question.text for question in questions],
    [question.answer for question in questions],
  )


# {target: (the texts of some articles, the metric)}
_BBC_TARGETS = {
  "topic": (_topic, metrics.accuracy),
  "headline": (_headline, metrics.rouge),
  "find": (_find, bbc_find.accuracy),
}


def bbc_task(
  target: str, *, name: str | None = None, vocabulary: str = "tiny"
) -> str:
  """Registers a task on the BBC News articles, in the splits of `bbc.split`.

  Args:
    target: "topic", from title and body, measured by accuracy; "headline",
      from the body, measured by ROUGE; or "find", what follows some words
      (`bbc_find`), measured by accuracy.
    name: the task's name, "bbc_" and the target when None.
    vocabulary: see `vocabularies.load`.

  Returns:
    The task's name.

  Raises:
    ValueError: an unknown target.
    FileNotFoundError: the articles are not installed.
  """
  if target not in _BBC_TARGETS:
    raise ValueError(
      f"bbc_task has no target {target!r}: expected one of"
      f" {sorted(_BBC_TARGETS)}"
    )
  name = name or f"bbc_{target}"
  texts, metric = _BBC_TARGETS[target]

  def make():
    splits = {
      split: texts(articles)
      for split, articles in bbc.split(bbc.read()).items()
    }
    tasks.add_text_task(
      name, splits, tasks.output_features(vocabulary), [metric]
    )

  return tasks.register(name, (target, vocabulary), make)
