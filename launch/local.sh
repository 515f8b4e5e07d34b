#!/usr/bin/env bash
# Runs rzero_ray on this machine, with a Ray of its own that ends with it:
#
#   bash launch/local.sh                              the embedded default, conf=tiny
#   bash launch/local.sh conf=tiny num_iterations=1   any configuration, any key
#
# Exit code and signals are the driver's own.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
bash "$root/launch/setup.sh"

conf=(conf=tiny)
for argument in "$@"; do
  [[ "$argument" != conf=* ]] || conf=()
done

cd "$root"
export PATH="$root/.venv/bin:$PATH"
export RAY_ADDRESS=local # never join a cluster that happens to run here
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
[ "${RAY_AUTH_MODE:-token}" != token ] || bash launch/token.sh
export RAY_worker_niceness="${RAY_worker_niceness:-0}" # else actors run behind everything else here
# exec: the driver takes this process's place, so signals reach it and its exit code is ours.
exec python -m rzero_ray.driver ${conf[@]+"${conf[@]}"} "$@"
