"""What every test relies on: strict JAX on 8 CPU devices, and no network."""

import ctypes
import gc
import os
import socket
import tempfile

# Read when jax, tensorflow or transformers is first imported, here or in a
# process that a test starts.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ |= {
  "HF_HUB_OFFLINE": "1",
  "NO_GCE_CHECK": "true",  # else tensorflow-datasets looks for Google's cloud
  "TF_CPP_MIN_LOG_LEVEL": "3",
  "TF_ENABLE_ONEDNN_OPTS": "0",
  "TFDS_DATA_DIR": os.path.join(tempfile.gettempdir(), "no-datasets"),
}
# Thousands of tiny programs: compiling them takes most of the suite's time.
# The fastest way to compile, not the one whose programs run fastest.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
)

# What one test compiled, the next one reads, in whichever process it runs: a
# run's workers inherit the folder, which the first process makes and removes.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _compiled = tempfile.TemporaryDirectory(prefix="coda-jax-compiled-")
  os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": _compiled.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run, and as much time as compiling takes.
hypothesis.settings.register_profile(
  "hermetic", database=None, deadline=None, derandomize=True
)
hypothesis.settings.load_profile("hermetic")


@pytest.fixture(autouse=True, scope="session")
def offline():
  """Refuses connections to other machines."""
  connect = socket.socket.connect

  def connect_locally(self, address):
    if self.family != socket.AF_UNIX and not (
      address[0] == "localhost" or address[0].startswith(("127.", "::1"))
    ):
      raise OSError(f"the tests run offline, but one connects to {address}")
    return connect(self, address)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(socket.socket, "connect", connect_locally)
    yield


@pytest.fixture
def fresh_registry():
  """Forgets the tasks that a test registers."""
  import seqio

  registries = (seqio.MixtureRegistry, seqio.TaskRegistry)
  before = [set(registry.names()) for registry in registries]
  yield
  for registry, names in zip(registries, before, strict=True):
    for name in set(registry.names()) - names:
      registry.remove(name)


@pytest.fixture
def prepare(tmp_path, monkeypatch):
  """Prepares a data set in a TFDS_DATA_DIR of the test's own.

  The features are those of TFDS's own builder, so that examples which do not
  fit the real schema are refused.
  """
  import tensorflow_datasets as tfds

  data_dir = tmp_path / "tfds"
  monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))

  def store(name, in_order=True, **splits):
    path, _, version = name.partition(":")
    dataset, _, config = path.partition("/")
    real = tfds.builder(path, data_dir=tmp_path / "unprepared")
    tfds.dataset_builders.store_as_tfds_dataset(
      name=dataset,
      config=config or None,
      version=version,
      data_dir=data_dir,
      split_datasets={
        split.replace("__", "-"): list(enumerate(rows))
        for split, rows in splits.items()
      },
      features=real.info.features,
      disable_shuffling=in_order,  # such data can't be trained on
    )
    return data_dir.joinpath(*path.split("/"), version)

  return store


@pytest.fixture
def bert_folder(tmp_path):
  """Makes Hugging Face folders of tiny random BERTs, tokenizer included."""
  import tokenizers

  from coda_jax import backbones, testing
  from coda_jax.checkpoints import hf
  from coda_jax.checkpoints.leaves import leaves_of

  words = [f"w{i}" for i in range(20)]
  special = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>"],
  }

  def make(name="bert", family="bert", **overrides):
    pad, unk, start, end = (0, 1, 2, 3) if family == "bert" else (1, 3, 0, 2)
    tokens = special[family] + words
    tokenizer = tokenizers.Tokenizer(
      tokenizers.models.WordLevel(
        {token: i for i, token in enumerate(tokens)}, unk_token=tokens[unk]
      )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(special[family])
    first, last = tokens[start], tokens[end]
    kind = 1 if family == "bert" else 0
    middle = last if family == "bert" else f"{last} {last}"
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single=f"{first} $A {last}",
      pair=f"{first} $A {middle} $B:{kind} {last}:{kind}",
      special_tokens=[(first, start), (last, end)],
    )
    folder = tmp_path / name
    config = testing.tiny_bert_config(
      family=family,
      vocab_size=len(tokens),
      pad_id=pad,
      max_length=16,
      num_token_types=kind + 1,
      **overrides,
    )
    params = testing.random_params(backbones.build(config))
    hf.write(folder, config, leaves_of(params))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder

  return make


def resident_bytes():
  """Of this process; 0 where Linux's /proc is not."""
  try:
    with open("/proc/self/statm") as file:
      return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
  except FileNotFoundError:
    return 0


MAY_GROW = 300 * 10**6  # bytes
_after_forgetting = resident_bytes()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item, nextitem):
  """Drops compiled programs, about 2 MB each: after a file, or when they grew.

  The programs of some files would take a gigabyte by the end of the file.
  """
  global _after_forgetting
  result = yield
  grew = resident_bytes() - _after_forgetting > MAY_GROW
  if grew or nextitem is None or nextitem.path != item.path:
    jax.clear_caches()
    gc.collect()
    # glibc keeps what was freed, half a gigabyte in the end, unless asked.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
      trim(0)
    _after_forgetting = resident_bytes()
  return result


@pytest.fixture
def small_model(tmp_path):
  """Arguments of a run that starts from a T5 of test size, with 8192 tokens."""
  from coda_jax import testing
  from coda_jax.checkpoints import model_folder
  from coda_jax.t5.network import Transformer

  sizes = {"emb_dim": 16, "num_heads": 2, "head_dim": 8, "mlp_dim": 24}
  sizes |= {"num_encoder_layers": 2, "num_decoder_layers": 1}
  config = testing.tiny_config(vocab_size=8192, **sizes)
  folder = tmp_path / "small_model"
  params = testing.random_params(Transformer(config))
  model_folder.save_model(folder, config, params)
  return [
    f"--gin.INITIAL_CHECKPOINT_PATH={folder}",
    *(f"--gin.config.T5Config.{k}={v}" for k, v in sizes.items()),
  ]
