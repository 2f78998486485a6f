import dataclasses
import json
import pathlib
import shlex
import tracemalloc

import gin
import numpy as np
import pytest
from safetensors.numpy import save_file

import coda_jax
from coda_jax import cli, convert, load_pretrained, testing
from coda_jax import params as params_lib
from coda_jax.checkpoints import arrays, formats, hf, model_folder
from coda_jax.checkpoints.leaves import leaf_of
from coda_jax.nn.config import CodaConfig, LoraConfig
from coda_jax.params import TASK_PATTERNS
from coda_jax.t5.network import Transformer


def saved(folder, coda=None, dtype="float32"):
  model = Transformer(testing.tiny_config(dropout_rate=0.1, coda=coda))
  params = testing.random_params(model)
  model_folder.save_model(folder, model.config, params, dtype=dtype)
  return model, params_lib.flatten(params)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_through_every_format_changes_nothing(tmp_path, dtype, capsys):
  model, expected = saved(tmp_path / "0", dtype=dtype)
  steps = (
    ["--to", "hf", "--max_shard_size", "3KB"],
    ["--to", "t5x"],
    ["--to", "hf"],
    ["--to", "t5x", "--layout", "msgpack", "--step", "7"],
    ["--to", "coda_jax"],
  )
  for i, options in enumerate(steps):
    source, target = tmp_path / f"{i}", tmp_path / f"{i + 1}"
    assert convert.main([str(source), str(target), *options]) == 0
    assert f"of {dtype}" in capsys.readouterr().out
  last = tmp_path / f"{len(steps)}"
  assert formats.detect(last) == "coda_jax"
  config, leaves = formats.read(last)
  assert config == model.config
  assert leaves.keys() == expected.keys()
  for path, leaf in expected.items():
    assert leaves[path].dtype.name == dtype
    np.testing.assert_array_equal(
      leaves[path].read(), np.asarray(leaf).astype(leaves[path].dtype)
    )


def test_dtype_and_tokenizer(tmp_path):
  _, expected = saved(tmp_path / "a")
  (tmp_path / "a/spiece.model").write_bytes(b"pieces")
  convert.convert(tmp_path / "a", tmp_path / "b", "hf", dtype="bfloat16")
  assert (tmp_path / "b/spiece.model").read_bytes() == b"pieces"
  _, leaves = formats.read(tmp_path / "b")
  path = "encoder/layers_0/mlp/wo/kernel"
  assert leaves[path].dtype.name == "bfloat16"
  np.testing.assert_allclose(
    leaves[path].read().astype(np.float32), expected[path], rtol=2**-8
  )


WORDS = "the a cat dog sat on mat".split()
TEXTS = ["the cat sat on the mat", "", "a dog", "the " * 60]


def embed(folder):
  model, params = load_pretrained(folder)
  return coda_jax.embed(model, params, TEXTS, folder)


def sentence_encoder(folder):
  """With all the small files that such folders may have."""
  folder.mkdir()
  modules = ("Dense", "Normalize")
  testing.save_sentence_encoder(folder, WORDS, modules=modules)
  (folder / "2_Dense").mkdir()
  rng = np.random.default_rng(0)
  save_file(
    {
      "linear.weight": rng.standard_normal((6, 15)).astype(np.float32),
      "linear.bias": rng.standard_normal(6).astype(np.float32),
    },
    folder / "2_Dense/model.safetensors",
  )
  for name, fields in {
    "2_Dense/config.json": {"in_features": 15, "out_features": 6},
    "sentence_bert_config.json": {"max_seq_length": 8},
    "config_sentence_transformers.json": {
      "prompts": {"query": "the "},
      "default_prompt_name": "query",
    },
  }.items():
    (folder / name).write_text(json.dumps(fields))
  (folder / "vocab.txt").write_text("\n".join(WORDS))


def test_a_sentence_encoder_there_and_back(tmp_path):
  sentence_encoder(tmp_path / "a")
  expected = embed(tmp_path / "a")
  assert expected.shape == (4, 6)
  convert.convert(tmp_path / "a", tmp_path / "b", "coda_jax")
  convert.convert(tmp_path / "b", tmp_path / "c", "hf")
  names = [
    sorted(str(p.relative_to(tmp_path / x)) for p in (tmp_path / x).rglob("*"))
    for x in "abc"
  ]
  assert names[0] == names[1] == names[2]
  for folder in "bc":
    np.testing.assert_array_equal(embed(tmp_path / folder), expected)
    for name in ("vocab.txt", "sentence_bert_config.json", "modules.json"):
      found = (tmp_path / folder / name).read_bytes()
      assert found == (tmp_path / "a" / name).read_bytes()


