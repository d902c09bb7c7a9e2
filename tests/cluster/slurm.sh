#!/usr/bin/env bash
# deploy/slurm.sh at work without a cluster: Slurm on two machines made of Linux namespaces, as in loopback.sh. Root:
#
#   ENVIRONMENT=FOLDER tests/cluster/slurm.sh          FOLDER as loopback.sh leaves it
#
# A sweep on both nodes is overtaken by its time limit, queued again, and goes on; beside it another of the same user.
set -euo pipefail
# shellcheck source=machines.sh
. "$(dirname "$0")/machines.sh"
export REPOSITORY
REPOSITORY=$(cd "$(dirname "$0")/../.." && pwd)
TREE=${TREE:-$REPOSITORY}

if [ "${1:-}" != --inside ]; then
    need git rsync munged slurmctld slurmd sbatch
    [ -f "${ENVIRONMENT:-}/installed" ] || skip "give ENVIRONMENT: see the README"
    inside_a_namespace bash "$0" --inside
fi

network
cd "$REPOSITORY"
BASE=$(sed -n 's/^home = //p' "$ENVIRONMENT/pyvenv.cfg")
export SHOWN="${BASE%/bin} $ENVIRONMENT" HOSTS="head=10.77.0.1 worker=10.77.0.2"
SHARED=$FOLDER/shared
mkdir -p "$SHARED/home/kdtune/.venv"
git -C "$TREE" ls-files -zco --exclude-standard |
    rsync -a --from0 --files-from=- --ignore-missing-args "$TREE/" "$SHARED/home/kdtune/"
