import html.parser
import json

import numpy as np
import pytest
import seqio

from coda_jax.data import bbc, bbc_find, bbc_tasks, vocabularies
from coda_jax.quickstart import measure, page, report, runs

ROWS = [
  {
    "label": "parallel adapter",
    "trained_share": 0.0204,
    "validation_topic_accuracy": 0.5,
    "test_topic_accuracy": 0.25,
    "encoder_ms": 100.0,
    "encoder_speedup": 1.0,
    "inference_ms": 200.0,
    "inference_speedup": 1.0,
    "test_headline_rouge1": 0.125,
    "test_find_accuracy": 0.75,
  },
  {"label": "TF-IDF", "test_topic_accuracy": 0.875},
]


def test_table_shows_each_field_and_dashes_for_what_is_missing():
  lines = report.table(ROWS).splitlines()
  assert lines[2].split() == [
    *("parallel", "adapter"),
    "2.04%",
    "0.250",
    "0.125",
    "0.750",
    "100",
    "1.00x",
    "200",
    "1.00x",
  ]
  assert lines[3].split() == ["TF-IDF", "-", "0.875", *["-"] * 6]


def test_sentences_say_what_is_behind():
  coda = {
    "label": "CoDA",
    "encoder_speedup": 2.34,
    "test_topic_accuracy": 0.235,
    "test_headline_rouge1": 0.125,
    "test_find_accuracy": 0.8,
  }
  only_finding = {
    "label": "random",
    "encoder_speedup": 2.0,
    "test_find_accuracy": 0.5,
  }
  assert report.sentences([ROWS[0], coda, only_finding]) == [
    "CoDA, 2.3x as fast: topics 1.5 points below, headlines level, "
    "finding words 5.0 points above, compared with the parallel adapter.",
    "random, 2.0x as fast: finding words 25.0 points below, compared with the "
    "parallel adapter.",
  ]


def test_json_holds_rows_and_baselines(tmp_path):
  path = tmp_path / "results.json"
  report.write_json(path, ROWS[:1], ROWS[1:])
  content = json.loads(path.read_text())
  assert content["rows"] == ROWS[:1]
  assert content["baselines"] == ROWS[1:]


def test_plot_is_a_png(tmp_path):
  path = tmp_path / "plot.png"
  report.plot(path, ROWS[:1], ROWS[1:])
  assert path.read_bytes().startswith(b"\x89PNG")


class Reader(html.parser.HTMLParser):
  """Collects the shaded tokens, and refuses what comes from elsewhere."""

  def __init__(self):
    super().__init__()
    self.spans, self.style = [], None

  def handle_starttag(self, tag, attrs):
    assert not {"src", "href"} & dict(attrs).keys()
    self.style = dict(attrs).get("style")

  def handle_data(self, data):
    if self.style:
      self.spans.append((data, self.style))
      self.style = None


def test_page_shades_tokens_and_escapes_text():
  shading = page.Shading(
    "CoDA r=3", "sport", "a <b>", [" 1", " <script>", "&"], [0.0, 0.5, 1.0]
  )
  text = page.page([page.Example("sport", "Title & co", [shading])], 4)
  assert "<script>" not in text
  reader = Reader()
  reader.feed(text)
  assert reader.spans[-3:] == [
    (" 1", "--s:0.00"),
    (" <script>", "--s:0.50"),
    ("&", "--s:1.00"),
  ]


@pytest.mark.parametrize("task", ["topic", "headline", "find"])
def test_timed_batch_is_what_the_task_feeds(task):
  name = bbc_tasks.bbc_task(task, name=f"quickstart_{task}")
  articles = bbc.split(bbc.read())["test"]
  text = {
    "topic": f"topic: {bbc.topic_text(articles[0])}",
    "headline": f"headline: {articles[0].body}",
    "find": bbc_find.questions(articles)[0].text,
  }[task]
  dataset = seqio.get_dataset(
    name,
    task_feature_lengths=runs.LENGTHS[task],
    feature_converter=seqio.EncDecFeatureConverter(pack=False),
    dataset_split="test",
    shuffle=False,
  )
  expected = next(dataset.as_numpy_iterator())["encoder_input_tokens"]
  batch = measure.batch(vocabularies.load("tiny"), task, [text])
  np.testing.assert_array_equal(batch[0], expected)


def test_the_baseline_comes_first_and_every_method_has_a_choice_of_tokens():
  first, *others = runs.METHODS
  assert first.method == "adapter"
  assert {m.method for m in others} == {"coda"}
  assert {m.macros.get("ROUTER") for m in others} >= {"random", "truncation"}
  # The rows of costs are of finding words, which every method has.
  assert all("find" in method.tasks for method in runs.METHODS)
