#!/usr/bin/env bash
# A run on the nodes of a Slurm job, which get a Ray for as long as the job lasts:
#
#   sbatch --nodes=1 --gpus-per-node=8 launch/slurm.sh conf=qwen3_8b run_dir=/shared/runs/qwen3_8b
#
# Submit it from the top of the clone, in a folder that all nodes see, as they must see run_dir. What
# follows the script goes to the driver, which runs on the first node. launch/clusters.md has the rest.
#
#   RZERO_HEAD_IP=10.0.0.1   the first node's address, where `hostname -I` begins with another one
#
# symmetric-run ends with `ray stop`, which ends every Ray of a node: so nodes are not shared.
#SBATCH --job-name=rzero
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
# Shortly before the time is up the driver is told to stop, and the job is queued again: it goes on.
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
# A node that fails ends neither the job nor the run, which replaces its actors on the others.
#SBATCH --no-kill
#SBATCH --open-mode=append
#SBATCH --output=rzero-%j.log
set -uo pipefail

MOST_FAILURES=3 # of the driver, after which the job is not queued again
LEAVE_S=60      # for the other nodes' Ray to end, once the driver has

say() { printf 'slurm: %s\n' "$*" >&2; }
die() { say "error: $*"; exit 2; }

[[ -n "${SLURM_JOB_ID:-}" ]] || die "this is a batch script; submit it: sbatch --nodes=1 launch/slurm.sh conf=NAME"
{ cd "$SLURM_SUBMIT_DIR" && source launch/env.sh; } ||
  die "no environment in $SLURM_SUBMIT_DIR on $(hostname); submit from the top of a clone that all nodes see"

# Of the job, and readable by its user alone. `driver` holds the driver's process number, `ended` its exit
# code, `failures` a line for each time that it failed.
export folder="$SLURM_SUBMIT_DIR/logs/slurm-$SLURM_JOB_ID"
(umask 077 && mkdir -p "$folder")
rm -f "$folder/driver" "$folder/ended"

# The other nodes need the token too, and may have a home of their own.
if [[ "$RAY_AUTH_MODE" == token ]]; then
  export RAY_AUTH_TOKEN="${RAY_AUTH_TOKEN:-$(<"${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}")}"
fi
# Not a name: on its own node it may stand for 127.0.1.1, and symmetric-run then starts no head at all.
export head="${RZERO_HEAD_IP:-$(hostname -I | cut -d' ' -f1)}:6379"
say "the head is $head on $(hostname); the files of the job are in $folder"
# Nodes come up one after the other; Ray's own 30 s are too few.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="${RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT:-600}"

# The driver's lines go to the log of the job, those of Ray to a file of each node.
export log="/proc/$$/fd/1"
exec >>"$log" 2>&1 # each behind what the other has written, whatever --open-mode says
ray_of_node() {
  ray symmetric-run --address "$head" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_ON_NODE" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- bash -c '
      [[ ! -s "$folder/ended" ]] || exit 130 # stopped before it began
      echo $$ >"$folder/driver"
      RAY_ADDRESS="$head" exec python -m rzero_ray.driver "$@" >>"$log" 2>&1' driver "$@"
}

# On each node. The first one's Ray is the head, runs the driver and ends with it. Another node's Ray ends
# where it was cut off for too long, and then joins again; once the driver has ended nothing is left to ask.
agent() {
  local code ray_log="$folder/ray-$SLURM_NODEID.log"
  ulimit -Sn "$(ulimit -Hn)"
  if [[ "$SLURM_NODEID" == 0 ]]; then
    ray_of_node "$@" >>"$ray_log" 2>&1
    code=$?
    [[ -s "$folder/driver" ]] || code=1 # symmetric-run ends with 0 where Ray did not start
    [[ -s "$folder/ended" ]] || echo "$code" >"$folder/ended"
    return
  fi
  while [[ ! -s "$folder/ended" ]]; do
    ray_of_node >>"$ray_log" 2>&1 &
    while kill -0 $! 2>/dev/null && [[ ! -s "$folder/ended" ]]; do sleep 2; done
    sleep 3
  done
  ray stop --force >/dev/null 2>&1
}
export -f agent ray_of_node

# The driver alone is told: a signal to the whole step would end Ray under it.
stop_driver() {
  say "stopping the driver: $stopping"
  if [[ -s "$folder/driver" ]]; then
    kill -TERM "$(<"$folder/driver")" 2>/dev/null
  else
    echo 130 >"$folder/ended"
  fi
}
stopping=""
trap 'stopping="the time of the job is nearly up"; stop_driver' USR1
trap 'stopping="SIGTERM"; stop_driver' TERM

# Without --cpu-bind=none Slurm may hold the one task of a node, and all of Ray with it, to one core.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpu-bind=none --no-kill \
  --kill-on-bad-exit=0 bash -c 'agent "$@"' agent "$@" &
step=$!
wait_a_second() { # which a signal interrupts
  sleep 1 &
  wait $!
}
while kill -0 "$step" 2>/dev/null && [[ ! -s "$folder/ended" ]]; do wait_a_second; done
for ((second = 0; second < LEAVE_S; second++)); do
  kill -0 "$step" 2>/dev/null || break
  wait_a_second
done

code=1
[[ ! -s "$folder/ended" ]] || code="$(<"$folder/ended")"
[[ -s "$folder/driver" || -n "$stopping" ]] || say "error: the driver did not start; $folder/ray-0.log says why"
goes_on() {
  case "$code" in 0 | 2 | 3) return 1 ;; esac # done, a wrong command, a budget that is spent
  [[ -z "$stopping" ]] || { [[ "$stopping" != SIGTERM ]]; return; }
  echo "exit code $code" >>"$folder/failures"
  (($(wc -l <"$folder/failures") <= MOST_FAILURES))
}
if goes_on; then
  say "the driver ended with $code; the job is queued again, and the run goes on where it was"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
