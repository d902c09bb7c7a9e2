#!/usr/bin/env bash
# deploy/local.yaml at work without a cloud: a laptop, a head and a worker, which are Linux namespaces of this machine.
# tests/cluster/README.md says what is needed and what it shows. Root, from anywhere:
#
#   WHEELS=FOLDER tests/cluster/loopback.sh            the machines install kdtune from the wheels in FOLDER
#   ENVIRONMENT=FOLDER tests/cluster/loopback.sh       they have it, as an earlier run left it in FOLDER
#
# With both, and no FOLDER of an environment yet, that of the head is kept there at the end.
set -euo pipefail
# shellcheck source=machines.sh
. "$(dirname "$0")/machines.sh"
export REPOSITORY PYTHON
REPOSITORY=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-$REPOSITORY/.venv/bin/python}
TREE=${TREE:-$REPOSITORY} # what is deployed

if [ "${1:-}" != --inside ]; then
    need git rsync ssh ssh-keygen sshd
    "$PYTHON" -c 'import ray' 2>/dev/null || skip "$PYTHON has no Ray; PYTHON=... names another"
    [ -d "${WHEELS:-}" ] || [ -f "${ENVIRONMENT:-}/installed" ] || skip "give WHEELS or ENVIRONMENT: see the README"
    inside_a_namespace bash "$0" --inside
fi

# ---- the laptop

ray() { "$PYTHON" -m ray.scripts.scripts "$@"; }
at_head() { tried 0 ray exec local.yaml "$1"; }
runs() { find "$FOLDER/shared/kdtune/runs/done" -type f 2>/dev/null | wc -l; }

network
cd "$REPOSITORY"
export HOME=$FOLDER/laptop
mkdir -p "$HOME/.ssh" "$HOME/kdtune"
ssh-keygen -q -t ed25519 -N '' -f "$HOME/.ssh/kdtune"
git -C "$TREE" ls-files -zco --exclude-standard |
    rsync -a --from0 --files-from=- --ignore-missing-args "$TREE/" "$HOME/kdtune/"
cd "$HOME/kdtune"
for notes in /tmp/ray "/tmp/ray_ssh_$(printf %s "$(id -un)" | sha256sum | cut -c1-10)"; do # where Ray has its own, always
    mkdir -p "$notes"
    mount -t tmpfs tmpfs "$notes"
done
sed -e "s/HEAD_REPLACE_ME/10.77.0.1/; s/WORKER_REPLACE_ME/10.77.0.2/; s|~/.ssh/kdtune|$HOME/.ssh/kdtune|" deploy/local.yaml >local.yaml
! grep -n REPLACE_ME local.yaml | grep -v '^[0-9]*:#' || fail "something of deploy/local.yaml is not filled in"

# ---- the machines

BASE=$("$PYTHON" -c 'import sys; print(sys.base_prefix)')
export SHOWN="$BASE ${WHEELS:-}" HOSTS="head=10.77.0.1 worker=10.77.0.2"
mkdir -p "$FOLDER/shared/kdtune"
cp "$HOME/.ssh/kdtune.pub" "$FOLDER/shared/key"
START="
set -e
useradd --create-home --uid 7701 --shell /bin/bash --password '*' kdtune
useradd --no-create-home --uid 7702 neighbour
install -d -o kdtune -m 700 ~kdtune/.ssh
install -o kdtune -m 600 /srv/shared/key ~kdtune/.ssh/authorized_keys
install -D -m 600 /srv/shared/key ~root/.ssh/authorized_keys
chown kdtune /srv/shared/kdtune
printf '#!/bin/sh\nexec $BASE/bin/python3 \"\$@\"\n' > /usr/local/bin/python3
chmod 755 /usr/local/bin/python3
printf '[global]\nno_index = true\nfind_links = ${WHEELS:-/nowhere}\n' > /etc/pip.conf
rm -rf /etc/xdg/pip
if [ -f '${ENVIRONMENT:-}/installed' ]; then
    install -d -o kdtune ~kdtune/kdtune ~kdtune/kdtune/.venv
    mkdir /run/upper /run/work && chown kdtune /run/upper
    mount -t overlay overlay -o lowerdir=${ENVIRONMENT:-},upperdir=/run/upper,workdir=/run/work ~kdtune/kdtune/.venv
fi
cp /bin/sleep /usr/local/bin/raylet # what ray stop looks for
setpriv --reuid neighbour --clear-groups /usr/local/bin/raylet infinity &
mkdir -p /run/sshd
ssh-keygen -A > /dev/null
/usr/sbin/sshd -D -e -o UsePAM=no &
wait"
[ ! -f "${ENVIRONMENT:-}/installed" ] || SHOWN="$SHOWN $ENVIRONMENT"
step "two machines, head 10.77.0.1 and worker 10.77.0.2, share /srv/shared and nothing else"
machine head 10.77.0.1 "$START"
machine worker 10.77.0.2 "$START"
for address in 10.77.0.1 10.77.0.2; do
    until (exec 3<>"/dev/tcp/$address/22") 2>/dev/null; do sleep 0.2; done
done

