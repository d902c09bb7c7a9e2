"""A cluster that grows and shrinks on this machine: Ray's own autoscaler with its provider of fake nodes.

Ray's `AutoscalingCluster` calls `ray stop`, which ends whatever Ray there is; here processes are ended by their ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.test_faults import descendants

IDLE_MINUTES = 0.1  # until a node goes


def node_type(most: int, **resources: int) -> dict[str, Any]:
    return {"resources": resources, "node_config": {}, "min_workers": 0, "max_workers": most}


@contextlib.contextmanager
def autoscaled(**types: dict[str, Any]) -> Iterator[str]:
    """The address of a head without a core and without workers, which starts nodes of these types when asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="kdt", dir="/tmp"))  # sockets lie there: at most 107 bytes
    address = f"127.0.0.1:{port}"
    (folder / "cluster.json").write_text(json.dumps(config(address, types)))
    words = ["start", "--head", "--block", "--port", str(port), "--node-ip-address", "127.0.0.1", "--num-cpus", "0"]
    words += ["--num-gpus", "0", "--include-dashboard", "false", "--temp-dir", str(folder)]
    words += ["--object-store-memory", "100000000", "--autoscaling-config", str(folder / "cluster.json")]
    environment = os.environ | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with (folder / "out").open("w") as out:
        head = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), *words], env=environment, stdout=out, stderr=out
        )
    try:
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert head.poll() is None and time.monotonic() < deadline, (folder / "out").read_text()
            time.sleep(0.2)
        yield address
    finally:
        below = descendants(head.pid)
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(30)
        for pid in (head.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()


def config(address: str, types: dict[str, Any]) -> dict[str, Any]:
    """As `ray up` leaves it on a head."""
    provider = {"type": "fake_multinode", "gcs_address": address, "launch_multiple": True}
    provider |= dict.fromkeys(("disable_node_updaters", "disable_launch_config_check", "foreground_node_launch"), True)
    provider["use_node_id_as_ip"] = True  # all of its nodes have this machine's address
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    head = {"resources": {"CPU": 0, "GPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "fake",
        "max_workers": 4,
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 4.0,
        "provider": provider,
        "auth": {},
        "docker": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": head, **types},
        **{f"{name}_commands": [] for name in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }
