"""deploy/: held against Ray's own check and against cluster.yaml. What it does is seen by tests/cluster/."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdtune.sweepfile import reader

ROOT = Path(__file__).parents[1]
LOCAL = ROOT / "deploy" / "local.yaml"
SCRIPTS = sorted([*(ROOT / "deploy").rglob("*.sh"), *(ROOT / "tests" / "cluster").glob("*.sh")])
# Where local.yaml may say other things than cluster.yaml.
OF_A_CLOUD = {"max_workers", "upscaling_speed", "idle_timeout_minutes", "head_node_type", "available_node_types"}
OF_MACHINES = {"cluster_name", "provider", "auth", "initialization_commands"}
FIRST_AUTOSCALER = "export RAY_enable_autoscaler_v2=0; "  # Ray 2.60: the second starts no worker, ray#57153
TIDY = (  # `ray down` reaches the head alone
    " && (nohup bash -c 'while pgrep -s 0 -x raylet; do sleep 5; done; pkill -KILL -s 0'"
    " > /dev/null 2>&1 < /dev/null &)"
)


def read(path: Path) -> dict[str, Any]:
    return json.loads(json.dumps(reader.read(path)))


def test_ray_accepts_the_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(LOCAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "boto3", None)  # any import of it fails
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])


def test_machines_of_ones_own_are_set_up_as_those_of_the_cloud() -> None:
    """All but where results lie, which of Ray's autoscalers there is, and how Ray ends on the other machines."""
    local, cloud = read(LOCAL), read(ROOT / "cluster.yaml")
    assert set(local) - set(cloud) <= OF_MACHINES and set(cloud) - set(local) <= OF_A_CLOUD
    for kind, own in (("head", FIRST_AUTOSCALER), ("worker", TIDY)):
        stop, start = local[f"{kind}_start_ray_commands"]
        assert start.count(own) == 1, kind
        local[f"{kind}_start_ray_commands"] = [stop, start.replace(own, "")]
    where = re.compile(r"^(export KDTUNE_RESULTS=).*$", re.MULTILINE)
    for config in (local, cloud):
        text = json.dumps(config["setup_commands"])
        assert text.count("export KDTUNE_RESULTS=") == 1
        config["setup_commands"] = [where.sub(r"\1", command) for command in config["setup_commands"]]
    for key in set(local) & set(cloud) - OF_MACHINES:
        assert local[key] == cloud[key], key


def test_what_is_mounted_exists() -> None:
    assert all((ROOT / source).exists() for source in read(LOCAL)["file_mounts"].values())


def test_root_is_refused() -> None:
    """As root, `ray stop`, which Ray runs at each `ray up` and `ray down`, ends the Ray of everybody on a machine."""
    (command,) = read(LOCAL)["initialization_commands"]
    stood_in = "id() { echo %d; }; "
    refused = subprocess.run(["bash", "-c", stood_in % 0 + command], capture_output=True, text=True)
    assert refused.returncode == 1 and "must not be root" in refused.stdout
    assert subprocess.run(["bash", "-c", stood_in % 1000 + command]).returncode == 0
    assert read(LOCAL)["auth"]["ssh_user"] != "root"


def test_placeholders_are_in_place_and_the_header_names_what_to_fill_in() -> None:
    config = read(LOCAL)
    assert config["provider"] == {"type": "local", "head_ip": "HEAD_REPLACE_ME", "worker_ips": ["WORKER_REPLACE_ME"]}
    header = re.match(r"(#.*\n)+", LOCAL.read_text())
    assert header and all(
        word in header[0] for word in ("head_ip", "worker_ips", "ssh_private_key", "KDTUNE_RESULTS", "DANGER")
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr == ""
    assert script.stat().st_mode & 0o100 or script.name == "machines.sh"


def test_a_job_of_slurm_is_told_in_time_and_may_be_queued_again() -> None:
    text = (ROOT / "deploy" / "slurm.sh").read_text()
    assert {"--requeue", "--signal=B:USR1@120", "--open-mode=append"} <= set(re.findall(r"^#SBATCH (\S+)", text, re.M))
    assert "ray stop" not in text  # it would end other jobs of the same user on the node
