"""The text sets on a few examples in TFDS's real schema, written as T5 does.

The expected texts are those of T5's paper, appendix D, and of the examples that
its code documents.
"""

import functools

import gin
import pytest
import seqio

from coda_jax import cli, testing
from coda_jax.data import text_tasks, vocabularies
from coda_jax.objectives.seq2seq import Seq2Seq
from coda_jax.training import inputs, loop

pytestmark = pytest.mark.usefixtures("fresh_registry")

LENGTHS = {"inputs": 128, "targets": 32}

# A labelled example of each set, and what it becomes.
GLUE = {
  "cola": (
    {"sentence": "John made Bill master of himself.", "label": 1},
    "cola sentence: John made Bill master of himself.",
    "acceptable",
  ),
  "sst2": (
    {"sentence": "confident filmmaking", "label": 1},
    "sst2 sentence: confident filmmaking",
    "positive",
  ),
  "mrpc": (
    {"sentence1": "A fell.", "sentence2": "B rose.", "label": 0},
    "mrpc sentence1: A fell. sentence2: B rose.",
    "not_equivalent",
  ),
  "qqp": (
    {"question1": "Why?", "question2": "How?", "label": 1},
    "qqp question1: Why? question2: How?",
    "duplicate",
  ),
  "qnli": (
    {"question": "Where is it?", "sentence": "It is here.", "label": 0},
    "qnli question: Where is it? sentence: It is here.",
    "entailment",
  ),
  "rte": (
    {"sentence1": "He left.", "sentence2": "He is here.", "label": 1},
    "rte sentence1: He left. sentence2: He is here.",
    "not_entailment",
  ),
  "wnli": (
    {"sentence1": "It was tasty.", "sentence2": "The worm.", "label": 1},
    "wnli sentence1: It was tasty. sentence2: The worm.",
    "entailment",
  ),
  "stsb": (
    {"sentence1": "Big news.", "sentence2": "No idea.", "label": 1.66},
    "stsb sentence1: Big news. sentence2: No idea.",
    "1.6",
  ),
}
MNLI = {"premise": "All were up late.", "hypothesis": "They slept."}
MNLI_INPUT = "mnli hypothesis: They slept. premise: All were up late."

SUPER_GLUE = {
  "boolq": (
    {"question": "is it so", "passage": "It is so.", "label": 1},
    "boolq passage: It is so. question: is it so",
    "True",
  ),
  "cb": (
    {"premise": "Is it?", "hypothesis": "It is.", "label": 1},
    "cb hypothesis: It is. premise: Is it?",
    "contradiction",
  ),
  "copa": (
    {
      "premise": "It broke.",
      "choice1": "It fell.",
      "choice2": "It slept.",
      "question": "cause",
      "label": 0,
    },
    "copa choice1: It fell. choice2: It slept. premise: It broke. question:"
    " cause",
    "choice1",
  ),
  "rte": (
    {"premise": "He left.", "hypothesis": "He is here.", "label": 1},
    "rte hypothesis: He is here. premise: He left.",
    "not_entailment",
  ),
  "wic": (
    {
      "word": "bank",
      "sentence1": "A river bank.",
      "sentence2": "The bank failed.",
      "start1": 8,
      "end1": 12,
      "start2": 4,
      "end2": 8,
      "label": 0,
    },
    "wic sentence1: A river bank. sentence2: The bank failed. word: bank",
    "False",
  ),
  "multirc": (
    {
      "paragraph": "<b>Sent 1: </b>Joey slept.<br><b>Sent 2: </b>He woke.",
      "question": "What did Joey do?",
      "answer": "Sleep",
      "label": 1,
      "idx": {"paragraph": 5, "question": 1, "answer": 3},
    },
    "multirc question: What did Joey do? answer: Sleep paragraph: Sent 1: Joey"
    " slept. Sent 2: He woke.",
    "True",
  ),
}
RECORD = {
  "query": "It was @placeholder.",
  "entities": ["A", "B", "C"],
  "passage": "The passage\n@highlight\nAnother one.\n@highlight\nThird.",
  "answers": ["A", "C"],
  "idx": {"passage": 1, "query": 2},
}
RECORD_INPUT = (
  "record query: It was @placeholder. entities: A, B, C passage: The passage."
  " Another one. Third."
)
WSC = {
  "text": "Mitchell asked Tom if he could lend some money.",
  "span1_text": "Tom",
  "span2_text": "he",
  "span1_index": 2,
  "span2_index": 4,
  "label": 1,
  "idx": 0,
}
WSC_INPUT = "wsc: Mitchell asked Tom if *he* could lend some money."
DPR = {
  "sentence": "Bill beat Tom, because he was luckier than he.",
  "pronoun": "he",
  "candidates": ["Bill", "Tom"],
  "label": 0,
}
SQUAD = {
  "id": "1",
  "title": "T",
  "context": "Some context  (of 1845-86).",
  "question": "A question?",
  "answers": {
    "text": ["The answer.", "another"],
    "answer_start": [0, 0],
  },
}


