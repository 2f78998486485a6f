"""Pretrains the tiny T5 from the corpus, on one accelerator, for a given time.

Needs jax, flax, optax, safetensors, sentencepiece and numpy: no TensorFlow, no
seqio. Processes of its own tokenise the corpus and make the examples
(pretraining_examples.py).

  python scripts/pretrain_tiny.py --corpus=data/corpus --pairs=data/pairs \
    --output=runs/tiny --seconds=3600
  python scripts/pretrain_tiny.py --join=runs/tiny --output=runs/tiny_model

The learning rate warms up and then follows a half cosine over the time given,
or over `--steps`, whatever a step takes. In `--output`: `log.jsonl`, a line
each time it is evaluated; and, each minute, the parameters in bfloat16, a model
folder whose weights are cut into parts of at most 15 MiB, which `--join` puts
together. With `--state=FILE`, all that a killed run needs is kept there: the
same command resumes it.
"""

import argparse
import bz2
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import queue as queues
import re
import shutil
import tempfile
import time
from collections.abc import Iterator

import numpy as np
import pretraining_examples as examples
import sentencepiece

SENTINELS = 100
PART_BYTES = 15 * 2**20
WEIGHTS = "model.safetensors"
COMMON_TOKENS = 200
PAIR_WINDOW = 10
CONTEXT_POWER = 0.75  # of word2vec: rare contexts count for more
SYNC_STEPS = 4  # how far the device may be behind
DIVERGED = 1.0  # nats above the best training loss so far


# --- Text


def read_lines(path: pathlib.Path) -> list[str]:
  """The lines of a text, or of one that bzip2 packed."""
  data = path.read_bytes()
  if path.suffix == ".bz2":
    data = bz2.decompress(data)
  return data.decode("utf-8").splitlines()


@functools.cache
def _pieces(vocabulary: str) -> sentencepiece.SentencePieceProcessor:
  return sentencepiece.SentencePieceProcessor(model_file=vocabulary)


