#!/usr/bin/env bash
# More nodes for a run that `launch/slurm.sh` started, in a job of their own; then `rzero scale` uses them:
#
#   sbatch --nodes=1 --gpus-per-node=8 launch/slurm-join.sh 10.0.0.1:6379     # the address of the head
#
# It ends by itself some two minutes after the run has; `scancel` gives the nodes back before.
#SBATCH --job-name=rzero-join
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --no-kill
#SBATCH --output=rzero-%j.log
set -uo pipefail

die() { printf 'slurm-join: error: %s\n' "$*" >&2; exit 2; }

[[ -n "${SLURM_JOB_ID:-}" && "${1:-}" == *:* ]] ||
  die "submit it with the address of the head: sbatch --nodes=1 launch/slurm-join.sh 10.0.0.1:6379"
{ cd "$SLURM_SUBMIT_DIR" && source launch/env.sh; } ||
  die "no environment in $SLURM_SUBMIT_DIR on $(hostname); submit from the top of a clone that all nodes see"

if [[ "$RAY_AUTH_MODE" == token ]]; then
  export RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(<"${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}")}"
fi
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-60}"

# On each node: a Ray that joins, and joins again where it has ended, for as long as there is a head.
agent() {
  ulimit -Sn "$(ulimit -Hn)"
  while ray symmetric-run --address "$1" --num-cpus "$SLURM_CPUS_ON_NODE" \
    --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- true; do
    sleep 5
  done
}
export -f agent

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpu-bind=none --no-kill \
  --kill-on-bad-exit=0 bash -c 'agent "$@"' agent "$1"
exit 0 # the head has ended
