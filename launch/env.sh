# Source this file, do not run it:  source launch/env.sh
#
# Prepares a shell in which the documented lines work as typed:
#   ray start --head
#   ray job submit --working-dir . -- python -m rzero_ray.driver conf=tiny
#   ray stop
# It installs what is missing and sets what Ray reads. The cluster and the client must both have
# sourced it: Ray hands its own environment on to every job it starts.

_rzero_ray_root="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"
bash "$_rzero_ray_root/launch/setup.sh" || return 1

case "$PATH" in
  "$_rzero_ray_root/.venv/bin:"*) ;;
  *) export PATH="$_rzero_ray_root/.venv/bin:$PATH" ;;
esac

# Ray starts a cluster with token authentication as soon as a token file exists (any earlier local
# run creates one), but its job client only sends the token when told to.
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
if [ "$RAY_AUTH_MODE" = token ]; then
  bash "$_rzero_ray_root/launch/token.sh" || return 1
fi

# `ray job stop` sends SIGTERM, then SIGKILL after this many seconds (Ray's own default is 3).
export RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-60}"
export RAY_USAGE_STATS_ENABLED="${RAY_USAGE_STATS_ENABLED:-0}"
# Ray runs actors at nice 15 unless told: behind everything else, an engine starts four times slower.
export RAY_worker_niceness="${RAY_worker_niceness:-0}"
# A node counts as dead after so many checks without an answer: 25 s after it was cut off, sooner where
# its Ray has ended (Ray's own values make it 65 s). A link that is down for 15 s costs nobody.
export RAY_health_check_period_ms="${RAY_health_check_period_ms:-1000}"
export RAY_health_check_timeout_ms="${RAY_health_check_timeout_ms:-4000}"
export RAY_health_check_failure_threshold="${RAY_health_check_failure_threshold:-5}"
# Ray writes Grafana's dashboards there when a head starts; ours lies beside them (launch/grafana/).
if [ -z "${RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR:-}" ]; then
  export RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR="$HOME/.rzero_ray/grafana"
fi
mkdir -p "$RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR" &&
  cp "$_rzero_ray_root/launch/grafana/rzero.json" "$RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR/"
unset _rzero_ray_root
