"""Exports answer as `generate` does, where coda_jax can't be imported."""

import json
import subprocess
import sys

import numpy as np
import pytest

import coda_jax
from coda_jax import export, generate, testing
from coda_jax.checkpoints import files, model_folder
from coda_jax.exporting import stablehlo
from coda_jax.nn.config import CodaConfig
from coda_jax.t5.network import Transformer

LENGTH = 16
MAX_LENGTH = 6
REDUCTION = 3.0
BEAM = {"method": "beam", "num_beams": 4, "alpha": 0.6}
DECODING = {"greedy": {}, "beam": BEAM}
CASES = [(kind, method) for kind in ("dense", "coda") for method in DECODING]
# All shorter than the program's length, one without a token.
TOKENS = testing.random_tokens((7, 11, 0), LENGTH, 259)
BATCH_SIZES = (3, 1)

# What docs/export.md shows, for several folders.
RUN_STABLEHLO = """
import pathlib, sys
for name in ("coda_jax", "flax", "seqio", "tensorflow"):
  sys.modules[name] = None
import json
import numpy as np
from jax import export
from safetensors.numpy import load_file
tokens = np.load(sys.argv[1])
for folder in map(pathlib.Path, sys.argv[2:]):
  manifest = json.loads((folder / "manifest.json").read_text())
  params = load_file(folder / manifest["params_file"])
  assert sorted(params) == [leaf["name"] for leaf in manifest["params"]]
  (program,) = manifest["programs"]
  program = export.deserialize((folder / program["file"]).read_bytes())
  for size in (3, 1):
    np.savez(folder / f"{size}.npz", **program.call(params, tokens[:size]))
"""

RUN_SAVED_MODEL = """
import json, sys
for name in ("coda_jax", "flax", "jax", "jaxlib", "seqio"):
  sys.modules[name] = None
import tensorflow as tf
import tensorflow_text
results = []
for folder, batches in json.loads(sys.argv[1]):
  serve = tf.saved_model.load(folder).signatures["serving_default"]
  for texts in batches:
    found = serve(texts=tf.constant(texts))
    results.append([
      [text.decode() for text in found["texts"].numpy()],
      found["scores"].numpy().tolist(),
    ])
print(json.dumps(results))
"""


