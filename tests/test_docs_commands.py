"""Runs the documentation's commands, each in a folder with nothing in it."""

import dataclasses
import importlib
import io
import json
import math
import pathlib
import re
import shlex
import shutil
import subprocess

import jax
import pytest

from coda_jax import convert, testing
from coda_jax.benchmarking import shapes, timing, torch_peers
from coda_jax.checkpoints import adapter as adapter_files
from coda_jax.checkpoints import assemble, formats, model_folder, pretrained
from coda_jax.compiling import estimate, topologies
from coda_jax.data import bbc
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer
from coda_jax.training import steps

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
  """Those of the pages, without variables that are set before one."""
  for page in PAGES:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    for i, block in enumerate(blocks):
      for j, line in enumerate(block.replace("\\\n", " ").splitlines()):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
          words = words[1:]
        if words:
          yield pytest.param(words, id=f"{page.name}-{i}-{j}")


@pytest.mark.parametrize("words", list(commands()))
def test_commands_exist(words):
  """Scripts and modules are there, gin files and data are ours."""
  if words[0].startswith("scripts/"):
    assert subprocess.run(["bash", "-n", ROOT / words[0]]).returncode == 0
  for word in words:
    if match := re.fullmatch(r"--gin_file=(.*)", word):
      assert (ROOT / "configs" / match[1]).exists(), word
    if re.fullmatch(r"(scripts|configs|tests|requirements)/\S+", word):
      assert (ROOT / word).exists(), word
  if words[:2] == ["python", "-m"] and words[2].startswith("coda_jax."):
    module = ROOT / (words[2].replace(".", "/"))
    assert (
      module.with_suffix(".py").exists() or (module / "__main__.py").exists()
    )


# Commands that are not run here, by what they begin with, and why.
NOT_RUN = {
  "scripts/quickstart.sh": "installs an environment, and takes 20 minutes",
  "scripts/quickstart_embedding.sh": "installs, and takes 10 minutes",
  "scripts/test.sh": "installs an environment, and runs these tests",
  "scripts/launch_tpu_pod.sh": "needs a pod: tests/test_launch_tpu_pod.py",
  "python scripts/build_": "needs Debian's packages: tests/data/test_build_*",
  "python scripts/compare_": "trains for half an hour",
  "python scripts/pretrain_tiny.py": "needs its corpus and an accelerator",
  "python -m coda_jax.under_t5x.": "needs what t5x exports: tests/under_t5x",
  "python -m t5x.": "needs t5x: tests/t5x",
  "python -m pytest -m t5x": "needs t5x",
  "export ": "sets a variable",
  "git clone ": "downloads",
  "pip install ": "downloads",
  "tfds build ": "downloads",
}
# A part of a command, and what is added where it has that part: sizes and data
# that take seconds.
LAYERS = (
  "--gin.config.T5Config.num_encoder_layers=1",
  "--gin.config.T5Config.num_decoder_layers=1",
)
LENGTHS = "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 12}"
ADDED = {
  # Of one schedule, so that what one command compiles others have.
  "coda_jax.train": (
    "--gin.TRAIN_STEPS=2",
    "--gin.WARMUP_STEPS=1",
    "--gin.BATCH_SIZE=8",
    LENGTHS,
  ),
  "sizes/base.gin": ("--gin_file=sizes/tiny.gin", *LAYERS),
  "sizes/xl.gin": ("--gin_file=sizes/tiny.gin", *LAYERS),
  "experiments/embed_distil": (
    "--gin.CORPUS=data/corpus/*-{split}-*.txt",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16}",
    "--gin.INITIAL_CHECKPOINT_PATH=my-model",
  ),
  "experiments/embed_pairs": ("--gin.INITIAL_CHECKPOINT_PATH=my-model",),
  "coda_jax.eval": (
    "--gin.BATCH_SIZE=8",
    "--gin.EVAL_EXAMPLES=8",
    "--gin.REDUCTIONS=(3,)",
    "--gin.TIMING_REPEATS=0",
    LENGTHS,
  ),
  "coda_jax.infer": (LENGTHS,),
  "coda_jax.compare_embeddings": (
    "--model=my-model",
    "--max_length=16",
    "--first_tokens=8",
    "--first_layers=1",
    "--repeats=1",
  ),
  "coda_jax.show_routing": ("--model=my-model", "--max_length=16"),
  "coda_jax.export": ("--lengths=16", "--max_length=2"),
  "coda_jax.benchmark": (
    "--length=16",
    "--batch=2",
    "--decode_length=3",
    "--repeats=1",
  ),
  "--slots": ("--slots=4", "--length=16,32"),
}
# The same with --compile_for, where all slices are this machine's devices.
ADDED_TO_COMPILE = {
  "coda_jax.train": LAYERS,
  "--compile_reductions=3,5,8": ("--compile_reductions=3",),
  "xsum_xl_": ("--gin.MESH={'fsdp': -1}",),
  "xsum_xxl_": ("--gin.MESH={'data': 2, 'model': 4}",),
  "{'data': 256}": ("--gin.MESH={'data': -1}",),
}


