# Sourced by the other scripts: makes or reuses the virtual environment $venv
# and defines `install`, pip's or uv's, held to the versions that were tested.
#
# PYTHON  the interpreter to use (default: python3.11 or the next newer)

candidates=(python3.11 python3.12 python3)
[[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
python=
for candidate in "${candidates[@]}"; do
  # Each is tried out: a version manager's shim can be on the path and not work.
  if python=$("$candidate" -c '
import sys
assert sys.version_info >= (3, 11)
print(sys.executable)' 2>/dev/null); then
    break
  fi
done
if [[ -z $python ]]; then
  echo "$0: found no Python 3.11 or newer; set PYTHON to one" >&2
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
  echo "$0: $pins does not exist; installing the newest of everything"
fi