def prepare_one(prepare, benchmark, version, name, example):
  example = {"idx": 0, **example}
  secret = {**example, "label": -1}
  prepare(
    f"{benchmark}/{name}:{version}",
    train=[example],
    validation=[example],
    test=[secret],
  )


def prepare_glue(prepare):
  for name, (example, _, _) in GLUE.items():
    prepare_one(prepare, "glue", "2.0.0", name, example)
  mnli = [{**MNLI, "idx": i, "label": i} for i in range(3)]
  secret = {**MNLI, "idx": 0, "label": -1}
  prepare(
    "glue/mnli:2.0.0",
    train=mnli,
    validation_matched=mnli[:1],
    validation_mismatched=mnli[1:],
    test_matched=[secret],
    test_mismatched=[secret],
  )


def prepare_super_glue(prepare):
  for name, (example, _, _) in SUPER_GLUE.items():
    prepare_one(prepare, "super_glue", "1.0.2", name, example)
  wrong = {**WSC, "span1_text": "Mitchell", "span1_index": 0, "label": 0}
  prepare(
    "super_glue/wsc.fixed:1.0.2",
    train=[wrong, WSC],
    validation=[WSC, wrong],
    test=[{**WSC, "label": -1}],
  )
  prepare(
    "super_glue/record:1.0.2",
    train=[RECORD],
    validation=[RECORD],
    test=[{**RECORD, "answers": []}],
  )
  prepare("definite_pronoun_resolution:1.1.0", train=[DPR], test=[DPR])


def texts(name, split="train"):
  dataset = seqio.get_mixture_or_task(name).get_dataset(
    LENGTHS, split, shuffle=False
  )
  return [
    tuple(example[f"{k}_pretokenized"].decode() for k in LENGTHS)
    for example in dataset.as_numpy_iterator()
  ]


@pytest.mark.parametrize("name", GLUE)
def test_glue(prepare, name):
  example, given, target = GLUE[name]
  prepare_one(prepare, "glue", "2.0.0", name, example)
  task = text_tasks.text_task(f"glue_{name}")
  assert texts(task, "train") == texts(task, "validation") == [(given, target)]
  if name != "stsb":
    assert texts(task, "test") == [(given, "<unk>")]


@pytest.mark.parametrize("name", SUPER_GLUE)
def test_super_glue(prepare, name):
  example, given, target = SUPER_GLUE[name]
  prepare_one(prepare, "super_glue", "1.0.2", name, example)
  task = text_tasks.text_task(f"super_glue_{name}")
  assert texts(task, "train") == [(given, target)]
  assert texts(task, "test") == [(given, "<unk>")]


def test_every_task_is_tested_here():
  tested = {f"glue_{name}" for name in GLUE}
  tested |= {f"glue_mnli{part}" for part in ("", "_matched", "_mismatched")}
  tested |= {f"super_glue_{name}" for name in SUPER_GLUE}
  tested |= {f"super_glue_{name}" for name in ("record", "wsc_train")}
  tested |= {"super_glue_wsc_eval", "definite_pronouns", "squad", "xsum"}
  assert tested == set(text_tasks.TASKS)


def test_mnli(prepare):
  prepare_glue(prepare)
  name = text_tasks.text_task("mnli")
  labels = [(MNLI_INPUT, x) for x in ("entailment", "neutral", "contradiction")]
  assert texts("glue_mnli") == labels
  assert texts("glue_mnli_matched", "validation") == labels[:1]
  assert texts("glue_mnli_mismatched", "validation") == labels[1:]
  assert texts("glue_mnli_mismatched", "test") == [(MNLI_INPUT, "<unk>")]
  # What is measured: both halves, by their names.
  metrics = evaluate(name, [["entailment"], ["neutral", "neutral"]])
  assert metrics == {
    "glue_mnli_matched": {"accuracy": 1.0},
    "glue_mnli_mismatched": {"accuracy": 0.5},
  }