# of NAME: the processes of kdtune on that machine, but for those of ssh.
of() { on "$1" ps -u kdtune -o pid=,args= | grep -vE 'sshd:|\(sd-pam\)' || true; }
both_up() {
    local deadline=$((SECONDS + 900)) # it makes its environment now
    until ray exec local.yaml "ray status" >"$FOLDER/said" 2>&1 && grep -qE '^ 2 local.cluster.node' "$FOLDER/said"; do
        sleep 2
        [ $SECONDS -lt $deadline ] || {
            at_head "tail -n 40 /tmp/ray/session_latest/logs/monitor.out"
            fail "the worker did not come"
        }
    done
    say "both machines are up"
}

step "root is refused, before Ray is stopped or started"
sed 's/ssh_user: kdtune/ssh_user: root/' local.yaml >root.yaml
LINES_SHOWN=2 tried refused ray up -y --no-config-cache root.yaml
told "^ssh_user must not be root"

step "ray up"
if [ -f "${ENVIRONMENT:-}/installed" ]; then
    say "the environment is one of an earlier run"
else
    say "each machine makes its environment"
fi
LINES_SHOWN=40 tried 0 ray up -y --no-config-cache local.yaml
both_up
for each in head worker; do
    [ "$(on "$each" bash -c 'stat -c "%a %U" ~kdtune/.ray/auth_token')" = "600 kdtune" ] ||
        fail "others can read the token on $each"
done

SWEEP="python -m kdtune.sweep sweeps/fickle.yaml --profile laptop seeds=2 teacher.seeds=4 'evaluation=[accuracy]'"
SMALL="$SWEEP recipe.epochs=2 'grid=[{dropout: [0.0, 0.2], epochs: [2, 3]}]'"
step "a sweep, typed on the laptop"
at_head "$SMALL"
told "16 done"
first=$(runs)
[ "$first" -gt 0 ] || fail "no run is in the store"
grep -rho '"host": *"[a-z]*"' "$FOLDER"/shared/kdtune/runs/*/*/provenance.json | sort | uniq -c | shown
[ "$(grep -rho '"host": *"[a-z]*"' "$FOLDER"/shared/kdtune/runs/*/*/provenance.json | sort -u | wc -l)" = 2 ] ||
    fail "all runs were on one machine"

step "the same command again: nothing is left to do"
at_head "$SMALL"
told "16 done"
[ "$(runs)" = "$first" ] || fail "it did something"

LARGE="$SWEEP recipe.epochs=30 'grid=[{dropout: [0.1, 0.3], epochs: [30, 31]}]'"
step "as a job, which is ended in the middle, and goes on"
at_head "ray job submit --submission-id first --no-wait -- $LARGE"
until [ "$(runs)" -gt "$first" ]; do
    sleep 2
    ray exec local.yaml "ray job status first" >"$FOLDER/said" 2>&1
    grep -qE 'PENDING|RUNNING' "$FOLDER/said" || {
        at_head "ray job logs first"
        fail "the job has ended"
    }
done
say "a run of it is finished"
at_head "ray job stop first"
at_head "ray job status first"
told "was stopped"
stopped=$(runs)
at_head "ray job logs first"
told "done, [0-9]+ stopped|go on" # it had the time to say so
at_head "ray job submit --submission-id second -- $LARGE"
told "succeeded"
[ "$(runs)" -gt "$stopped" ] || fail "the second job did nothing"

step "without the token, and with a wrong one"
for without in "RAY_AUTH_MODE=disabled" "RAY_AUTH_TOKEN=wrong"; do
    LINES_SHOWN=3 tried refused ray exec local.yaml "$without timeout 60 ray status"
    told AuthenticationError
    LINES_SHOWN=3 tried refused ray exec local.yaml \
        "$without RAY_ADDRESS=http://127.0.0.1:8265 ray job submit --no-wait -- touch /tmp/owned"
    told "Unauthorized|Authentication"
done
on head test ! -e /tmp/owned || fail "a job was taken"
for token in "" wrong; do
    tried 0 "$PYTHON" -c 'import sys; from kdtune.launch.door import answer; print(answer(*sys.argv[1:]))' \
        10.77.0.1:6379 "$token"
    told UNAUTHENTICATED
done
tried refused timeout 5 bash -c 'exec 3<>/dev/tcp/10.77.0.1/8265' # the dashboard is the head's own

step "ray up once more, while all is up"
LINES_SHOWN=3 tried 0 ray up -y --no-config-cache local.yaml
both_up

# down: ray down, and nothing of it is left on either machine; the neighbour's process is.
down() {
    tried 0 ray down -y local.yaml
    local began=$SECONDS each
    for each in head worker; do
        until [ -z "$(of $each)" ]; do
            sleep 2
            [ $((SECONDS - began)) -lt 240 ] || { of $each; fail "left running on $each"; }
        done
        say "nothing of kdtune runs on $each, $((SECONDS - began)) s after ray down"
        [ -n "$(on "$each" ps -u neighbour -o pid=)" ] || fail "the neighbour's process is gone"
    done
}
step "ray down"
down

step "up again: results are still there"
LINES_SHOWN=3 tried 0 ray up -y --no-config-cache local.yaml
both_up
before=$(runs)
at_head "$SMALL"
[ "$(runs)" = "$before" ] || fail "it did something"

step "down"
down
if [ -n "${ENVIRONMENT:-}" ] && [ ! -e "$ENVIRONMENT" ]; then
    cp -a "$FOLDER/head/home/kdtune/kdtune/.venv" "$ENVIRONMENT"
    say "kept: $ENVIRONMENT"
fi
printf '\n%s  all as it should be, after %d s\n' "$(date +%T)" $SECONDS
