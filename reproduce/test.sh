#!/usr/bin/env bash
# Sets up (once), then ruff and pytest. Arguments go to pytest: reproduce/test.sh tests/core -k bias
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

"$here/setup.sh"
cd "$here/.."
.venv/bin/ruff check
# Each worker takes whole files, in the order of tests/conftest.py: what a file sets up is set up once.
exec .venv/bin/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
