#!/usr/bin/env bash
# Everything a change has to pass: lint, types, then the tests (the import contract is one of them).
#
#   bash launch/test.sh                    all tests but those marked slow, in under 18 minutes
#   bash launch/test.sh tests/unit -x      lint, types, and pytest with these arguments
#
# Every stage runs even after one has failed; the exit code is non-zero when any did.
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/launch/setup.sh" tests || exit 1
cd "$root" || exit 1
export PATH="$root/.venv/bin:$PATH"

status=0
check() {
  local name="$1"
  shift
  echo "== $name"
  "$@" || { status=1; echo "== $name FAILED"; }
}

check "ruff" ruff check .
check "pyright" pyright

tests() {
  echo "== pytest $*"
  python -m pytest "$@" || status=1 # no tests collected (exit code 5) is a failure too
}

if [[ $# -gt 0 ]]; then
  tests "$@"
else # .ci/run runs the slow ones too
  tests -q --durations=15 -n 2 --dist worksteal -m "not slow and not long" tests/unit
  # Engines and ranks of one file fill a core and a half; what is left is for another file's.
  tests -q --durations=15 -n 2 --dist loadfile -m "not slow and not long" tests/cluster tests/gpu
fi
exit "$status"
