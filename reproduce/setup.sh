#!/usr/bin/env bash
# Makes .venv with the pinned torch and this package, and fetches CIFAR-10. A second call finds all done.
# PYTHON names the interpreter (3.11 or newer); DEFAR_DATA the folder for data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${PYTHON:-}
if [[ -z $python ]]; then
  for python in python3 python3.14 python3.13 python3.12 python3.11; do new_enough "$python" && break; done
fi
if ! new_enough "$python"; then
  echo "setup: ${PYTHON:-python3} is not Python 3.11 or newer; name one: PYTHON=/path/to/python3.11 $0" >&2
  exit 2
fi

# Called from an activated .venv, the interpreter must be the one behind it: .venv itself may be made anew.
python=$("$python" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))')

# the folder belongs to it: scripts in .venv/bin hold absolute paths
want=$({ pwd; cat pyproject.toml constraints.txt; } |
  "$python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
stamp=.venv/defar-setup
have=$(cat $stamp 2>/dev/null || true)

if [[ $have != "$want" ]] || ! new_enough .venv/bin/python; then
  # Only what this script began may be removed; somebody's own .venv is installed into.
  if [[ -e .venv/made-by-setup ]]; then
    echo "setup: the earlier .venv is unfinished or out of date; making it anew"
    rm -rf .venv
  elif [[ -d .venv ]] && ! new_enough .venv/bin/python; then
    echo "setup: $PWD/.venv has no working Python 3.11 or newer; remove it and call again" >&2
    exit 2
  fi
  echo "setup: making .venv and installing torch and the toolkit (1-3 minutes, about 1.8 GB) ..."
  if [[ ! -d .venv ]]; then
    mkdir .venv
    touch .venv/made-by-setup
    "$python" -m venv .venv
  fi
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  .venv/bin/python -m pip install -q -c constraints.txt torch==2.13.0 -e '.[dev]'
  # Its torchvision is a CUDA build that fails beside the CPU's torch, and takes diffusers along; it is not needed.
  .venv/bin/python -m pip install -q -c constraints.txt --no-deps torch-fidelity
  echo "$want" >$stamp
  echo "setup: .venv is ready"
fi

# Without the data most tests still run, and `defar figure` redraws from the committed tables.
.venv/bin/defar data cifar10 ||
  echo "setup: going on without CIFAR-10; tests that need it are skipped" >&2