def test_a_transformer_with_a_tokenizer_there_and_back(tmp_path):
  sentence_encoder(tmp_path / "a")
  (tmp_path / "a/modules.json").unlink()
  for name in ("vocab.json", "merges.txt", "sentencepiece.bpe.model"):
    (tmp_path / "a" / name).write_text(name)
  with pytest.warns(UserWarning, match="mean of all tokens"):
    expected = embed(tmp_path / "a")
  convert.convert(tmp_path / "a", tmp_path / "b", "coda_jax")
  with pytest.warns(UserWarning, match="mean of all tokens"):
    np.testing.assert_array_equal(embed(tmp_path / "b"), expected)
  for name in ("vocab.json", "merges.txt", "sentencepiece.bpe.model"):
    assert (tmp_path / "b" / name).read_text() == name
  assert not (tmp_path / "b/1_Pooling").exists()


def test_an_adapter_on_a_sentence_encoder_keeps_its_files(tmp_path):
  sentence_encoder(tmp_path / "a")
  coda = CodaConfig(bottleneck_dim=4)
  model, params = load_pretrained(tmp_path / "a", coda=coda)
  coda_jax.save_adapter(tmp_path / "adapter", model, params)
  convert.convert(
    tmp_path / "adapter",
    tmp_path / "b",
    "coda_jax",
    initial_checkpoint_path=tmp_path / "a",
  )
  expected = coda_jax.embed(model, params, TEXTS, tmp_path / "a")
  np.testing.assert_allclose(embed(tmp_path / "b"), expected, atol=1e-6)


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "modules.json"),
    ('[{"path": ""}, {"path": "../other"}]', "leaves the model's folder"),
    ('[{"path": ""}, {}]', "modules.json lacks 'path'"),
  ],
)
def test_files_of_a_damaged_list_are_not_copied(
  tmp_path, capsys, content, message
):
  sentence_encoder(tmp_path / "a")
  (tmp_path / "a/modules.json").write_text(content)
  command = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "coda_jax"]
  assert convert.main(command) == 2
  assert message in capsys.readouterr().err
  assert not (tmp_path / "b").exists()


def test_only_the_backbone_of_a_coda_model_fits_elsewhere(tmp_path, capsys):
  _, expected = saved(tmp_path / "a", CodaConfig(bottleneck_dim=4))
  command = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "hf"]
  assert convert.main(command) == 2
  assert "--backbone" in capsys.readouterr().err
  assert not (tmp_path / "b").exists()
  assert convert.main([*command, "--backbone"]) == 0
  _, leaves = formats.read(tmp_path / "b")
  backbone = {p for p in expected if not params_lib.is_added(p)}
  assert leaves.keys() == backbone < expected.keys()


CODAS = {
  "adapter": CodaConfig(reduction=1, bottleneck_dim=4),
  "coda": CodaConfig(reduction=2.5, attention="k_to_all", bottleneck_dim=4),
  "coda_lora": CodaConfig(bottleneck_dim=4, lora=LoraConfig(rank=3, alpha=3)),
  "lora": CodaConfig(
    reduction=1, bottleneck_dim=0, lora=LoraConfig(targets=("key", "wo"))
  ),
}


@pytest.mark.parametrize("method", CODAS)
def test_t5x_and_back_by_what_is_printed(tmp_path, capsys, method):
  """t5x keeps no configuration: that of the output has to be all of it."""
  coda = CODAS[method]
  model, expected = saved(tmp_path / "a", coda)
  there = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "t5x"]
  assert convert.main(there) == 0
  printed = capsys.readouterr().out
  assert f"--gin_file=methods/{method}.gin" in printed
  back = [str(tmp_path / "b"), str(tmp_path / "c"), "--to", "coda_jax"]
  assert convert.main(back) == 2
  assert "add --coda" in capsys.readouterr().err
  assert not (tmp_path / "c").exists()
  option = shlex.split(printed.splitlines()[-1])
  assert convert.main([*back, *option]) == 0
  config, leaves = formats.read(tmp_path / "c")
  assert config == model.config
  assert leaves.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(leaves[path].read(), leaf)


@pytest.mark.parametrize("method", CODAS)
def test_flags_for_t5x_make_the_same_configuration(method):
  flags = convert.configuration(CODAS[method]).splitlines()[1]
  file, *bindings = shlex.split(flags)
  gin.clear_config()
  gin.config._LOCATION_PREFIXES[:] = [str(cli.configs_dir())]
  gin.parse_config_file(file.removeprefix("--gin_file="))
  for binding in bindings:
    gin.parse_config(binding.removeprefix("--gin."))
  made = gin.get_configurable(CodaConfig)()
  assert made == CODAS[method]