def tokenise(
  path: pathlib.Path, vocabulary: str, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(stream, documents, sections) of a file, as in `examples.Text`.

  Args:
    path: of a file that build_corpus.py wrote.
    vocabulary: path of the SentencePiece model.
    share: of the documents, chosen by their hash.
  """
  stream: list[int] = []
  documents, sections = [], []
  encode = _pieces(vocabulary).encode
  for line in read_lines(path):
    digest = hashlib.sha256(line.encode("utf-8")).hexdigest()
    if int(digest[8:16], 16) >= share * 2**32:
      continue
    documents.append(len(stream))
    fields = line.split("\t")
    if len(fields) % 2:  # without titles
      fields = ["", *fields]
    for title, body in zip(fields[::2], fields[1::2], strict=True):
      start = len(stream)
      stream += encode(title)
      middle = len(stream)
      stream += encode(body)
      if middle - start > 1 and len(stream) - middle >= examples.SECTION_TOKENS:
        sections.append((start, middle, middle, len(stream)))
  return (
    np.array(stream, np.uint16),
    np.array(documents, np.int64),
    np.array(sections, np.int64).reshape(-1, 4),
  )


def read_text(
  starmap, corpus: pathlib.Path, pairs: pathlib.Path, split: str, options
) -> examples.Text:
  """Reads and tokenises a split of the corpus and of the topics.

  Args:
    starmap: `itertools.starmap`, or a pool's.
    corpus: a folder of build_corpus.py.
    pairs: a folder of build_pairs.py.
    split: "train" or "validation".
    options: `vocabulary` and `tokens_share` of the command line.
  """
  files = sorted(corpus.glob(f"*{split}*.txt*"))
  if not files:
    raise SystemExit(f"No {split} text in {corpus}: run build_corpus.py.")
  vocabulary = str(options.vocabulary)
  share = options.tokens_share if split == "train" else 1.0
  parts = list(starmap(tokenise, [(f, vocabulary, share) for f in files]))
  offsets = np.cumsum([0, *(len(stream) for stream, _, _ in parts)])
  stream = np.concatenate([stream for stream, _, _ in parts])
  pieces = _pieces(vocabulary)
  (topics,) = pairs.glob(f"topics-{split}.jsonl*")
  rows = [json.loads(line) for line in read_lines(topics)]
  names = [pieces.id_to_piece(i) for i in range(len(pieces))]
  size = len(pieces) + SENTINELS
  starts_word = np.array(
    [n.startswith("▁") for n in names] + [True] * SENTINELS
  )
  counts = np.bincount(stream, minlength=size)
  is_common = np.zeros(size, bool)
  is_common[np.argsort(-counts)[:COMMON_TOKENS]] = True
  is_common[: len(names)] |= [not re.search(r"\w", n.strip("▁")) for n in names]
  as_ids = functools.partial(np.array, dtype=np.uint16)
  return examples.Text(
    stream=stream,
    documents=np.concatenate(
      [
        *(d + o for (_, d, _), o in zip(parts, offsets, strict=False)),
        offsets[-1:],
      ]
    ),
    sections=np.concatenate(
      [s + o for (_, _, s), o in zip(parts, offsets, strict=False)]
    ),
    topics=[
      (as_ids(pieces.encode(r["text"])), as_ids(pieces.encode(r["target"])))
      for r in rows
    ],
    prefixes={p: as_ids(pieces.encode(p)) for p in examples.PREFIXES},
    starts_word=starts_word,
    is_common=is_common,
  )


# --- Batches


def features(
  batch: dict[str, np.ndarray], weigh: bool
) -> dict[str, np.ndarray]:
  """Names a batch's arrays as `Transformer` and the steps do.

  Args:
    batch: of `examples.batch`.
    weigh: gives a target of n tokens the weight of sqrt(n), not n, so that
      long spans do not outweigh short answers.
  """
  targets = batch["targets"].astype(np.int32)
  real = (targets > 0).astype(np.float32)
  if weigh:
    real = real / np.sqrt(real.sum(1, keepdims=True))
  return {
    "encoder_input_tokens": batch["inputs"].astype(np.int32),
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": real,
  }


def _make_batches(text: examples.Text, size: int, seed, queue) -> None:
  rng = np.random.default_rng(seed)
  parent = os.getppid()
  while True:
    made = examples.batch(rng, text, size)
    while True:
      try:
        queue.put(made, timeout=10)
        break
      except queues.Full:
        if os.getppid() != parent:  # which was killed
          os._exit(1)


def batches(
  context, text: examples.Text, size: int, workers: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches that `workers` processes make, until it is closed."""
  queue = context.Queue(4 * workers)
  processes = []
  for worker in range(workers):
    arguments = (text, size, (seed, worker), queue)
    processes.append(context.Process(target=_make_batches, args=arguments))
    processes[-1].start()
  try:
    while True:
      yield queue.get()
  finally:
    for process in processes:
      process.kill()


# --- Model


def embeddings(stream: np.ndarray, size: int, width: int) -> np.ndarray:
  """Token embeddings from the mutual information of nearby tokens.

  The leading singular vectors come from a random projection that was refined by
  power iterations (Halko et al. 2011, 0909.4061).
  """
  import jax
  import jax.numpy as jnp

  @jax.jit
  def count(total, tokens):
    for distance in range(1, PAIR_WINDOW + 1):
      total = total.at[tokens[:-distance], tokens[distance:]].add(1.0)
    return total

  @jax.jit
  def factorise(pairs, key):
    pairs = pairs + pairs.T
    tokens = pairs.sum(1, keepdims=True)
    contexts = pairs.sum(0, keepdims=True) ** CONTEXT_POWER
    contexts = contexts / contexts.sum()
    information = jnp.log(pairs / jnp.maximum(tokens * contexts, 1e-30))
    information = jnp.maximum(jnp.nan_to_num(information, neginf=0.0), 0)
    basis = jax.random.normal(key, (size, width + 64))
    for _ in range(6):
      basis, _ = jnp.linalg.qr(information.T @ (information @ basis))
    u, s, _ = jnp.linalg.svd(information @ basis, full_matrices=False)
    rows = u[:, :width] * jnp.sqrt(s[:width])
    return rows, jnp.sqrt(jnp.mean(rows**2, axis=1, keepdims=True))

  total = jnp.zeros((size, size))
  step = 2**20
  for start in range(0, len(stream) - step + 1, step):
    total = count(total, stream[start : start + step].astype(np.int32))
  if len(stream) < step:
    total = count(total, stream.astype(np.int32))
  rows, scale = map(np.asarray, factorise(total, jax.random.key(1)))
  return np.where(scale > 1e-6, rows / np.maximum(scale, 1e-6), 0)


def initial(model, text: examples.Text, seed: int):
  """Random parameters, with embeddings of the corpus."""
  import jax

  from coda_jax import params as params_lib
  from coda_jax.checkpoints import initialise

  leaves = params_lib.flatten(
    initialise.init_params(model, jax.random.key(seed))
  )
  path = "token_embedder/embedding"
  fresh = np.asarray(leaves[path])
  rows = embeddings(text.stream, *fresh.shape)
  leaves[path] = np.where(np.any(rows, 1, keepdims=True), rows, fresh)
  return params_lib.unflatten(leaves)


def make_optimizer(embedding_rate: float, clip_norm: float = 1.0):
  """AdamW relative to parameter scale, its learning rate part of its state.

  Args:
    embedding_rate: times the learning rate, of the token embeddings.
    clip_norm: global gradient norm to clip to.
  """
  import jax
  import optax

  def slower(path, update):
    is_embedding = "token_embedder" in jax.tree_util.keystr(path)
    return update * (embedding_rate if is_embedding else 1.0)

  @optax.inject_hyperparams
  def make(learning_rate):
    return optax.chain(
      optax.clip_by_global_norm(clip_norm),
      optax.scale_by_adam(b1=0.9, b2=0.98),
      optax.scale_by_param_block_rms(min_scale=1e-3),
      optax.stateless(
        lambda updates, _: jax.tree_util.tree_map_with_path(slower, updates)
      ),
      optax.scale_by_learning_rate(learning_rate),
    )

  return make(learning_rate=0.0)


def rate(progress: float, peak: float, warmup: float) -> float:
  """Linear from 0 over `warmup`, then a half cosine to 0 at 1."""
  if progress < warmup:
    return peak * progress / warmup
  done = min((progress - warmup) / (1 - warmup), 1.0)
  return peak * (1 + math.cos(math.pi * done)) / 2


# --- Files


def save(output: pathlib.Path, config, params) -> None:
  """Writes the model in parts, each replaced as a whole."""
  import jax.numpy as jnp

  from coda_jax.checkpoints.model_folder import save_model

  with tempfile.TemporaryDirectory() as folder:
    save_model(folder, config, params, dtype=jnp.bfloat16)
    written = pathlib.Path(folder)
    data = (written / WEIGHTS).read_bytes()
    starts = range(0, len(data), PART_BYTES)
    files = {
      f"{WEIGHTS}.{i}": data[s : s + PART_BYTES] for i, s in enumerate(starts)
    }
    files["config.json"] = (written / "config.json").read_bytes()
  for name, content in files.items():
    (output / f".{name}").write_bytes(content)
  for name in files:
    (output / f".{name}").replace(output / name)


def join(parts: pathlib.Path, output: pathlib.Path) -> None:
  """Makes a model folder of what `save` wrote."""
  output.mkdir(parents=True, exist_ok=True)
  with (output / WEIGHTS).open("wb") as weights:
    for path in sorted(parts.glob(f"{WEIGHTS}.*")):
      weights.write(path.read_bytes())
  shutil.copy(parts / "config.json", output)


def save_state(path: pathlib.Path, state, elapsed: float) -> None:
  """Writes all of a run's state, about 12 bytes a parameter."""
  import jax

  leaves = map(np.asarray, jax.tree.leaves(state))
  new = path.with_suffix(".new.npz")
  np.savez(new, *leaves, elapsed=elapsed)
  new.replace(path)


def restore_state(path: pathlib.Path, state):
  """The state and seconds that `save_state` wrote."""
  import jax
  import jax.numpy as jnp

  saved = np.load(path)
  old, structure = jax.tree.flatten(state)
  leaves = [jnp.asarray(saved[f"arr_{i}"], x.dtype) for i, x in enumerate(old)]
  return jax.tree.unflatten(structure, leaves), float(saved["elapsed"])


# --- Training


def evaluate(eval_step, params, held_out) -> dict[str, list[float]]:
  """{task: [loss of a target token, share of them that is right]}."""
  results = {}
  for task, parts in held_out.items():
    sums = [eval_step(params, features(part, weigh=False)) for part in parts]
    tokens, loss, right = (
      sum(float(s[name]) for s in sums)
      for name in ("weight", "loss", "token_accuracy")
    )
    results[task] = [round(loss / tokens, 4), round(right / tokens, 4)]
  return results


def train(options) -> None:
  """Trains, as the command line says."""
  started = time.monotonic()
  output = options.output
  output.mkdir(parents=True, exist_ok=True)
  context = multiprocessing.get_context("fork")
  with context.Pool(options.workers) as pool:
    starmap = functools.partial(pool.starmap, chunksize=1)
    read = functools.partial(read_text, starmap, options.corpus, options.pairs)
    text = read("train", options)
    held_out_text = read("validation", options)
  print(
    f"{len(text.stream)} tokens, {len(text.documents) - 1} documents, "
    f"{len(text.sections)} titles; {time.monotonic() - started:.0f} s",
    flush=True,
  )
  # Forked before jax is there, whose threads would not survive it.
  made = batches(context, text, options.batch, options.workers, options.seed)
  next(made)
  rng = np.random.default_rng(0)
  held_out = {
    task: [
      examples.batch(rng, held_out_text, options.batch, task)
      for _ in range(options.eval_batches)
    ]
    for task in examples.TASKS
  }

  import jax
  import jax.numpy as jnp

  from coda_jax import params as params_lib
  from coda_jax.objectives.seq2seq import Seq2Seq
  from coda_jax.t5.config import T5Config
  from coda_jax.t5.network import Transformer
  from coda_jax.training.state import TrainState
  from coda_jax.training.steps import make_eval_step, make_train_step

  config = T5Config(
    vocab_size=len(text.starts_word),
    dtype=options.dtype,
    emb_dim=options.emb_dim,
    num_heads=options.heads,
    head_dim=options.emb_dim // options.heads,
    mlp_dim=options.mlp_dim,
    num_encoder_layers=options.encoder_layers,
    num_decoder_layers=options.decoder_layers,
    mlp_activations=("gelu", "linear"),
    dropout_rate=options.dropout,
  )
  model = Transformer(config)
  optimizer = make_optimizer(options.embedding_rate)
  params = initial(model, text, options.seed)
  print(
    f"{params_lib.count(params)} parameters on {jax.devices()[0].device_kind}; "
    f"{time.monotonic() - started:.0f} s",
    flush=True,
  )
  state = TrainState.create(jax.tree.map(jnp.asarray, params), optimizer)
  before = 0.0
  if options.state and options.state.exists():
    state, before = restore_state(options.state, state)
  objective = Seq2Seq(z_loss=1e-4)
  step_function = make_train_step(model, optimizer, objective)
  eval_step = make_eval_step(model, objective)
  key = jax.random.key(options.seed)
  first = int(state.step)
  evaluate(eval_step, state.trained, held_out)  # compiles
  # The first step compiles too: time is counted from its end.
  begin = None
  waited = 0.0  # for batches
  recent: list = []
  saved = evaluated = time.monotonic()

  peak = options.peak
  good, good_loss = jax.device_get(state), math.log(config.vocab_size)

  for step in itertools.count(first):
    elapsed = before + (0.0 if begin is None else time.monotonic() - begin)
    done = step / options.steps if options.steps else elapsed / options.seconds
    now = time.monotonic()
    is_end = done >= 1
    if is_end or now - evaluated > options.eval_seconds or step == first:
      evaluated = now
      results = evaluate(eval_step, state.trained, held_out)
      losses = [float(x["loss"]) for x in recent]
      loss = sum(losses) / len(losses) if losses else None
      line = {
        "step": step,
        "seconds": round(elapsed, 1),
        "steps_per_second": round(
          (step - first) / max(elapsed - before, 1e-3), 2
        ),
        "train_loss": loss and round(loss, 4),
        "peak": peak,
        "grad_norm": float(recent[-1]["grad_norm"]) if recent else None,
        "tokens_seen": step * options.batch * examples.INPUTS,
        "waited": round(waited, 1),
        "validation": results,
      }
      with (output / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
      print(json.dumps(line), flush=True)
      recent.clear()
      if loss is not None and not loss < good_loss + DIVERGED:
        print(f"Diverged: back to step {int(good.step)}, half the peak.")
        state, peak = jax.tree.map(jnp.asarray, good), peak / 2
      elif loss is not None:
        good, good_loss = jax.device_get(state), min(loss, good_loss)
    if is_end or (begin and now - saved > options.save_seconds):
      saved = now
      save(output, config, state.trained)
      if options.state:
        save_state(options.state, state, elapsed)
    if is_end:
      break
    learning_rate = rate(done, peak, options.warmup)
    state.opt_state.hyperparams["learning_rate"] = jnp.float32(learning_rate)
    asked = time.monotonic()
    batch = features(next(made), weigh=True)
    waited += time.monotonic() - asked
    state, metrics = step_function(state, {}, batch, key)
    recent.append(metrics)
    del recent[:-50]
    if len(recent) > SYNC_STEPS:
      jax.block_until_ready(recent[-SYNC_STEPS])
    if begin is None:
      jax.block_until_ready(state)
      begin = saved = evaluated = time.monotonic()
      if options.whole_seconds:
        options.seconds = options.whole_seconds - (begin - started)
  made.close()
  print(f"Done; {time.monotonic() - started:.0f} s in all.", flush=True)


def main() -> None:
  """Trains or joins, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  assets = pathlib.Path(__file__).parents[1] / "coda_jax/assets/vocabulary"
  add("--output", type=pathlib.Path, required=True)
  add("--join", type=pathlib.Path, help="the --output of a run")
  add("--corpus", type=pathlib.Path, default=pathlib.Path("data/corpus"))
  add("--pairs", type=pathlib.Path, default=pathlib.Path("data/pairs"))
  add("--vocabulary", type=pathlib.Path, default=assets / "tiny.model")
  add("--state", type=pathlib.Path, help=".npz to resume from")
  add("--seconds", type=float, default=3600.0, help="of training")
  add("--whole_seconds", type=float, help="instead, with all that comes before")
  add("--steps", type=int, default=0, help="train this many, however long")
  add("--tokens_share", type=float, default=1.0, help="of the documents")
  add("--batch", type=int, default=128)
  add("--peak", type=float, default=2e-2, help="learning rate")
  add("--warmup", type=float, default=0.04, help="share of the run")
  add("--embedding_rate", type=float, default=0.1)
  add("--dropout", type=float, default=0.0)
  add("--emb_dim", type=int, default=256)
  add("--heads", type=int, default=4)
  add("--mlp_dim", type=int, default=512)
  add("--encoder_layers", type=int, default=8)
  add("--decoder_layers", type=int, default=3)
  add("--dtype", default="bfloat16")
  add("--workers", type=int, default=max((os.cpu_count() or 2) - 2, 1))
  add("--eval_seconds", type=float, default=30.0)
  add("--eval_batches", type=int, default=2)
  add("--save_seconds", type=float, default=60.0)
  add("--seed", type=int, default=0)
  options = parser.parse_args()
  if options.join:
    join(options.join, options.output)
  else:
    train(options)


if __name__ == "__main__":
  main()
