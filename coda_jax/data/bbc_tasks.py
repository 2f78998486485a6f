"""seqio tasks on the BBC News articles."""

from coda_jax.data import bbc, metrics, tables, tasks

# {target: (an article's input text, its target text, the metric)}.
_BBC_TARGETS = {
  "topic": (
    lambda article: f"topic: {bbc.topic_text(article)}",
    lambda article: article.topic,
    metrics.accuracy,
  ),
  "headline": (
    lambda article: f"headline: {article.body}",
    lambda article: article.title,
    metrics.rouge,
  ),
}


def bbc_task(
  target: str, *, name: str | None = None, vocabulary: str = "tiny"
) -> str:
  """Registers a task on the BBC News articles, in the splits of `bbc.split`.

  Args:
    target: "topic", from title and body, measured by accuracy; or "headline",
      from the body, measured by ROUGE.
    name: the task's name, "bbc_topic" or "bbc_headline" when None.
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
  read_input, read_target, metric = _BBC_TARGETS[target]

  def make():
    splits = {
      split: tables.Texts(
        [read_input(article) for article in articles],
        [read_target(article) for article in articles],
      )
      for split, articles in bbc.split(bbc.read()).items()
    }
    tasks.add_text_task(
      name, splits, tasks.output_features(vocabulary), [metric]
    )

  return tasks.register(name, (target, vocabulary), make)
