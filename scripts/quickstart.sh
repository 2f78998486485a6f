#!/usr/bin/env bash
# Installs, finetunes the shipped T5 on BBC News with parallel adapters and with
# CoDA, and measures accuracy and speed: see docs/quickstart.md.
#
#   scripts/quickstart.sh [options of python -m coda_jax.quickstart]
#
# PYTHON  the interpreter to use (default: python3.11 or the next newer)
# VENV    the virtual environment to make or use again (.venv-quickstart)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv-quickstart}
source scripts/environment.sh

echo "installing into $venv (some minutes the first time)"
install ".[quickstart]"
# A step allocates hundreds of megabytes of scratch memory each time: in huge
# pages it costs far fewer page faults (glibc; elsewhere this does nothing).
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
# Safe path: what runs is what was installed.
PYTHONSAFEPATH=1 exec "$venv/bin/python" -m coda_jax.quickstart "$@"
