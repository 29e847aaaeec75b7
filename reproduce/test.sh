#!/usr/bin/env bash
# Sets up (once), then ruff and pytest. Arguments go to pytest: reproduce/test.sh tests/core -k bias
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

"$here/setup.sh"
cd "$here/.."
.venv/bin/ruff check
exec .venv/bin/python -m pytest "$@"