def run(code, *arguments):
  done = subprocess.run(
    [sys.executable, "-c", code, *map(str, arguments)],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def make(folder, kind, vocab_size=259):
  """Saves a model, or an adapter; returns arguments, the model, its params."""
  shape = {
    "vocab_size": vocab_size,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
  }
  config = testing.tiny_config(**shape)
  params = testing.random_params(Transformer(config))
  # So that some sequences end early and some do not.
  kernel = params["decoder"]["logits_dense"]["kernel"]
  params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(4.0)
  model_folder.save_model(folder / "dense", config, params)
  if kind == "dense":
    return [folder / "dense"], Transformer(config), params
  model, params = coda_jax.load_pretrained(
    folder / "dense", coda=CodaConfig(bottleneck_dim=4, reduction=5.0)
  )
  random = testing.random_params(model)
  for side in ("encoder", "decoder"):
    for name, layer in params[side].items():
      for part in {"adapter", "router"}.intersection(layer):
        layer[part] = random[side][name][part]
  coda_jax.save_adapter(folder / "adapter", model, params)
  model = Transformer(model.config.with_reduction(REDUCTION))
  arguments = [
    folder / "adapter",
    "--initial_checkpoint_path",
    folder / "dense",
    "--reduction",
    REDUCTION,
  ]
  return arguments, model, params


def command(arguments, target, to, **options):
  """Runs the command line; returns the exit code."""
  words = [*arguments, target, "--to", to, "--max_length", MAX_LENGTH]
  for name, value in options.items():
    words += [f"--{name}", value]
  return export.main([str(word) for word in words])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
  """{(kind, method): (folder, model, params)}, run in a process of its own."""
  folder = tmp_path_factory.mktemp("stablehlo")
  cases = {}
  for kind, method in CASES:
    arguments, model, params = make(folder, kind)
    target = folder / f"{kind}_{method}"
    code = command(
      arguments,
      target,
      "stablehlo",
      vocabulary="byt5",
      lengths=LENGTH,
      method=method,
    )
    assert code == 0
    cases[kind, method] = target, model, params
  np.save(folder / "tokens.npy", TOKENS)
  run(RUN_STABLEHLO, folder / "tokens.npy", *(c[0] for c in cases.values()))
  return cases


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_stablehlo_answers_as_generate_does(exported, case):
  folder, model, params = exported[case]
  # Padding changes nothing, nor do the other rows.
  expected = generate(
    model, params, TOKENS[:, :11], max_length=MAX_LENGTH, **DECODING[case[1]]
  )
  assert (np.asarray(expected.tokens)[:2] > 0).any(axis=1).all()
  for size in BATCH_SIZES:
    found = np.load(folder / f"{size}.npz")
    np.testing.assert_array_equal(found["tokens"], expected.tokens[:size])
    np.testing.assert_allclose(
      found["scores"], expected.scores[:size], rtol=1e-5, atol=1e-5
    )


def test_manifest(exported):
  folder, model, _ = exported["coda", "beam"]
  manifest = files.read_json(folder / stablehlo.MANIFEST_FILE)
  assert manifest["generate"] == {
    **BEAM,
    "max_length": MAX_LENGTH,
    "eos_id": 1,
  }
  assert manifest["reductions"] == [REDUCTION] * model.config.num_encoder_layers
  assert manifest["platforms"] == ["cpu", "tpu", "cuda"]
  assert manifest["vocabulary_file"] is None


def test_saved_model_answers_as_generate_does(tmp_path):
  from coda_jax.data import vocabularies

  longer = "The router takes a third of the tokens, <extra_id_0> so they say."
  texts = ["Shares fell.", "", "Zoë's 東京 café", longer]
  # The first alone takes the shorter program, where there are two.
  batches = [texts, texts[:1]]
  jobs, wanted = [], []
  for kind, vocabulary, vocab_size, method, lengths in (
    ("dense", "tiny", 8224, "greedy", (8, 32)),
    ("coda", "byt5", 264, "beam", (24,)),
  ):
    arguments, model, params = make(tmp_path, kind, vocab_size)
    target = tmp_path / kind / "1"
    code = command(
      arguments,
      target,
      "saved_model",
      vocabulary=vocabulary,
      lengths=",".join(map(str, lengths)),
      method=method,
    )
    assert code == 0
    manifest = files.read_json(target / "assets.extra/manifest.json")
    assert manifest["lengths"] == list(lengths)
    jobs.append((str(target), batches))

    encoder = vocabularies.load(vocabulary)
    tokens = np.zeros((len(texts), lengths[-1]), np.int32)
    for row, text in zip(tokens, texts, strict=True):
      ids = encoder.encode(text)[: lengths[-1] - 1]
      row[: len(ids) + 1] = [*ids, encoder.eos_id]
    found = generate(
      model, params, tokens, max_length=MAX_LENGTH, **DECODING[method]
    )
    answers = [
      encoder.decode(row[row > 0].tolist()) for row in np.asarray(found.tokens)
    ]
    assert any(answers)
    wanted += [(answers, found.scores), (answers[:1], found.scores[:1])]

  results = json.loads(run(RUN_SAVED_MODEL, json.dumps(jobs)))
  for (texts, scores), (answers, expected) in zip(results, wanted, strict=True):
    assert texts == answers
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


GOOD = {"vocabulary": "byt5", "lengths": LENGTH}


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"lengths": "64,16"}, "lengths=[64, 16]; expected"),
    ({"num_beams": 0}, "num_beams=0; expected a whole number, 1 or more"),
    ({"platforms": "cpu,gpu"}, "platforms=['cpu', 'gpu']; expected some of"),
    ({"max_length": 0}, "max_length=0; expected 1 or more"),
    ({"vocabulary": "tiny"}, "has 8192 tokens, the model only 259"),
    ({"vocabulary": "none.model"}, "no vocabulary 'none.model'"),
    ({"reduction": 2}, "does not route tokens"),
  ],
  ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_arguments(tmp_path, capsys, options, message):
  arguments, _, _ = make(tmp_path, "dense")
  target = tmp_path / "x"
  assert command(arguments, target, "stablehlo", **{**GOOD, **options}) == 2
  assert message in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ["dense"]


def test_bad_numbers(capsys):
  with pytest.raises(SystemExit):
    command(["a"], "b", "stablehlo", **{**GOOD, "lengths": "16-64"})
  assert (
    "argument --lengths: '16-64'; expected whole" in capsys.readouterr().err
  )


def test_what_is_there_stays(tmp_path, capsys, monkeypatch):
  arguments, _, _ = make(tmp_path, "dense")
  (tmp_path / "b").mkdir()
  (tmp_path / "b/notes").write_text("mine")
  assert command(arguments, tmp_path / "b", "stablehlo", **GOOD) == 2
  assert "already exists and is not empty" in capsys.readouterr().err
  assert [p.name for p in (tmp_path / "b").iterdir()] == ["notes"]

  def fail(*_, **__):
    raise OSError("disk full")

  monkeypatch.setattr(stablehlo.files, "write_json", fail)
  assert command(arguments, tmp_path / "c", "stablehlo", **GOOD) == 2
  assert "disk full" in capsys.readouterr().err
  assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "dense"]


def test_an_extra_that_is_missing(tmp_path, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "coda_jax.data", None)
  assert command(["tiny"], tmp_path / "x", "stablehlo", **GOOD) == 2
  assert "pip install 'coda_jax[export]'" in capsys.readouterr().err
