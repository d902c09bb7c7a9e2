"""cluster.yaml, held against Ray's own check of such files and against what that lets pass. No account needed."""

from __future__ import annotations

import copy
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from kdtune.sweepfile import reader

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
HEADER = re.match(r"(#.*\n)+", TEXT)[0]  # type: ignore[index]
# Parameters of EC2's RunInstances that this file has a use for: Ray passes on whatever it does not know.
EC2 = {
    "InstanceType", "ImageId", "KeyName", "SecurityGroupIds", "SubnetIds", "IamInstanceProfile", "MetadataOptions",
    "BlockDeviceMappings", "InstanceMarketOptions", "TagSpecifications", "Placement",
}  # fmt: skip


@pytest.fixture
def config() -> dict[str, Any]:
    return json.loads(json.dumps(reader.read(ROOT / "cluster.yaml")))


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file before it asks AWS for anything; raises as `ray up` would."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "boto3", None)  # any import of it fails: nothing here may need AWS
        prepared = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    return prepared


def test_ray_accepts_the_file(config: dict[str, Any]) -> None:
    prepared = checked(config)
    assert prepared["head_node_type"] == "head"
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]
    assert prepared["worker_start_ray_commands"] == config["worker_start_ray_commands"]


@pytest.mark.parametrize(
    "key", ["max_workers", "idle_timeout_minutes", "auth", "docker", "file_mounts", "setup_commands"]
)
def test_ray_refuses_a_misspelt_key(config: dict[str, Any], key: str) -> None:
    from jsonschema import ValidationError

    config[key[:-1]] = config.pop(key)
    with pytest.raises(ValidationError, match=key[:-1]):
        checked(config)


def test_ray_refuses_a_misspelt_key_of_a_machine(config: dict[str, Any]) -> None:
    from jsonschema import ValidationError

    config["available_node_types"]["gpu_spot"]["max_worker"] = 8
    with pytest.raises(ValidationError, match="max_worker"):
        checked(config)


def test_images_hold_the_ray_and_a_python_that_the_project_pins(config: dict[str, Any]) -> None:
    import ray

    images = [config["docker"][key] for key in ("image", "head_image")]
    parts = [re.fullmatch(r"rayproject/ray:([\d.]+)-py3(\d+)-(gpu|cpu)", image) for image in images]
    assert parts[0] and parts[1]
    assert parts[0].groups()[:2] == parts[1].groups()[:2] and parts[0][1] == ray.__version__
    pinned = re.search(r"^ray(?:\[[\w,]+\])?==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned and pinned[1] == parts[0][1]
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"3.{parts[0][2]}" in SpecifierSet(supported)


def test_nothing_costs_more_than_the_ceiling_or_stays_behind(config: dict[str, Any]) -> None:
    prepared = checked(config)
    types = prepared["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}  # no run is placed on a machine without a GPU
    assert types["head"]["min_workers"] == types["head"]["max_workers"] == 0
    for name, node in types.items():
        assert node["min_workers"] == 0, name
        assert node["max_workers"] <= config["max_workers"], name
        volumes = [device["Ebs"] for device in node["node_config"]["BlockDeviceMappings"]]
        assert all(volume["DeleteOnTermination"] and volume["Encrypted"] for volume in volumes), name
    workers = [node for name, node in types.items() if name != "head"]
    assert workers and all(node["resources"]["GPU"] >= 1 for node in workers)
    assert config["provider"]["cache_stopped_nodes"] is False and 0 < config["idle_timeout_minutes"] <= 30


def test_nothing_is_open(config: dict[str, Any]) -> None:
    prepared = checked(config)
    starts = prepared["head_start_ray_commands"] + prepared["worker_start_ray_commands"]
    head = next(command for command in starts if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in json.dumps(prepared)
    options = config["docker"]["run_options"]
    assert "-e RAY_AUTH_MODE=token" in options
    token = next(option.partition("RAY_AUTH_TOKEN_PATH=")[2] for option in options if "RAY_AUTH_TOKEN_PATH" in option)
    assert str(Path(token).parent) in config["file_mounts"]  # the token is there before Ray starts, and in no image
    for name, node in prepared["available_node_types"].items():
        machine = node["node_config"]
        assert machine["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}, name
        assert machine["SecurityGroupIds"] and machine["IamInstanceProfile"]["Name"], name  # or Ray makes wide ones
    profiles = {
        name: node["node_config"]["IamInstanceProfile"]["Name"]
        for name, node in prepared["available_node_types"].items()
    }
    assert profiles.pop("head") not in profiles.values()  # workers cannot start machines


def test_what_ray_passes_on_to_ec2_is_spelt_as_ec2_spells_it(config: dict[str, Any]) -> None:
    for name, node in config["available_node_types"].items():
        assert set(node["node_config"]) <= EC2, name


def test_what_is_mounted_is_small_and_holds_still(config: dict[str, Any]) -> None:
    """Ray hashes all of a mounted folder, excluded files too, at each `ray up`, and restarts itself on a change."""
    code = config["file_mounts"]["/home/ray/kdtune"]
    assert "/build/" in (ROOT / ".gitignore").read_text().splitlines() and code.startswith("build/")
    assert f'git clone -q --depth 1 "file://$PWD" {code}' in HEADER
    assert any(command.endswith("-e /home/ray/kdtune") for command in config["setup_commands"])


def test_placeholders_are_in_place_and_explained(config: dict[str, Any]) -> None:
    machine = config["available_node_types"]["head"]["node_config"]
    assert machine["ImageId"] == "ami-REPLACE_ME" and machine["SecurityGroupIds"] == ["sg-REPLACE_ME"]
    placeholders = [machine["ImageId"], *machine["SecurityGroupIds"], "kdtune-head", "kdtune-worker", "BUCKET"]
    assert all(placeholder in HEADER for placeholder in placeholders)
    assert not re.search(r"\b(AKIA\w{16}|ami-[0-9a-f]{8,}|sg-[0-9a-f]{8,})", TEXT)


def test_the_commands_of_the_header_exist() -> None:
    from ray.dashboard.modules.job.cli import job_cli_group
    from ray.scripts.scripts import cli

    named = set(re.findall(r"\bray (up|down|dashboard|exec|attach|monitor|job|stop)\b", HEADER))
    assert {"up", "dashboard", "job", "exec", "attach", "down"} <= named <= set(cli.commands)
    assert set(re.findall(r"\bray job (\w+)", HEADER)) == {"submit", "logs", "stop"} <= set(job_cli_group.commands)
    assert all((ROOT / sweep).is_file() for sweep in re.findall(r"sweeps/\w+\.yaml", HEADER))
