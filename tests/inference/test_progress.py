import re

from coda_jax.inference.progress import Progress


def test_lines_where_there_is_no_terminal(capsys):
  progress = Progress(done=5, bar=False, period=0)
  progress.add(3, 40)
  progress.add(2, 10)
  progress.close()
  out, err = capsys.readouterr()
  assert out == ""
  first, second = err.splitlines()
  pattern = r"{} examples  [\d.,]+ examples/s  [\d,]+ tokens/s"
  assert re.fullmatch(pattern.format(3), first)
  assert re.fullmatch(pattern.format(5), second)


def test_no_more_lines_than_asked(capsys):
  progress = Progress(done=0, bar=False, period=3600)
  progress.add(3, 40)
  assert capsys.readouterr().err == ""
  examples, rate, tokens = re.findall(r"([\d.,]+) ", progress.summary())[:3]
  assert examples == "3"
  # Of one clock.
  ratio = float(tokens.replace(",", "")) / float(rate.replace(",", ""))
  assert abs(ratio - 40 / 3) < 0.1


def test_a_bar(capsys):
  progress = Progress(done=5, bar=True)
  progress.add(3, 40)
  progress.say("a word")
  progress.close()
  out, err = capsys.readouterr()
  assert out == "" and "a word" in err
  assert "8 examples" in err and "tokens/s" in err
