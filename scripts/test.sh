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

candidates=(python3.11 python3.12 python3)
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
python=
for candidate in "${candidates[@]}"; do
  # By trial: a version manager's shim can be on the path and not work.
  if python=$("$candidate" -c '
import sys
assert sys.version_info >= (3, 11)
print(sys.executable)' 2>/dev/null); then
    break
  fi
done
if [[ -z $python ]]; then
  echo "test.sh: found no Python 3.11 or newer; set PYTHON to one" >&2
  exit 1
fi

if command -v uv >/dev/null; then
  # uv reads no setting of pip's.
  export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
  [[ -x $venv/bin/python ]] || uv venv --quiet --python "$python" "$venv"
  install() {
    uv pip install --quiet --python "$venv/bin/python" \
      --index-strategy unsafe-best-match "$@"
  }
else
  [[ -x $venv/bin/python ]] || "$python" -m venv "$venv"
  install() { "$venv/bin/python" -m pip install --quiet "$@"; }
fi

version=$("$venv/bin/python" -c '
import sys
print("%d%d" % sys.version_info[:2])')
pins=requirements/constraints-py$version.txt
if [[ -f $pins ]]; then
  export PIP_CONSTRAINT=$pins UV_CONSTRAINT=$pins
else
  echo "test.sh: there is no $pins; installing the newest of everything"
fi

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
torch=torch==2.13.0
[[ $(uname) == Linux ]] && torch+=+cpu
if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
  install "$torch" 2>/dev/null ||
    PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=20 UV_HTTP_TIMEOUT=20 install "$torch" \
      --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null ||
    echo "test.sh: found no $torch; the tests of parity with it are skipped"
fi

# Safe path: what is imported is the wheel, never the checkout.
export PYTHONSAFEPATH=1
exec "$venv/bin/python" -m pytest -n 2 --dist worksteal "$@"