def test_an_adapter_out_of_t5x(tmp_path, capsys):
  """What is written for the one engine is what the other would save."""
  model, expected = saved(tmp_path / "a", CODAS["coda"])
  convert.convert(tmp_path / "a", tmp_path / "b", "t5x")
  convert.convert(tmp_path / "a", tmp_path / "backbone", "hf", backbone=True)
  command = [str(tmp_path / "b"), str(tmp_path / "c"), "--to", "adapter"]
  given = ["--coda", json.dumps(dataclasses.asdict(CODAS["coda"]))]
  assert convert.main([*command, *given]) == 0
  of_task = [p for p in expected if params_lib.matches(p, TASK_PATTERNS)]
  assert f"{len(of_task)} leaves" in capsys.readouterr().out
  backbone = load_pretrained(tmp_path / "backbone")
  loaded, params = coda_jax.load_adapter(tmp_path / "c", *backbone)
  assert loaded.config.coda == model.config.coda
  for path, leaf in params_lib.flatten(params).items():
    np.testing.assert_array_equal(leaf, expected[path])


def test_an_adapter_on_its_backbone_into_t5x(tmp_path, capsys):
  model, expected = saved(tmp_path / "a", CODAS["coda"])
  params = params_lib.unflatten(expected)
  coda_jax.save_adapter(tmp_path / "adapter", model, params)
  convert.convert(tmp_path / "a", tmp_path / "backbone", "hf", backbone=True)
  command = [str(tmp_path / "adapter"), str(tmp_path / "b"), "--to", "t5x"]
  assert convert.main(command) == 2
  assert "needs its backbone" in capsys.readouterr().err
  given = ["--initial_checkpoint_path", str(tmp_path / "backbone")]
  assert convert.main([*command, *given]) == 0
  _, leaves = formats.read(tmp_path / "b")
  assert leaves.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(leaves[path].read(), leaf)


def test_a_configuration_too_many_or_too_few(tmp_path, capsys):
  saved(tmp_path / "a", CODAS["coda"])
  saved(tmp_path / "plain")
  command = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "coda_jax"]
  assert convert.main([*command, "--coda", "{}"]) == 2
  assert "leave --coda out" in capsys.readouterr().err
  command = [str(tmp_path / "plain"), str(tmp_path / "b"), "--to", "adapter"]
  assert convert.main(command) == 2
  assert "no adapter to write" in capsys.readouterr().err


@pytest.mark.parametrize(
  "text", ["", "3", '{"reduction": 0}', '{"r": 3}', '{"lora": {"ranks": 1}}']
)
def test_bad_configurations(text, capsys):
  with pytest.raises(SystemExit):
    convert.main(["a", "b", "--to=adapter", f"--coda={text}"])
  assert "expected a JSON object of fields among" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(tmp_path, capsys):
  saved(tmp_path / "a")
  command = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "hf"]
  assert convert.main([*command, "--dry_run"]) == 0
  assert capsys.readouterr().out.startswith(f"would write {tmp_path / 'b'}")
  assert not (tmp_path / "b").exists()


def test_what_is_there_stays(tmp_path, capsys, monkeypatch):
  saved(tmp_path / "a")
  (tmp_path / "b").mkdir()
  (tmp_path / "b/notes").write_text("mine")
  command = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "hf"]
  assert convert.main(command) == 2
  assert "already exists and is not empty" in capsys.readouterr().err
  assert [p.name for p in (tmp_path / "b").iterdir()] == ["notes"]

  def fail(*_, **__):
    raise OSError("disk full")

  monkeypatch.setattr(hf.files, "write_json", fail)
  assert convert.main([command[0], str(tmp_path / "c"), "--to", "hf"]) == 2
  assert "disk full" in capsys.readouterr().err
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("to", ["hf", "coda_jax"])
def test_only_t5x_is_written_to_a_bucket(tmp_path, capsys, to):
  saved(tmp_path / "a")
  command = [str(tmp_path / "a"), "gs://bucket/b", "--to", to]
  assert convert.main(command) == 2
  assert "only t5x checkpoints can be written" in capsys.readouterr().err