def a_model(path):
  """The first layers of a shipped model."""
  config, leaves = formats.read("tiny")
  config = dataclasses.replace(
    config, num_encoder_layers=1, num_decoder_layers=1
  )
  first = {p: x for p, x in leaves.items() if not re.search("layers_[1-9]", p)}
  model_folder.write(path, config, first)


def a_model_of_hugging_face(path):
  a_model(path.with_name("ours"))
  convert.convert(path.with_name("ours"), path, "hf")
  the_vocabulary(path / "spiece.model")


def the_vocabulary(path):
  shutil.copy(ROOT / "coda_jax/assets/vocabulary/tiny.model", path)


def a_checkpoint_of_t5x(path):
  model = Transformer(testing.tiny_config(coda=CodaConfig()))
  source = path.with_name("source")
  model_folder.save_model(source, model.config, testing.random_params(model))
  convert.convert(source, path, "t5x", step=20000)


def a_sentence_encoder(path):
  path.mkdir()
  testing.save_sentence_encoder(path, ["shares", "fell", "a", "goal"])
  prompts = {"prompts": {"passage": "a: "}}
  settings = path / "config_sentence_transformers.json"
  settings.write_text(json.dumps(prompts))


def holding(text):
  return lambda path: path.write_text(text)


def reviews(path):
  for split in ("train", "validation"):
    rows = "".join(f"number {i} was fine,good\n" for i in range(8))
    path.with_name(f"reviews-{split}.csv").write_text(f"text,label\n{rows}")


def names(path):
  row = json.dumps({"tokens": ["Ada", "came"], "tags": ["B-PER", "O"]})
  for split in ("train", "validation"):
    path.with_name(f"names-{split}.jsonl").write_text(f"{row}\n" * 8)


def pairs(path):
  for split in ("train", "validation"):
    rows = "".join(f"goal {i},a goal fell in minute {i}\n" for i in range(8))
    path.with_name(f"pairs-{split}.csv").write_text(f"title,body\n{rows}")


def an_adapter(path, head, labels):
  model = pretrained.model_of(
    "bert_base", coda=CodaConfig(), head=head, labels=labels
  )
  _, leaves = formats.read("bert_base")
  key = jax.random.key(0)
  params = assemble.from_leaves(model, leaves, key, "bert_base")
  adapter_files.save_adapter(path, model, params)


def a_classifiers_adapter(path):
  an_adapter(path, "classification", ("bad", "good"))


def a_taggers_adapter(path):
  an_adapter(path, "token_classification", ("O", "B-PER", "I-PER"))


def an_encoders_adapter(path):
  coda = CodaConfig(bottleneck_dim=2)
  adapter_files.save_adapter(
    path, *pretrained.load_pretrained("my-model", coda=coda)
  )


