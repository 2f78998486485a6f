import sys

import pytest

from coda_jax import report

LINES = {
  "a": [report.Point("r = 1", 1.0, 0.5), report.Point("r = 2", 1.9, 0.4)],
  "b": [report.Point("r = 1", 1.1, 0.6)],
}


def test_table_has_a_dash_for_what_is_missing():
  columns = [("name", "label", "{}"), ("ms", "time", "{:.1f}")]
  lines = report.table(columns, [{"label": "a", "time": 2}, {"label": "bcd"}])
  assert [line.split() for line in lines.splitlines()] == [
    ["name", "ms"],
    ["----", "---"],
    ["a", "2.0"],
    ["bcd", "-"],
  ]


@pytest.mark.parametrize("lines", [LINES, {"": LINES["a"]}])
def test_plot_shows_every_model(tmp_path, monkeypatch, lines):
  from matplotlib import axes

  labels, texts = [], []
  plot, annotate = axes.Axes.plot, axes.Axes.annotate

  def spy_plot(self, x, y, **kwargs):
    labels.append((kwargs["label"], list(x), list(y)))
    return plot(self, x, y, **kwargs)

  def spy_annotate(self, text, *args, **kwargs):
    texts.append(text)
    return annotate(self, text, *args, **kwargs)

  monkeypatch.setattr(axes.Axes, "plot", spy_plot)
  monkeypatch.setattr(axes.Axes, "annotate", spy_annotate)
  path = tmp_path / "plot.png"
  report.plot(path, lines, xlabel="x", ylabel="y", references={"bag": 0.7})
  assert path.read_bytes().startswith(b"\x89PNG")
  assert texts == ["r = 1", "r = 2"]
  assert labels[0][1:] == ([1.0, 1.9], [0.5, 0.4])
  names = [name for name, _, _ in labels]
  assert names == (["a", "b"] if lines is LINES else [None])


def test_without_matplotlib(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(ModuleNotFoundError) as error:
    report.plot(tmp_path / "x.png", LINES, xlabel="x", ylabel="y")
  assert error.value.name == "matplotlib"
  assert not (tmp_path / "x.png").exists()
