"""Trains the SentencePiece vocabulary of the embedded tiny model.

A unigram vocabulary with T5's special ids (pad 0, eos 1, unk 2, no bos) and
T5's normalisation. seqio adds 100 sentinels after its pieces. Bytes are pieces
too, so that no text becomes unknown.

One thread and a fixed order of sentences: the same corpus gives the same file.

  python scripts/build_vocabulary.py --corpus=data/corpus --output=tiny.model
"""

import argparse
import pathlib
import re
from collections.abc import Iterator

import corpus_sources
import sentencepiece

NUM_PIECES = 8092
# The technical manuals count for less than general English.
PROSE = (
  "wordnet webster devil kjv web henry spurgeon scofield anarchism wesnoth"
  " endless_sky crawl handbook kstars gnucash"
).split()
KEEP_ONE_IN = {
  source: 1 if source == "wordnet" else 3 if source in PROSE else 9
  for source in corpus_sources.SOURCES
}
# The examples of the glosses, nearest to everyday writing, count this often.
EXAMPLE_WEIGHT = 3


def sentences(corpus: pathlib.Path) -> Iterator[str]:
  """Yields the sentences of the training split, some sources thinned out."""
  for source, stride in KEEP_ONE_IN.items():
    shards = sorted(corpus.glob(f"{source}-train-*.txt"))
    if not shards:
      raise SystemExit(
        f"No {source}-train-*.txt in {corpus}: run scripts/build_corpus.py."
      )
    for shard in shards:
      for i, document in enumerate(shard.read_text("utf-8").splitlines()):
        if i % stride == 0:
          document = document.replace("\t", " ")
          yield from re.split(r"(?<=[.!?]) (?=\S)", document)
          if source == "wordnet":
            examples = re.findall(r'"([^"]+)"', document)
            yield from examples * (EXAMPLE_WEIGHT - 1)


def main() -> None:
  """Trains the vocabulary, as the command line says."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--corpus", type=pathlib.Path, required=True)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  arguments = parser.parse_args()
  with arguments.output.open("wb") as model_file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=sentences(arguments.corpus),
      model_writer=model_file,
      model_type="unigram",
      vocab_size=NUM_PIECES,
      normalization_rule_name="nmt_nfkc",
      byte_fallback=True,
      character_coverage=0.9999,
      required_chars="£",
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      num_threads=1,
      minloglevel=1,
    )
  print(f"Wrote {arguments.output}: {NUM_PIECES} pieces.")


if __name__ == "__main__":
  main()