def titles(path):
  rows = [
    {"title": f"{word} shares", "body": f"a goal {word}", "topic": word}
    for word in ("fell", "a")
  ]
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pretraining_data(folder):
  """What the experiments' gin files name."""
  text = "the quick brown fox jumps over the lazy dog and runs away again\n"
  for part in ("corpus", "pairs"):
    (folder / "data" / part).mkdir(parents=True)
  for split in ("train", "validation"):
    (folder / f"data/corpus/x-{split}-0.txt").write_text(text * 20)
    row = json.dumps({"text": text, "target": "fox"})
    (folder / f"data/pairs/reading-{split}.jsonl").write_text(row)


# What commands read, and what makes a small one of its kind.
MADE = {
  "flan-t5-base/": a_model_of_hugging_face,
  "t5_base": a_model_of_hugging_face,
  "xl": a_model_of_hugging_face,
  "spiece.model": the_vocabulary,
  "runs/full/model": a_model,
  "runs/topic_t5x/checkpoint_20000": a_checkpoint_of_t5x,
  "articles.txt": holding("Shares fell sharply\nA late goal\n"),
  "articles.jsonl": holding('{"body": "Shares fell"}\n{"body": "A goal"}\n'),
  "data/reviews-{split}.csv": reviews,
  "data/pairs-{split}.csv": pairs,
  "my-model/": a_sentence_encoder,
  "texts.txt": holding("Shares fell\n\nA goal\n"),
  "runs/reviews_bert/adapter": a_classifiers_adapter,
  "runs/embed_distil/adapter": an_encoders_adapter,
  "test.jsonl": titles,
  "train.jsonl": titles,
  "data/names-{split}.jsonl": names,
  "runs/names_bert/adapter": a_taggers_adapter,
}


def different():
  """Each of those that are run, once."""
  found = {" ".join(command.values[0]): command for command in commands()}
  return [c for line, c in found.items() if not line.startswith(tuple(NOT_RUN))]


def test_each_reason_is_of_some_command():
  lines = [" ".join(command.values[0]) for command in commands()]
  for beginning in NOT_RUN:
    assert any(line.startswith(beginning) for line in lines), beginning


def call(words, added):
  """Runs a module of ours in this process; `cat FILE |` is its input."""
  stdin = b""
  if words[0] == "cat":
    stdin, words = pathlib.Path(words[1]).read_bytes(), words[3:]
  assert words[:2] == ["python", "-m"] and words[2].startswith("coda_jax."), (
    "neither a command of ours nor in NOT_RUN"
  )
  arguments = words[3:]
  if ">" in arguments:
    arguments = arguments[: arguments.index(">")]
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    return importlib.import_module(words[2]).main([*arguments, *added])


def added_to(words, table):
  found = (args for part, args in table.items() if part in " ".join(words))
  return [argument for arguments in found for argument in arguments]


class Stepped(Exception):
  """The first step was made."""


@pytest.fixture
def one_step(monkeypatch):
  """Ends training after its first step."""
  make = steps.make_train_step

  def stopping(*args, **kwargs):
    step = make(*args, **kwargs)

    def first(*args):
      _, metrics = step(*args)
      assert math.isfinite(metrics["loss"])
      raise Stepped

    return first

  monkeypatch.setattr(steps, "make_train_step", stopping)


@pytest.fixture
def small_benchmarks(monkeypatch):
  """A layer of a size, two of the methods, and none of the peers."""
  sized = shapes.size_config

  def small(size, dtype):
    assert sized(size, dtype)
    return testing.tiny_config(num_encoder_layers=1, dtype=dtype)

  monkeypatch.setattr(shapes, "size_config", small)
  monkeypatch.setattr(torch_peers, "subjects", lambda *args, **kwargs: [])
  measure = timing.measure
  monkeypatch.setattr(
    timing, "measure", lambda subjects, repeats: measure(subjects[:2], repeats)
  )