def test_a_bucket_that_cannot_be_reached_is_named(
  tmp_path, capsys, monkeypatch
):
  """Its library raises what no other does; it is replaced by one that does."""

  class Unreachable(Exception):
    pass

  class Path:
    def __init__(self, path):
      self.path = str(path)

    def __truediv__(self, name):
      return Path(f"{self.path}/{name}")

    def exists(self):
      raise Unreachable("no host")

  monkeypatch.setattr(
    arrays,
    "path_of",
    lambda path: Path(path) if "://" in str(path) else pathlib.Path(path),
  )
  saved(tmp_path / "a")
  for command in (
    [str(tmp_path / "a"), "gs://bucket/checkpoint_1", "--to", "t5x"],
    ["gs://bucket/checkpoint_1", str(tmp_path / "b"), "--to", "hf"],
  ):
    assert convert.main(command) == 2
    message = "cannot reach gs://bucket/checkpoint_1: no host"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("to", formats.FORMATS)
def test_memory_holds_two_leaves_at_most(tmp_path, to):
  """Of what Python allocates; tensorstore's own buffers are not counted."""
  model = Transformer(
    testing.tiny_config(vocab_size=20_000, emb_dim=64, mlp_dim=8192)
  )
  params = testing.random_params(model)
  model_folder.save_model(tmp_path / "a", model.config, params)
  leaves = params_lib.flatten(params)
  largest = max(leaf.nbytes for leaf in leaves.values())
  assert sum(leaf.nbytes for leaf in leaves.values()) > 4 * largest
  del params, leaves
  convert.convert(tmp_path / "a", tmp_path / "warm", to, dry_run=True)
  tracemalloc.start()
  convert.convert(tmp_path / "a", tmp_path / "b", to)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2.3 * largest


def test_an_empty_folder_and_a_link_to_one_are_new(tmp_path):
  saved(tmp_path / "a")
  (tmp_path / "b").mkdir()
  (tmp_path / "c").symlink_to(tmp_path / "b")
  convert.convert(tmp_path / "a", tmp_path / "c", "hf")
  assert formats.detect(tmp_path / "b") == "hf"
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]


def test_what_comes_meanwhile_stays(tmp_path, capsys, monkeypatch):
  saved(tmp_path / "a")
  write = hf.write

  def write_and_more(*args, **kwargs):
    write(*args, **kwargs)
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mine").write_text("1")

  monkeypatch.setattr(hf, "write", write_and_more)
  command = [str(tmp_path / "a"), str(tmp_path / "b"), "--to", "hf"]
  assert convert.main(command) == 2
  assert "already exists and is not empty" in capsys.readouterr().err
  assert [p.name for p in (tmp_path / "b").iterdir()] == ["mine"]
  assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("step", ["-3", "1.5", str(2**31)])
def test_bad_steps(tmp_path, capsys, step):
  with pytest.raises(SystemExit):
    convert.main([str(tmp_path), "b", "--to=t5x", f"--step={step}"])
  assert "is not a step" in capsys.readouterr().err


def test_the_current_folder_is_refused(tmp_path, capsys, monkeypatch):
  saved(tmp_path / "a")
  (tmp_path / "b").mkdir()
  monkeypatch.chdir(tmp_path / "b")
  for target in (".", str(tmp_path / "b")):
    assert convert.main([str(tmp_path / "a"), target, "--to", "hf"]) == 2
    assert "is the current folder" in capsys.readouterr().err


def test_leaves_that_do_not_fit_are_listed(tmp_path, capsys):
  model, leaves = saved(tmp_path / "a")
  del leaves["decoder/decoder_norm/scale"]
  leaves["encoder/layers_9/mlp/wo/kernel"] = np.zeros((2, 3), np.float32)
  model_folder.write(
    tmp_path / "a",
    model.config,
    {path: leaf_of(leaf) for path, leaf in leaves.items()},
  )
  assert (
    convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--to=hf"]) == 2
  )
  message = capsys.readouterr().err
  assert "decoder/decoder_norm/scale: not in the file" in message
  assert "encoder/layers_9/mlp/wo/kernel: not in the model" in message
  assert not (tmp_path / "b").exists()


def test_a_shipped_model_by_name(tmp_path):
  convert.convert("tiny", tmp_path / "x", "hf")
  _, params = load_pretrained(tmp_path / "x")
  _, expected = coda_jax.load_pretrained("tiny")
  for path, leaf in params_lib.flatten(expected).items():
    np.testing.assert_array_equal(params_lib.flatten(params)[path], leaf)


@pytest.mark.parametrize(
  ("text", "size"), [("12", 12), ("3KB", 3000), ("5 gb", 5 * 10**9)]
)
def test_sizes(text, size):
  assert convert.parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "5TB", "-1MB", ""])
def test_bad_sizes(tmp_path, text, capsys):
  with pytest.raises(SystemExit):
    convert.main(["a", "b", "--to=hf", f"--max_shard_size={text}"])
  assert "expected a number of bytes" in capsys.readouterr().err
