import io
import json
import subprocess
import sys

import pytest

from coda_jax.inference import outputs
from coda_jax.inference.sources import Example

SETTINGS = {"checkpoint_path": "x", "reductions": (1, 2)}
EXAMPLES = [Example(i, f"text {i}\u00e4", None, [1], []) for i in (0, 1, 3)]
RECORDS = [
  {"index": e.index, "input": e.input, "score": -1.0} for e in EXAMPLES
]


def write(folder, records, settings=SETTINGS):
  with outputs.opened(str(folder), "x.jsonl", settings) as file:
    outputs.append(file, records)


def resume(folder, examples=EXAMPLES, settings=SETTINGS):
  """How many are done, and what is left to do."""
  examples = iter(examples)
  with outputs.opened(str(folder), "x.jsonl", settings) as file:
    done = outputs.skip_done(file, examples)
  return done, list(examples)


def test_a_second_run_goes_on(tmp_path):
  assert resume(tmp_path) == (0, EXAMPLES)
  write(tmp_path, RECORDS[:2])
  assert resume(tmp_path) == (2, EXAMPLES[2:])
  write(tmp_path, RECORDS[2:])
  assert resume(tmp_path) == (3, [])
  lines = (tmp_path / "x.jsonl").read_text("utf-8").splitlines()
  assert [json.loads(line) for line in lines] == RECORDS
  assert "\u00e4" in lines[0]


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("rest", ["{", "x" * 70_000, json.dumps(RECORDS[2])])
def test_a_half_written_line_is_dropped(tmp_path, kept, rest):
  write(tmp_path, RECORDS[:kept])
  with open(tmp_path / "x.jsonl", "a") as file:
    file.write(rest)
  assert resume(tmp_path) == (kept, EXAMPLES[kept:])
  write(tmp_path, RECORDS[kept:])
  lines = (tmp_path / "x.jsonl").read_text("utf-8").splitlines()
  assert [json.loads(line) for line in lines] == RECORDS


@pytest.mark.parametrize(
  ("examples", "message"),
  [
    (EXAMPLES[1:], r"line 1: does not match .* \(input 1, 'text 1"),
    (EXAMPLES[:1], r"line 2: .* \(no more inputs"),
    ([EXAMPLES[0]._replace(target="t")], "line 1: .*input 0"),
  ],
)
def test_results_of_other_inputs_are_not_continued(tmp_path, examples, message):
  write(tmp_path, RECORDS)
  before = (tmp_path / "x.jsonl").read_bytes()
  with pytest.raises(ValueError, match=message):
    resume(tmp_path, examples)
  assert (tmp_path / "x.jsonl").read_bytes() == before


@pytest.mark.parametrize(
  "line", [b"no json", b"[1]", b'{"index": "\xe9"}', b"[" * 100_000]
)
def test_a_damaged_line(tmp_path, line):
  write(tmp_path, RECORDS[:1])
  with open(tmp_path / "x.jsonl", "ab") as file:
    file.write(line + b"\n")
  with pytest.raises(ValueError, match=r"x\.jsonl, line 2: does not match"):
    resume(tmp_path)


def test_a_bad_byte_in_a_result(tmp_path):
  write(tmp_path, [{**RECORDS[0], "prediction": "here"}])
  path = tmp_path / "x.jsonl"
  path.write_bytes(path.read_bytes().replace(b"here", b"h\xe9re"))
  with pytest.raises(ValueError, match=r"x\.jsonl, line 1: does not match"):
    resume(tmp_path)


def test_results_of_other_settings_are_not_continued(tmp_path):
  write(tmp_path, RECORDS[:1])
  other = {**SETTINGS, "checkpoint_path": "y"}
  with pytest.raises(ValueError, match="checkpoint_path = 'x', but it is 'y'"):
    resume(tmp_path, settings=other)
  (tmp_path / "x.settings.json").unlink()
  with pytest.raises(ValueError, match="checkpoint_path = None, but it is 'x'"):
    resume(tmp_path)


def test_a_run_that_wrote_nothing_may_change(tmp_path):
  write(tmp_path, [], {"checkpoint_path": "y"})
  assert resume(tmp_path) == (0, EXAMPLES)


def test_files_of_one_folder_have_settings_of_their_own(tmp_path):
  write(tmp_path, RECORDS[:1])
  other = {**SETTINGS, "checkpoint_path": "y"}
  with outputs.opened(str(tmp_path), "y.jsonl", other):
    pass
  with pytest.raises(ValueError, match="checkpoint_path = 'x', but it is 'y'"):
    resume(tmp_path, settings=other)
  assert resume(tmp_path) == (1, EXAMPLES[1:])


def test_one_process_a_folder(tmp_path):
  with outputs.opened(str(tmp_path), "x.jsonl", SETTINGS):
    with pytest.raises(
      ValueError, match="INFER_OUTPUT_DIR=.* is in use by pro"
    ):
      resume(tmp_path)


def test_a_full_disk_is_named(tmp_path):
  write(tmp_path, RECORDS[:1])
  whole = (tmp_path / "x.jsonl").read_bytes()
  (tmp_path / "x.jsonl").unlink()
  (tmp_path / "x.jsonl").symlink_to("/dev/full")
  for records in (RECORDS, [{"long": "x" * 100_000}]):
    with pytest.raises(OSError, match=r"cannot write .*x\.jsonl: No space"):
      write(tmp_path, records)
  # With room again, what had been whole goes on.
  (tmp_path / "x.jsonl").unlink()
  (tmp_path / "x.jsonl").write_bytes(whole + b'{"ind')
  assert resume(tmp_path) == (1, EXAMPLES[1:])


READ_ONE = """
import itertools
from coda_jax.inference import outputs
with outputs.opened("-", "x.jsonl", {}) as file:
  for i in itertools.count():
    outputs.append(file, [{"index": i}])
"""


def test_a_reader_that_has_enough(tmp_path):
  with subprocess.Popen(
    [sys.executable, "-c", READ_ONE],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as writer:
    assert json.loads(writer.stdout.readline()) == {"index": 0}
    writer.stdout.close()
    assert writer.stderr.read() == b""
    assert writer.wait() == 0


def test_standard_output(monkeypatch):
  stdout = io.StringIO()
  monkeypatch.setattr(sys, "stdout", stdout)
  with outputs.opened("-", "x.jsonl", SETTINGS) as file:
    assert outputs.skip_done(file, iter(EXAMPLES)) == 0
    outputs.append(file, RECORDS)
  assert [json.loads(x) for x in stdout.getvalue().splitlines()] == RECORDS


def test_a_whole_file_or_the_old_one(tmp_path):
  outputs.write_lines(tmp_path / "a" / "x.jsonl", RECORDS)

  def broken():
    yield {}
    raise RuntimeError

  with pytest.raises(RuntimeError):
    outputs.write_lines(tmp_path / "a" / "x.jsonl", broken())
  lines = (tmp_path / "a" / "x.jsonl").read_text("utf-8").splitlines()
  assert [json.loads(line) for line in lines] == RECORDS
