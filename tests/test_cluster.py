"""cluster.yaml, held against Ray's own check of such files and against what that lets pass; what it runs on a machine.

No account needed: tests/test_aws.py has what happens on AWS.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from kdtune.cli import command
from kdtune.doctor.clusterfile import EC2
from kdtune.sweepfile import reader

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "cluster.yaml").read_text()
HEADER = re.match(r"(#.*\n)+", TEXT)[0]  # type: ignore[index]


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


def test_ray_accepts_the_file_and_reads_it_as_we_do(config: dict[str, Any]) -> None:
    import yaml

    assert yaml.safe_load(TEXT) == config
    prepared = checked(config)
    assert prepared["head_node_type"] == "head"
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]
    assert prepared["worker_start_ray_commands"] == config["worker_start_ray_commands"]
    assert prepared["head_setup_commands"] == config["setup_commands"] + config["head_setup_commands"]
    assert prepared["worker_setup_commands"] == config["setup_commands"]


@pytest.mark.parametrize(
    "key", ["max_workers", "idle_timeout_minutes", "auth", "cluster_synced_files", "file_mounts", "setup_commands"]
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
    assert all(node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"} for node in workers)
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert config["provider"]["cache_stopped_nodes"] is False and 0 < config["idle_timeout_minutes"] <= 30


def test_nothing_is_open(config: dict[str, Any]) -> None:
    prepared = checked(config)
    starts = prepared["head_start_ray_commands"] + prepared["worker_start_ray_commands"]
    head = next(command for command in starts if "--head" in command)
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in json.dumps(prepared)
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


def test_what_is_mounted_is_all_that_an_installation_needs_and_is_small(config: dict[str, Any]) -> None:
    """Ray hashes all of a mounted folder, excluded files too, at each `ray up`."""
    mounts = config["file_mounts"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {"kdtune", "sweeps", "analysis", "pyproject.toml", "constraints.txt"}
    assert set(mounts.values()) == needed | {project["readme"], *project["license-files"]}
    for there, here in mounts.items():
        assert there == f"~/kdtune/{here}" and (ROOT / here).exists()
        assert not [path for path in (ROOT / here).rglob("*") if path.name in (".git", ".venv", "results")]
    sizes = [path.stat().st_size for here in mounts.values() for path in [ROOT / here, *(ROOT / here).rglob("*.*")]]
    assert sum(sizes) < 20 * 2**20


def in_ray_s_shell(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """As ray up, ray exec and ray attach run a command over SSH, whose other end reads the words once more."""
    from ray.autoscaler._private.command_runner import _with_interactive

    environment = {"HOME": str(home), "PATH": os.defpath}
    return subprocess.run(
        ["bash", "-c", " ".join(_with_interactive(command))],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,  # an interactive shell would take the terminal
    )


@pytest.fixture
def machine(tmp_path: Path, config: dict[str, Any]) -> Path:
    """The home of a machine to which Ray has copied what is mounted, after the first command; a second time too."""
    (tmp_path / "kdtune").mkdir()
    for _ in range(2):
        assert in_ray_s_shell(config["setup_commands"][0], tmp_path).returncode == 0
    return tmp_path


def test_every_command_finds_its_environment(machine: Path) -> None:
    """The plain command joins the cluster, in the folder of the sweeps, with the Python that has everything."""
    asked = "pwd; echo $PATH; env | grep -E '^(RAY_|KDTUNE_)' | sort"
    done = in_ray_s_shell(asked, machine)
    folder, path, *variables = done.stdout.splitlines()
    assert folder == f"{machine}/kdtune" and path.split(":")[0] == f"{machine}/kdtune/.venv/bin"
    assert [name for name in variables if not name.startswith("RAY_JOB_STOP_WAIT_TIME_S=")] == [
        "KDTUNE_RESULTS=s3://BUCKET/kdtune",
        "RAY_ADDRESS=auto",
        "RAY_AUTH_MODE=token",
    ]
    assert len(variables) == 4, "Ray kills a job that it stops 3 s after asking it to end, if it is not told to wait"
    assert (machine / ".bashrc").read_text().count("kdtune/environment ") == 1
    plain = subprocess.run(
        ["bash", "-c", ". ~/.bashrc; pwd"],
        env={"HOME": str(machine), "PATH": os.defpath},
        cwd=machine,
        capture_output=True,
        text=True,
        check=True,
    )
    assert plain.stdout.strip() == str(machine), "rsync's shell stays where it is"
    (machine / "kdtune" / "environment").unlink()
    assert "KDTUNE" not in in_ray_s_shell("env", machine).stdout, "who deletes ~/kdtune is rid of it"


def stub(folder: Path, name: str, script: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "$HOME/called"\n{script}\n')
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("user", ["0", "1000"])
def test_the_environment_is_made_once(user: str, tmp_path: Path, config: dict[str, Any]) -> None:
    """On a Python without venv, as Debian and Ubuntu have it: root calls apt-get itself, others by sudo."""
    programs, code = tmp_path / "programs", tmp_path / "kdtune"
    pip = (
        'mkdir -p "$4/bin"; printf "#!/bin/bash\\necho pip \\$* >> $HOME/called" > "$4/bin/pip"; chmod +x "$4/bin/pip"'
    )
    stub(programs, "python3", f'if [ "$1" = -c ]; then test -e "$HOME/has_venv"; else {pip}; fi')
    stub(programs, "id", f"echo {user}")
    stub(programs, "sudo", 'exec "$@"')
    stub(programs, "apt-get", '[[ "$*" != *install* ]] || touch "$HOME/has_venv"')
    code.mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (code / name).write_text(name)

    def called() -> list[str]:
        (tmp_path / "called").write_text("")
        for line in config["setup_commands"][1:]:
            environment = {"HOME": str(tmp_path), "PATH": f"{programs}:{os.defpath}"}
            subprocess.run(["bash", "-c", line], env=environment, check=True, timeout=60)
        return [
            line for line in (tmp_path / "called").read_text().splitlines() if not line.startswith(("id", "python3"))
        ]

    sudo = [] if user == "0" else ["sudo"]
    first = called()
    assert [line.split()[0] for line in first] == [*sudo, "apt-get", *sudo, "apt-get", "pip"]
    assert first[-1] == "pip install -q -c constraints.txt -e . ray[default] boto3"
    assert called() == []
    (code / "constraints.txt").write_text("another")
    assert [line.split()[0] for line in called()] == ["pip"]


def test_a_failing_installation_is_no_success(tmp_path: Path, config: dict[str, Any]) -> None:
    stub(tmp_path / "kdtune" / ".venv" / "bin", "pip", "exit 1")
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    done = subprocess.run(["bash", "-c", config["setup_commands"][-1]], env=environment, check=False, timeout=60)
    assert done.returncode != 0 and not (tmp_path / "kdtune" / ".venv" / "installed").exists()


def test_the_token_is_the_owner_s_alone_and_made_once(tmp_path: Path, config: dict[str, Any]) -> None:
    (command,) = config["head_setup_commands"]
    environment = {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.defpath}"}
    token, tokens = tmp_path / ".ray" / "auth_token", set()
    for _ in range(2):
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        tokens.add(token.read_text())
        assert token.stat().st_mode & 0o777 == 0o600 and token.parent.stat().st_mode & 0o077 == 0
        assert token.read_text() not in done.stdout + done.stderr
        token.chmod(0o644)  # as `ray.init` of a Ray on this machine leaves it
    assert len(tokens) == 1 and len(tokens.pop()) >= 32


def test_ray_starts_where_the_sweeps_are_after_what_ran_before_is_stopped(config: dict[str, Any]) -> None:
    """`ray stop` first, or a second `ray up` fails; Ray starts in the folder of the sweeps, where jobs then start."""
    for role in ("head", "worker"):
        stop, start = config[f"{role}_start_ray_commands"]
        assert stop == "ray stop" and "cd ~/kdtune && ray start " in start
    assert "--address=$RAY_HEAD_IP:6379" in config["worker_start_ray_commands"][1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in config["head_start_ray_commands"][1]


def test_placeholders_are_in_place_and_explained(config: dict[str, Any]) -> None:
    machine = config["available_node_types"]["head"]["node_config"]
    assert machine["ImageId"] == "ami-REPLACE_ME" and machine["SecurityGroupIds"] == ["sg-REPLACE_ME"]
    assert all(placeholder in HEADER for placeholder in [machine["ImageId"], *machine["SecurityGroupIds"], "BUCKET"])
    assert not re.search(r"\b(AKIA\w{16}|ami-[0-9a-f]{8,}|sg-[0-9a-f]{8,})", TEXT)


def header_commands() -> list[list[str]]:
    """The commands of the header, as words; what stands behind three spaces explains."""
    lines = [line.removeprefix("#   ") for line in HEADER.splitlines() if line.startswith("#   ")]
    return [shlex.split(re.split(r"\s{3,}", line)[0]) for line in lines]


def parse(words: list[str]) -> click.Context | None:
    """Parses a command of Ray, or the one that it carries to the head, without doing it; click.UsageError if wrong."""
    from ray.dashboard.modules.job.cli import job_cli_group
    from ray.scripts.scripts import cli

    if words[:2] == ["ray", "job"]:
        return job_cli_group.commands[words[2]].make_context(words[2], words[3:])
    if words[0] == "ray":
        return cli.commands[words[1]].make_context(words[1], words[2:])
    if words[:3] == ["python", "-m", "kdtune.sweep"]:
        return command.sweep.make_context("kdtune.sweep", words[3:])
    assert words[0] in ("tensorboard", "aws"), words
    return None


def test_the_commands_of_the_header_are_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    done = []
    for words in header_commands():
        context = parse(words)
        done.append(words[1])
        if context is not None and context.info_name == "exec":
            carried = parse(shlex.split(context.params["cmd"]))
            if carried is not None and carried.info_name == "submit":
                assert carried.params["no_wait"] is True
                inner = parse([*carried.params["entrypoint"]])
                assert inner is not None and (ROOT / inner.params["file"]).is_file()
    assert done == ["up", "exec", "exec", "exec", "dashboard", "s3", "down"]
    with pytest.raises(click.UsageError):
        parse(["ray", "job", "submit", "--no-wate", "--", "python"])