head -c 1024 /dev/urandom >"$SHARED/munge.key"
cat >"$SHARED/slurm.conf" <<'END'
ClusterName=loopback
SlurmctldHost=head(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=head NodeAddr=10.77.0.1 CPUs=4 RealMemory=4000
NodeName=worker NodeAddr=10.77.0.2 CPUs=4 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES State=UP OverTimeLimit=0
END
START="
set -e
useradd --no-create-home --home-dir /home/kdtune --uid 7701 --shell /bin/bash kdtune
mkdir -p /home/kdtune
chown -R kdtune /srv/shared/home
mount --bind /srv/shared/home /home/kdtune
mount --bind $ENVIRONMENT ~kdtune/kdtune/.venv
install -D -m 400 -o munge /srv/shared/munge.key /etc/munge/munge.key
install -d -o munge /run/munge /var/log/munge /var/lib/munge
setpriv --reuid munge --regid munge --clear-groups munged --foreground &
mkdir -p /etc/slurm /var/spool/slurmctld /var/spool/slurmd
cp /srv/shared/slurm.conf /etc/slurm/slurm.conf
echo CgroupPlugin=cgroup/v1 > /etc/slurm/cgroup.conf # which is not used, and else looked for
until munge -n > /dev/null 2>&1; do sleep 0.2; done
if [ \$(hostname) = head ]; then slurmctld -D & fi
slurmd -D &
wait"
step "Slurm on two nodes, head and worker, with one home folder"
machine head 10.77.0.1 "$START"
machine worker 10.77.0.2 "$START"

as_user() { on head setpriv --reuid kdtune --regid kdtune --clear-groups env HOME=/home/kdtune bash -c "cd ~/kdtune && $1"; }
field() { as_user "scontrol show job $1 -o" | tr ' ' '\n' | sed -n "s/^$2=//p"; }
runs() { find "$SHARED/home/kdtune/results/runs/done" -type f 2>/dev/null | wc -l; }
# until_state JOB SECONDS STATE...: waits for one of these.
until_state() {
    local job=$1 left=$2 state
    shift 2
    while state=$(field "$job" JobState); do
        [[ " $* " != *" $state "* ]] || break
        [ $((left -= 1)) -gt 0 ] || fail "job $job is $state after all that time"
        sleep 1
    done
    say "job $job: $state, exit $(field "$job" ExitCode), restarts $(field "$job" Restarts)"
}
submit() {
    tried 0 as_user "sbatch $1"
    JOB=$(grep -oE '[0-9]+$' "$FOLDER/said")
}
output() { shown <"$SHARED/home/kdtune/kdtune-$1.out" | tail -n "${2:-30}"; }
nothing_left() {
    local each
    for each in head worker; do
        on $each ps -u kdtune -o pid,args >"$FOLDER/said" && fail "left running on $each: $(<"$FOLDER/said")"
        [ -z "$(on $each find /tmp -maxdepth 1 -name 'kd*')" ] || fail "left in /tmp of $each"
    done
    say "no process of the user is left, nothing in /tmp"
}

left=60
until [ "$(as_user 'sinfo -h -t idle -o %D')" = 2 ]; do
    sleep 1
    [ $((left -= 1)) -gt 0 ] || {
        tail -n 20 "$FOLDER/head/log"
        on head tail -n 20 /var/log/slurmctld.log /var/log/slurmd.log
        fail "the nodes do not come up"
    }
done
tried 0 as_user sinfo

BOTH="--nodes=2 --cpus-per-task=2"
SWEEP="sweeps/fickle.yaml --profile laptop seeds=2 teacher.seeds=4 'evaluation=[accuracy]'"
step "a small sweep on both nodes"
submit "$BOTH --time=10 deploy/slurm.sh $SWEEP recipe.epochs=2 'grid=[{dropout: [0.0, 0.2], epochs: [2, 3]}]'"
until_state "$JOB" 300 COMPLETED FAILED
output "$JOB"
[ "$(field "$JOB" ExitCode)" = 0:0 ] || fail "it did not complete"
[ "$(grep -rho '"host": *"[a-z]*"' "$SHARED/home/kdtune/results/runs" --include provenance.json | sort -u | wc -l)" = 2 ] ||
    fail "all runs were on one node"
nothing_left

step "a sweep file with errors fails, with kdtune's status"
submit "--nodes=1 --time=10 deploy/slurm.sh sweeps/fickle.yaml recipe.epoch=3"
until_state "$JOB" 120 COMPLETED FAILED
output "$JOB" 6
[ "$(field "$JOB" ExitCode)" = 2:0 ] || fail "its status is another"
nothing_left

step "a sweep longer than its time, and another of the same user on the same nodes"
first=$(runs)
FEW="sweeps/fickle.yaml --profile laptop seeds=1 teacher.seeds=2 'evaluation=[accuracy]'"
EPOCHS=${EPOCHS:-300}
LENGTHS="recipe.epochs=$EPOCHS 'grid=[{dropout: [0.0, 0.2], epochs: [$EPOCHS, $((EPOCHS + 1))]}]'"
# Slurm counts in minutes: with checkpoints a minute apart, as they are unless told, so short a time would bring nothing.
submit "$BOTH --time=4 deploy/slurm.sh $FEW $LENGTHS --checkpoint-every 2"
LONG=$JOB
OTHER="sweeps/baseline.yaml --profile laptop seeds=1 teacher.seeds=2 recipe.epochs=2 'evaluation=[accuracy]'"
submit "$BOTH --time=10 deploy/slurm.sh $OTHER"
until_state "$JOB" 300 COMPLETED FAILED
output "$JOB" 8
[ "$(field "$JOB" ExitCode)" = 0:0 ] || fail "the other did not complete"
until_state "$LONG" 300 PENDING FAILED COMPLETED
[ "$(field "$LONG" Restarts)" = 1 ] || fail "it was not queued again; if it was done in time, give EPOCHS=1000 or more"
middle=$(runs)
say "$((middle - first)) runs finished before"
find "$SHARED/home/kdtune/results/runs/done" -type f -printf '%f %T@\n' | sort >"$FOLDER/done"
nothing_left
until_state "$LONG" 200 RUNNING
until_state "$LONG" 1800 COMPLETED FAILED
output "$LONG" 60
[ "$(field "$LONG" ExitCode)" = 0:0 ] || fail "it did not complete"
[ "$(runs)" -gt "$middle" ] || fail "it did nothing the second time"
find "$SHARED/home/kdtune/results/runs/done" -type f -printf '%f %T@\n' | sort | comm -13 - "$FOLDER/done" | grep . &&
    fail "these were done again"
nothing_left

step "scancel"
submit "$BOTH --time=10 deploy/slurm.sh $SWEEP recipe.epochs=300 'grid=[{dropout: [0.3], epochs: [300]}]'"
until_state "$JOB" 60 RUNNING
until grep -q 'of 2 nodes' "$SHARED/home/kdtune/kdtune-$JOB.out" 2>/dev/null; do sleep 1; done
sleep 15
tried 0 as_user "scancel $JOB"
until_state "$JOB" 60 CANCELLED
for _ in $(seq 60); do [ -n "$(on head pgrep -u kdtune .)$(on worker pgrep -u kdtune .)" ] || break; sleep 1; done
output "$JOB" 8
nothing_left

printf '\n%s  all as it should be, after %d s\n' "$(date +%T)" $SECONDS