def evaluate(name, predictions, split="validation"):
  """What seqio measures if the model writes these texts, task by task."""
  evaluator = seqio.Evaluator(
    name,
    seqio.EncDecFeatureConverter(pack=False),
    eval_split=split,
    sequence_length=LENGTHS,
    async_compute_metrics=False,
  )
  left = list(predictions)

  def predict(dataset):
    del dataset
    encode = vocabularies.load("tiny").encode
    tokens = [encode(text) for text in left.pop(0)]
    # As long as each other, as generated tokens are.
    return [(i, row + [0] * (16 - len(row))) for i, row in enumerate(tokens)]

  metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict)
  return {
    task: {key: float(getattr(x, "value", x)) for key, x in values.items()}
    for task, values in metrics.result().items()
  }


def test_squad(prepare):
  prepare("squad/v1.1:3.0.0", train=[SQUAD], validation=[SQUAD, SQUAD])
  name = text_tasks.text_task("squad")
  given = "question: A question ? context: Some context ( of 1845 - 86 ) . "
  assert texts(name) == [(given, "The answer . ")]
  # The second answer counts as well; of "one answer" a half is right.
  measured = evaluate(name, [["Another!", "one answer"]])[name]
  assert measured == {
    "exact_match": 0.5,
    "f1": pytest.approx((1 + 2 / 3) / 2),
  }


def test_record(prepare):
  other = {**RECORD, "idx": {"passage": 1, "query": 3}, "answers": ["B"]}
  prepare(
    "super_glue/record:1.0.2",
    train=[RECORD],
    validation=[RECORD, other],
    test=[{**RECORD, "answers": []}],
  )
  name = text_tasks.text_task("super_glue_record")
  assert texts(name) == [(RECORD_INPUT, "A"), (RECORD_INPUT, "C")]
  assert texts(name, "test") == [(RECORD_INPUT, "<unk>")]
  # Query 2 stands there twice, for its two answers, and counts once.
  measured = evaluate(name, [["C", "C", "A"]])[name]
  assert measured == {"exact_match": 0.5, "f1": 0.5}


def test_multirc_is_measured_by_question(prepare):
  example = SUPER_GLUE["multirc"][0]

  def option(question, label):
    numbers = {"paragraph": 0, "question": question, "answer": 0}
    return {**example, "label": label, "idx": numbers}

  options = [option(0, 1), option(0, 0), option(1, 1), option(1, 1)]
  prepare("super_glue/multirc:1.0.2", train=options, validation=options)
  name = text_tasks.text_task("super_glue_multirc")
  # Question 0 is right; of the three true ones, two are found: F = 4 / 5.
  measured = evaluate(name, [["True", "False", "True", "perhaps"]])[name]
  assert measured == {"exact_match": 0.5, "f1": pytest.approx(0.8)}


def test_winograd(prepare):
  prepare_super_glue(prepare)
  train = text_tasks.text_task("super_glue_wsc_train")
  assert texts(train) == [(WSC_INPUT, "Tom")]
  name = text_tasks.text_task("super_glue_wsc_eval")
  both = [(WSC_INPUT, "Tom"), (WSC_INPUT, "Mitchell")]
  assert texts(name, "validation") == both
  assert evaluate(name, [["tom", "Tom"]])[name] == {"accuracy": 1.0}
  assert evaluate(name, [["Mitchell", ""]])[name] == {"accuracy": 0.0}
  pronouns = text_tasks.text_task("definite_pronouns")
  given = "wsc: Bill beat Tom, because *he* was luckier than he."
  assert texts(pronouns) == [(given, "Bill")]


def test_xsum(prepare):
  row = {"document": "An article.\nOf two lines.", "summary": "A summary."}
  prepare("xsum:1.1.0", train=[row], validation=[row], test=[row])
  name = text_tasks.text_task("xsum")
  assert texts(name) == [
    ("summarize: An article.\nOf two lines.", "A summary.")
  ]
  # One word of two right, no pair.
  measured = evaluate(name, [["a book"]])[name]
  assert measured == {"rouge1": 0.5, "rouge2": 0.0, "rougeL": 0.5}


def test_f1_of_paraphrases(prepare):
  pairs = [
    {"sentence1": "a", "sentence2": "b", "label": x, "idx": i}
    for i, x in enumerate([1, 1, 0])
  ]
  prepare("glue/mrpc:2.0.0", train=pairs, validation=pairs)
  name = text_tasks.text_task("glue_mrpc")
  # Of "equivalent": one right, one missed, one too many.
  measured = evaluate(name, [["equivalent", "not_equivalent", "equivalent"]])
  assert measured[name] == {"f1": 0.5, "accuracy": pytest.approx(1 / 3)}


