#!/usr/bin/env bash
# A sweep on an allocation of Slurm, from this repository's folder, which all nodes see (as results/, or KDTUNE_RESULTS):
#
#   sbatch --nodes=4 --gpus-per-node=1 --time=12:00:00 deploy/slurm.sh sweeps/fickle.yaml [anything kdtune.sweep takes]
#
# Before: the environment of README.md in .venv, made on a node; and the data, where nodes have no network:
# one `python -m kdtune.sweep ... --dry-run` on the login node says what lacks. squeue, tail -f kdtune-JOB.out; scancel
# JOB ends it, and the same sbatch goes on from the last checkpoints. So does this script by itself: two minutes before
# the time limit the sweep saves what it has, and the job is queued again. What it ends with is kdtune's own status.
#
# On each node it uses what Slurm gave it, and no more; a Ray of another job on the same node, yours or not, is left
# alone: every port is one that was free, and nothing is ended but by its own srun. Not encrypted: Ray's traffic,
# with the token in it, between the nodes.
# Seen at work with Slurm 22.05 on two nodes made of namespaces, without GPUs, one requeue included: tests/cluster/slurm.sh.
#
#SBATCH --job-name=kdtune
#SBATCH --output=kdtune-%j.out
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -uo pipefail

cd "${SLURM_SUBMIT_DIR:?is a script for sbatch}" || exit 4
[ -d .venv ] && PATH=$PWD/.venv/bin:$PATH
for command in ray python; do
    command -v $command >/dev/null || { echo "no $command on $(hostname): make the environment of README.md"; exit 4; }
done
echo "$(date '+%F %T') job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${SLURM_RESTART_COUNT:-0} + 1)): $*"

# Whoever has the token runs code as you. In the environment it is seen by your own processes alone.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # runs go on from checkpoints anyway; Ray would take 30 s to end
unset RAY_ADDRESS
head=$SLURMD_NODENAME # this script runs on the first node
read -r port client_port < <(python -c '
import socket
held = [socket.socket() for _ in range(2)]
for each in held:
    each.bind(("", 0))
print(*(each.getsockname()[1] for each in held))')
folder=/tmp/kd$SLURM_JOB_ID # sockets lie in it: at most 107 bytes, so not in a long TMPDIR
nodes=$SLURM_JOB_NUM_NODES

# On one task a node, with all that the job has there.
everywhere=(srun --overlap --ntasks-per-node=1 --cpu-bind=none --kill-on-bad-exit=0)
# What a node runs, with the node's own numbers. Without 0, Ray takes fixed ports, those of a second Ray on the node.
# Cancelled, all processes of a job are told to end, and no step can be started any more: so each node tidies up itself.
# shellcheck disable=SC2016
started='trap : TERM
    ulimit -Sn "$(ulimit -Hn)"
    ray start --block --num-cpus="$SLURM_CPUS_ON_NODE" --min-worker-port=0 --max-worker-port=0 \
        --dashboard-agent-listen-port=0 "$@" &
    wait $!
    while kill -0 $! 2>/dev/null; do wait $!; done
    rm -rf "/tmp/kd$SLURM_JOB_ID"'

# USR1: the time is nearly up. TERM: scancel, or a job that takes the place of this one; Slurm sends it to the sweep too.
time_is_up='' sweep=''
trap 'time_is_up=yes; echo "$(date "+%F %T") the time is nearly up"; [ -z "$sweep" ] || kill -TERM "$sweep"' USR1
trap : TERM

steps=()
finish() {
    trap '' TERM USR1
    [ ${#steps[@]} = 0 ] || { kill -TERM "${steps[@]}"; wait "${steps[@]}"; } 2>/dev/null
    "${everywhere[@]}" --nodes="$nodes" --ntasks="$nodes" rm -rf "$folder" 2>/dev/null # where Slurm had to kill
}
failed() {
    echo "$*"
    finish
    exit 4
}

"${everywhere[@]}" --nodes=1 --ntasks=1 --nodelist="$head" bash -c "$started" ray \
    --head --port="$port" --include-dashboard=false --ray-client-server-port="$client_port" --temp-dir="$folder" &
steps+=($!)
deadline=$((SECONDS + 120))
until (exec 3<>"/dev/tcp/$head/$port") 2>/dev/null; do
    if [ $SECONDS -gt $deadline ] || ! kill -0 "${steps[0]}" 2>/dev/null; then failed "Ray does not start on $head"; fi
    sleep 1
done
if [ "$nodes" -gt 1 ]; then
    "${everywhere[@]}" --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$head" bash -c "$started" ray \
        --address="$head:$port" &
    steps+=($!)
fi

# Those that have not come after two minutes may come later, or not.
python - "$head:$port" "$nodes" <<'END' || failed "Ray on $head does not answer"
import sys, time
import ray

ray.init(address=sys.argv[1], logging_level="ERROR")
deadline = time.monotonic() + 120
while (up := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[2]) and time.monotonic() < deadline:
    time.sleep(1)
print(f"{up} of {sys.argv[2]} nodes,", {name: n for name, n in ray.cluster_resources().items() if name in ("CPU", "GPU")})
END

[ -z "$time_is_up" ] || failed "no time was left to begin"
python -m kdtune.sweep "$@" --address "$head:$port" &
sweep=$!
wait "$sweep"
while kill -0 "$sweep" 2>/dev/null; do wait "$sweep"; done # a signal ends the wait, not the sweep
wait "$sweep" # once more, for its own status
status=$?
echo "$(date '+%F %T') the sweep ended with status $status"
finish
if [ -n "$time_is_up" ] && [ $status = 143 ]; then
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script meanwhile
fi
exit $status
