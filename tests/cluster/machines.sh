#!/usr/bin/env bash
# Machines out of namespaces, and what is printed, for loopback.sh and slurm.sh, which read this file.
#
# All of it lives inside one PID namespace, whose end ends every process, mount and interface in it: nothing has to be
# found and tidied up, however the script ends.

# One line and exit status 77 (skipped) for the first of these commands that is not there.
need() {
    local command
    for command; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || skip "$command is missing"
    done
}

skip() {
    echo "skipped: $*"
    exit 77
}

# A pair of bash processes: the outer waits and removes the folder, the inner ("$@") is PID 1 of the namespace.
inside_a_namespace() {
    [ "$(id -u)" = 0 ] || skip "namespaces, mounts and sshd need root"
    need unshare nsenter ip mount useradd
    unshare --pid --fork --mount --net --ipc true 2>/dev/null || skip "this machine allows no new namespaces"
    FOLDER=$(mktemp -d "${TMPDIR:-/tmp}/kdtune-machines.XXXX")
    trap 'kill -KILL "$inner" 2>/dev/null || true; wait "$inner" 2>/dev/null || true; rm -rf "$FOLDER"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    FOLDER=$FOLDER unshare --fork --kill-child --pid --mount-proc --net --mount --ipc --uts "$@" &
    inner=$!
    local status=0
    wait "$inner" || status=$?
    exit "$status"
}

# A bridge for the machines; the script itself stands on it as the laptop from which `ray up` is typed.
network() {
    mount --make-rprivate /
    ip link set lo up
    ip link add machines type bridge
    ip address add 10.77.0.254/24 dev machines
    ip link set machines up
}

# machine NAME ADDRESS COMMAND...: a machine of its own, which runs the command as root. Sets PID_NAME.
#
# Its files are this host's, as they are now, under a layer of its own that takes what it writes; /home, /root, /tmp,
# /run and /dev/shm are empty, and so is this repository's folder. With the others it shares /srv/shared alone.
machine() {
    local name=$1 address=$2
    shift 2
    mkdir -p "$FOLDER/$name/home" "$FOLDER/shared"
    unshare --fork --kill-child --pid --mount --net --ipc --uts \
        bash "$MACHINES" "$FOLDER/$name" "$name" "$address" "$@" </dev/null >"$FOLDER/$name/log" 2>&1 &
    local pid=$!
    until [ -e "$FOLDER/$name/waits" ]; do sleep 0.1; done
    ip link add "$name" type veth peer name eth0 netns "$pid"
    ip link set "$name" master machines up
    until [ -e "$FOLDER/$name/ready" ]; do
        kill -0 "$pid" 2>/dev/null || { cat "$FOLDER/$name/log"; exit 1; }
        sleep 0.1
    done
    printf -v "PID_$name" '%s' "$(tr -d ' ' <"/proc/$pid/task/$pid/children")"
}

# on NAME COMMAND...: runs it there as root, as if typed at its console.
on() {
    local pid=PID_$1
    shift
    nsenter --target "${!pid}" --all --root env -i -C / PATH="$STANDARD_PATH" HOME=/root LC_ALL=C.UTF-8 "$@"
}

STANDARD_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# What is printed.

say() { printf '%s  %s\n' "$(date +%T)" "$*"; }
fail() {
    say "FAILED: $*"
    exit 1
}

# step WORDS: what comes next. Its output is indented; that of ssh, of rsync and of Ray's own talk is left out.
step() { printf '\n%s  == %s\n' "$(date +%T)" "$*"; }
TALK='(INFO|WARN|SUCC) [a-z_]+\.py|To ensure this mount|^(Shared c|C)onnection to|Permanently added|^[[:space:]]*$'
shown() {
    tr -d '\r' | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g' | { grep -vE "$TALK" || true; } | sed 's/^/            /'
}

# tried WANTED COMMAND...: shows the command and what it prints, which is also kept in $FOLDER/said; fails unless its
# status is as wanted ("refused" is any but 0).
tried() {
    local wanted=$1 status=0
    shift
    say "\$ ${*//$FOLDER/...}"
    "$@" >"$FOLDER/said" 2>&1 || status=$?
    shown <"$FOLDER/said" | tail -n "${LINES_SHOWN:-14}" || true
    case $wanted in
    refused) [ $status != 0 ] || fail "was not refused" ;;
    *) [ $status = "$wanted" ] || fail "status $status, not $wanted" ;;
    esac
}
# told PATTERN: what was tried last said so.
told() {
    local line
    line=$(grep -m 1 -E "$1" "$FOLDER/said") || fail "it does not say: $1"
    say "it says: $(tr -d '\r' <<<"$line")"
}

# The other side: this file itself, as PID 1 of a machine.
become() {
    local own=$1 name=$2 address=$3
    shift 3
    mount --make-rprivate /
    hostname "$name"
    touch "$own/waits"
    until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
    ip link set lo up
    ip address add "$address/24" dev eth0
    ip link set eth0 up

    local root=$own/root
    mkdir -p "$own/layer" "$root"
    mount -t tmpfs tmpfs "$own/layer"
    mkdir "$own/layer/upper" "$own/layer/work"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$own/layer/upper,workdir=$own/layer/work" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --rbind /dev "$root/dev"
    local hidden
    for hidden in /run /tmp /dev/shm /root /mnt "$REPOSITORY"; do
        [ -d "$root$hidden" ] || continue
        mount -t tmpfs -o mode="$(stat -c %a "$root$hidden")" tmpfs "$root$hidden"
    done
    chmod 755 "$root/root" # Python may lie below it
    mount --bind "$own/home" "$root/home"
    mkdir -p "$root/srv/shared"
    mount --bind "$own/../shared" "$root/srv/shared"
    local shown
    for shown in ${SHOWN:-}; do # read-only, at its own path
        mkdir -p "$root$shown"
        mount --bind "$shown" "$root$shown"
        mount -o remount,bind,ro "$root$shown"
    done
    echo "$name" >"$root/etc/hostname"
    echo "127.0.0.1 localhost" >"$root/etc/hosts"
    local machine
    for machine in ${HOSTS:-}; do
        echo "${machine#*=} ${machine%%=*}" >>"$root/etc/hosts"
    done
    touch "$own/ready"
    exec env -i PATH="$STANDARD_PATH" LC_ALL=C.UTF-8 chroot "$root" bash -c "$*"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -eu
    become "$@"
fi
MACHINES=$(realpath "${BASH_SOURCE[0]}")