def test_mixtures_have_t5s_rates(prepare):
  prepare_glue(prepare)
  prepare_super_glue(prepare)
  for name in ("glue", "super_glue"):
    assert text_tasks.text_task(name) == name
  glue = seqio.MixtureRegistry.get("glue")
  trained = [task for task in glue.tasks if "train" in task.splits]
  assert "glue_wnli" not in [task.name for task in trained]
  # The sum of T5's numbers.
  assert sum(glue.get_rate(task) for task in trained) == 949_101
  super_glue = seqio.MixtureRegistry.get("super_glue")
  trained = [task for task in super_glue.tasks if "train" in task.splits]
  assert len(trained) == 9
  assert sum(super_glue.get_rate(task) for task in trained) == 185_673


def test_validation_loss_takes_each_example_once(prepare):
  prepare_glue(prepare)
  name = text_tasks.text_task("glue")
  (batch,) = inputs.eval_batches(
    name, "validation", lengths=LENGTHS, batch_size=16
  )
  # One of each of the seven other sets, and MNLI's three.
  assert (batch["decoder_loss_weights"].sum(axis=1) > 0).sum() == 10


def test_registering_twice(prepare, monkeypatch):
  prepare_one(prepare, "glue", "2.0.0", "rte", GLUE["rte"][0])
  assert text_tasks.text_task("glue_rte") == text_tasks.text_task("glue_rte")
  with pytest.raises(ValueError, match="registered already"):
    text_tasks.text_task("glue_rte", vocabulary="byt5")
  monkeypatch.setenv("TFDS_DATA_DIR", "/elsewhere")
  with pytest.raises(ValueError, match="registered already"):
    text_tasks.text_task("glue_rte")


def test_unknown_set():
  with pytest.raises(ValueError, match="did you mean 'super_glue_boolq'"):
    text_tasks.text_task("super_glue_boolQ")


# The gin files, and what their sets need.
FILES = {
  "mnli": ("mnli", prepare_glue),
  "glue": ("glue", prepare_glue),
  "rte": ("glue_rte", prepare_glue),
  "boolq": ("super_glue_boolq", prepare_super_glue),
  "record": ("super_glue_record", prepare_super_glue),
  "super_glue": ("super_glue", prepare_super_glue),
  "squad": (
    "squad",
    lambda prepare: prepare(
      "squad/v1.1:3.0.0", train=[SQUAD], validation=[SQUAD]
    ),
  ),
  "xsum": (
    "xsum",
    lambda prepare: prepare(
      "xsum:1.1.0", train=[{"document": "d", "summary": "s"}]
    ),
  ),
}


@pytest.mark.parametrize("file", FILES)
def test_gin_files(prepare, file):
  name, prepare_data = FILES[file]
  prepare_data(functools.partial(prepare, in_order=False))
  bound = bindings(file)
  assert bound["mixture_or_task_name"] == name
  lengths = bound["task_feature_lengths"]
  config = testing.tiny_config(vocab_size=8192)
  inputs.check_task(name, Seq2Seq(), config)
  batch = next(
    inputs.train_batches(name, lengths=lengths, batch_size=2, seed=0)
  )
  assert batch["encoder_input_tokens"].shape == (2, lengths["inputs"])
  assert (batch["decoder_loss_weights"].sum(axis=1) > 0).all()


def test_a_set_by_its_name(prepare):
  prepare_one(prepare, "glue", "2.0.0", "cola", GLUE["cola"][0])
  bound = bindings("rte", **{"text_tasks.text_task.name": "'glue_cola'"})
  assert bound["mixture_or_task_name"] == "glue_cola"


def bindings(file, **further):
  files = [
    "models/t5_1_1.gin",
    "sizes/tiny.gin",
    "methods/coda.gin",
    "schedules/adapter.gin",
    f"tasks/{file}.gin",
    "runs/finetune.gin",
  ]
  values = {"MODEL_DIR": "'x'", "INITIAL_CHECKPOINT_PATH": "'x'"}
  values |= further
  cli.parse_gin(files, list(values.items()))
  return gin.get_bindings(loop.train)


@pytest.mark.parametrize("file", FILES)
def test_missing_data_names_its_command(prepare, file):
  with pytest.raises(FileNotFoundError, match="`tfds build .*--data_dir="):
    bindings(file)
