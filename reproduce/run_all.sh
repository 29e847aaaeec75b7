#!/usr/bin/env bash
# Sets up (once), then measures and draws every figure and table: `defar reproduce`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'END'
usage: reproduce/run_all.sh [--profile tiny|quick|full] [--only NAME] [--device DEVICE]

Sets up .venv and CIFAR-10 if needed (a few minutes, once), then measures and draws the paper's figures
and tables; the gallery is figures/index.html.

  --profile tiny|quick|full   how much to measure (default quick: about 16 minutes on 2 cores)
  --only NAME                 one figure or table, such as fig3; repeat for more
  --device DEVICE             cpu, cuda, cuda:1, ... (default: chosen by defar)
  --help                      this text; nothing is set up

What is still valid is not repeated. A figure that fails does not stop the others: a table at the end says what
happened to each, and the exit status is 2 if any failed.
END
}

fail() {
  echo "run_all.sh: $1; see reproduce/run_all.sh --help" >&2
  exit 2
}

# Before the set-up, so that a slip costs no minutes.
arguments=() profile=quick
while (($#)); do
  option=${1%%=*}
  case $option in
    -h | --help) usage; exit 0 ;;
    --profile | --only | --device) ;;
    *) fail "unknown option '$1'" ;;
  esac
  if [[ $1 == *=* ]]; then
    value=${1#*=}
    shift
  else
    value=${2-}
    shift $(($# > 1 ? 2 : 1))
  fi
  [[ -n $value && $value != -* ]] || fail "$option needs a value"
  if [[ $option == --profile ]]; then
    [[ $value =~ ^(tiny|quick|full)$ ]] || fail "--profile '$value' is not tiny, quick or full"
    profile=$value
  else
    arguments+=("$option" "$value")
  fi
done

"$here/setup.sh"
cd "$here/.."
exec .venv/bin/defar reproduce --profile "$profile" ${arguments[@]+"${arguments[@]}"}