@pytest.fixture(scope="module")
def unoptimised():
  """Compiles in a fraction of the time."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def traced(monkeypatch):
  """Programs for a slice are made for this machine's devices, not compiled."""
  chip = topologies.CHIPS["v5e"]

  def get(name):
    topologies.parse(name)
    return topologies.Slice(name, chip, jax.devices())

  def measure(traced, chip, devices):
    del traced, devices
    return {
      **dict.fromkeys(("compute_ms", "kernels_ms", "compile_seconds"), 1.0),
      **dict.fromkeys(("flops", "bytes_accessed", "peak_bytes"), 1),
      "hbm_bytes": chip.hbm_bytes,
      "fits": True,
      "step_ms": [1.0, 2.0],
      "collectives": {},
    }

  monkeypatch.setattr(topologies, "get", get)
  monkeypatch.setattr(estimate, "measure", measure)


@pytest.fixture(scope="module")
def articles_of_bbc(tmp_path_factory):
  """A few of each topic, in the place of those that are installed."""
  folder = tmp_path_factory.mktemp("bbc")
  for topic in ("business", "sport"):
    (folder / topic).mkdir()
    for i in range(20):
      text = f"Title {i}\n\nA few words on {topic}, number {i}.\n"
      (folder / topic / f"{i:03}.txt").write_text(text)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(bbc, "installed_folder", lambda: folder)
    yield


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, unoptimised, articles_of_bbc):
  """What the README's command trains, in two steps."""
  (words,) = (
    command.values[0]
    for command in commands()
    if command.id.startswith("README") and "coda_jax.train" in command.values[0]
  )
  folder = tmp_path_factory.mktemp("trained")
  unmeasured = "--gin.loop.train.eval_split=none"
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    assert call(words, [*added_to(words, ADDED), unmeasured]) == 0
  return folder / "runs/topic/adapter"


def prepare_mnli(prepare):
  row = {"premise": "All were up.", "hypothesis": "They slept.", "label": 0}
  rows = [{**row, "idx": i} for i in range(8)]
  halves = ("validation_matched", "validation_mismatched")
  halves += ("test_matched", "test_mismatched")
  splits = dict.fromkeys(halves, rows[:1])
  prepare("glue/mnli:2.0.0", in_order=False, train=rows, **splits)


@pytest.mark.usefixtures(
  "fresh_registry", "small_benchmarks", "unoptimised", "articles_of_bbc"
)
@pytest.mark.parametrize("words", different())
def test_commands_run(words, tmp_path, monkeypatch, request):
  """To the first step, or the first answer, in an empty folder."""
  line = " ".join(words)
  compiles = "--compile_for" in line
  if "runs/topic/adapter" in line:
    trained = request.getfixturevalue("adapter")
  if "tasks/mnli.gin" in line:
    prepare_mnli(request.getfixturevalue("prepare"))
  folder = tmp_path / "empty"
  folder.mkdir()
  monkeypatch.chdir(folder)
  if "experiments/tiny_" in line or "embed_distil" in line:
    pretraining_data(folder)
  if "all-MiniLM-L6-v2" in line or "experiments/embed_" in line:
    a_sentence_encoder(folder / "my-model")
  if "runs/topic/adapter" in line:
    shutil.copytree(trained, "runs/topic/adapter")
  if "bert_base" in line:
    request.getfixturevalue("bert_folder")("empty/bert_base")
  for name, make in MADE.items():
    if any(word.split("=")[-1] == name for word in words):
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      make(path)
  if compiles:
    request.getfixturevalue("traced")
  added = added_to(words, ADDED_TO_COMPILE if compiles else ADDED)
  if "coda_jax.train" in words and not compiles:
    request.getfixturevalue("one_step")
    with pytest.raises(Stepped):
      call(words, added)
  else:
    assert call(words, added) == 0
