"""A cluster file, as `ray up` takes it, read before Ray does anything with it: no machine, no network, no torch.

Ray's own check covers names of keys. What it lets pass costs money, opens a port, or fails a quarter of an hour later.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from kdtune.doctor.finding import Finding, failure, ok, warning
from kdtune.sweepfile import reader
from kdtune.sweepfile.tree import SweepFileError

PLACEHOLDER = re.compile(r"[\w.-]*REPLACE_ME[\w.-]*|(?<![$\w{])BUCKET\b|\bYOUR_\w+")
COMMENT = re.compile(r"(?:^|\s)#.*$", re.MULTILINE)  # of YAML and of a shell
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Parameters of EC2's RunInstances, and SubnetIds, from which Ray chooses SubnetId. Ray passes on whatever it finds.
RUN_INSTANCES = """
AdditionalInfo BlockDeviceMappings CapacityReservationSpecification ClientToken CpuOptions CreditSpecification
DisableApiStop DisableApiTermination DryRun EbsOptimized ElasticGpuSpecification ElasticInferenceAccelerators
EnablePrimaryIpv6 EnclaveOptions HibernationOptions IamInstanceProfile ImageId InstanceInitiatedShutdownBehavior
InstanceMarketOptions InstanceType Ipv6AddressCount Ipv6Addresses KernelId KeyName LaunchTemplate
LicenseSpecifications MaintenanceOptions MaxCount MetadataOptions MinCount Monitoring NetworkInterfaces
NetworkPerformanceOptions Operator Placement PrivateDnsNameOptions PrivateIpAddress RamdiskId SecondaryInterfaces
SecurityGroupIds SecurityGroups SubnetId SubnetIds TagSpecifications UserData
"""
EC2 = frozenset(RUN_INSTANCES.split())


def findings(path: Path) -> list[Finding]:
    """What `ray up` of this file would run into, from the current folder; of each check at least one finding.

    Raises nothing: a file that cannot be read, or that Ray does not accept, is a failure among the findings.
    """
    try:
        tree = reader.read(path)
    except SweepFileError as error:
        return [failure(str(problem)) for problem in error.problems]
    text = path.read_text()
    filled = list(_unfilled(path, text, json.dumps(tree)))
    try:
        file = ClusterFile(path, text)
    except NotAccepted as error:
        return [*filled, failure(f"Ray does not accept {path}: {error}")]
    found = [*filled, ok(f"Ray accepts {path}")]
    for check, fine in CHECKS.items():
        if file.on_aws or check not in ONLY_AWS:
            found += list(check(file)) or [ok(fine)]
    return found


class NotAccepted(Exception):
    """Ray's own check refuses the file; the message is Ray's, in one line."""


@dataclass(frozen=True)
class ClusterFile:
    """A file that Ray accepts: `written` as it is, `prepared` with Ray's defaults in place. Raises NotAccepted."""

    path: Path
    text: str

    def __post_init__(self) -> None:
        _ = self.prepared

    @cached_property
    def written(self) -> dict[str, Any]:
        """Values as Ray reads them, by YAML 1.1."""
        try:
            return dict(yaml.safe_load(self.text))
        except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
            raise NotAccepted(" ".join(str(error).split())) from error

    @cached_property
    def prepared(self) -> dict[str, Any]:
        from ray.autoscaler._private.util import prepare_config, validate_config

        written = self.written
        heard = (
            io.StringIO()
        )  # Ray explains on the terminal, and warns of single files in file_mounts for docker's sake
        try:
            with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
                prepared = prepare_config(copy.deepcopy(written))
                if prepared["provider"]["type"] == "aws":  # ray up asks EC2 what machines have before it checks
                    for kind in prepared["available_node_types"].values():
                        kind.setdefault("resources", {})
                validate_config(prepared)
        except (Exception, SystemExit) as error:  # whatever a file can make Ray's code stumble over
            said = heard.getvalue().strip().splitlines()
            reason = getattr(error, "message", None) or str(error) or (said[-1] if said else type(error).__name__)
            place = ".".join(map(str, getattr(error, "absolute_path", ())))
            words = f"lacks the key {reason}" if isinstance(error, KeyError) else " ".join(str(reason).split())
            raise NotAccepted(f"{place}: {words}" if place else words) from error
        return prepared

    @property
    def on_aws(self) -> bool:
        return self.prepared["provider"].get("type") == "aws"

    @property
    def head(self) -> str:
        return str(self.prepared["head_node_type"])

    @property
    def machines(self) -> dict[str, dict[str, Any]]:
        """node_config by type of machine."""
        return {name: kind.get("node_config") or {} for name, kind in self.prepared["available_node_types"].items()}

    def commands(self, role: str) -> str:
        """All that a `head` or a `worker` is set up and started with, options of docker too, without comments."""
        docker = self.prepared.get("docker") or {}
        keys = ("initialization_commands", f"{role}_setup_commands", f"{role}_start_ray_commands")
        lines = [*docker.get("run_options", ()), *docker.get(f"{role}_run_options", ())]
        lines += [line for key in keys for line in self.prepared.get(key) or ()]
        return COMMENT.sub("", "\n".join(map(str, lines)))


def _unfilled(path: Path, text: str, values: str) -> Iterator[Finding]:
    """Placeholders that stand in values; those of comments explain."""
    named = set(PLACEHOLDER.findall(values))
    for number, line in enumerate(text.splitlines(), 1):
        for name in dict.fromkeys(PLACEHOLDER.findall(COMMENT.sub("", line))):
            if name in named:
                yield failure(f"{path}:{number}: {name} is still to be filled in")


def _mounts(file: ClusterFile) -> Iterator[Finding]:
    for there, here in (file.prepared.get("file_mounts") or {}).items():
        if not Path(os.path.expanduser(here)).exists():
            yield failure(f"file_mounts: {here} (for {there}) is not in {Path.cwd()}; ray up looks from there")


def _key(file: ClusterFile) -> Iterator[Finding]:
    named = file.prepared["auth"].get("ssh_private_key")
    if named is None:
        if file.on_aws:
            yield warning("no auth.ssh_private_key: Ray makes a key pair, and keeps it in ~/.ssh")
        return
    path = Path(os.path.expanduser(named))
    if not path.is_file():
        yield failure(f"auth.ssh_private_key: there is no file {named}")
    elif path.stat().st_mode & 0o077:
        yield failure(f"auth.ssh_private_key: others may read {named}, so ssh refuses it: chmod 600 it")


def _groups(file: ClusterFile) -> Iterator[Finding]:
    for name, machine in file.machines.items():
        if not any(machine.get(key) for key in ("SecurityGroupIds", "NetworkInterfaces", "LaunchTemplate")):
            yield failure(f"{name} has no SecurityGroupIds: Ray makes a group that opens port 22 to every address")


def _profiles(file: ClusterFile) -> Iterator[Finding]:
    for name, machine in file.machines.items():
        if machine.get("IamInstanceProfile") or machine.get("LaunchTemplate"):
            continue
        what = "Ray makes a role that may do all in EC2 and S3" if name == file.head else "it cannot write to s3://"
        yield failure(f"{name} has no IamInstanceProfile: {what}")


def _parameters(file: ClusterFile) -> Iterator[Finding]:
    for name, machine in file.machines.items():
        for key in sorted(machine.keys() - EC2):
            yield failure(f"{name}: node_config.{key} is no parameter of EC2's RunInstances")


def _dashboard(file: ClusterFile) -> Iterator[Finding]:
    for host in re.findall(r"--dashboard-host[= ]+['\"]?([^\s'\"]+)", file.commands("head")):
        if host not in LOOPBACK:
            yield failure(f"the dashboard, which runs what it is sent, listens on {host}: --dashboard-host=127.0.0.1")


def _token(file: ClusterFile) -> Iterator[Finding]:
    for role in ("head", "worker"):
        if not re.search(r"RAY_AUTH_MODE=['\"]?token\b", file.commands(role)):
            what = f"RAY_AUTH_MODE=token is not set on the {role}: whoever reaches a port of Ray runs code there"
            yield failure(what)


def _versions(file: ClusterFile) -> Iterator[Finding]:
    installed = version("ray")
    pinned = _pin(file)
    if pinned is not None and pinned != installed:
        yield failure(f"constraints.txt has Ray {pinned}, here is {installed}: pip install -c it")
    docker = file.prepared.get("docker") or {}
    images = [str(image) for key in ("image", "head_image", "worker_image") if (image := docker.get(key))]
    tags = {image: re.search(r":(\d+\.\d+\.\d+)[\w.]*-py(3)(\d+)", image) for image in images}
    pythons = set()
    for image, tag in tags.items():
        if tag is None:
            yield warning(f"docker image {image} does not say which Ray and Python it has")
            continue
        pythons.add(int(tag[3]))
        if tag[1] != installed:
            yield failure(f"docker image {image} has another Ray than is here, {installed}")
        if int(tag[3]) < 11:
            yield failure(f"docker image {image} has Python 3.{tag[3]}; kdtune needs 3.11 or newer")
    if len(pythons) > 1:
        yield failure("docker images have different Pythons: Ray refuses to join such machines")


def _pin(file: ClusterFile) -> str | None:
    """The Ray of the constraints.txt that goes to the machines, or of the one in the current folder."""
    sent = [Path(os.path.expanduser(here)) for here in (file.prepared.get("file_mounts") or {}).values()]
    for path in (*(path for path in sent if path.name == "constraints.txt"), Path("constraints.txt")):
        if path.is_file() and (match := re.search(r"^ray==([\w.]+)", path.read_text(), re.MULTILINE)):
            return match[1]
    return None


def _ceiling(file: ClusterFile) -> Iterator[Finding]:
    types, ceiling = file.prepared["available_node_types"], file.prepared["max_workers"]
    if "max_workers" not in file.written:
        yield warning(f"no max_workers, the ceiling of what it costs: Ray takes {ceiling}")
    workers = {name: kind for name, kind in types.items() if name != file.head}
    if min(ceiling, sum(kind["max_workers"] for kind in workers.values())) < 1:
        yield failure("max_workers, at the top and of each type, leaves no machine that could train")
    for name, kind in workers.items():
        if kind["min_workers"]:
            what = f"{name}: min_workers {kind['min_workers']}: so many machines stay, and cost, when nothing runs"
            yield warning(what)


def _head(file: ClusterFile) -> Iterator[Finding]:
    kind = file.prepared["available_node_types"][file.head]
    resources = kind.get("resources") or {}
    if resources.get("CPU", 1) or resources.get("GPU", 0):  # where CPU is not named, Ray takes what there is
        what = f"{file.head} takes runs: one that fills its memory ends the sweep; resources: {{CPU: 0, GPU: 0}}"
        yield warning(what)
    if kind["min_workers"] or kind["max_workers"]:
        yield failure(f"{file.head}: min_workers and max_workers are of further machines like the head; both 0")


def _idle(file: ClusterFile) -> Iterator[Finding]:
    if file.prepared["provider"].get("cache_stopped_nodes", True):
        yield warning("provider.cache_stopped_nodes is not false: stopped machines keep paid discs")


def _results(file: ClusterFile) -> Iterator[Finding]:
    found = re.search(r"KDTUNE_RESULTS=(\"[^\"]*\"|'[^']*'|[^\s;&]+)", file.commands("head"))
    if found is None:
        yield warning("KDTUNE_RESULTS is not set on the head: every command needs its --results")
        return
    place = found[1].strip("\"'")
    if place.startswith("/"):
        yield warning(f"KDTUNE_RESULTS={place} must be a network file system, mounted there on every machine")
    elif "://" not in place or place.startswith("file:"):
        what = f"KDTUNE_RESULTS={place} is another folder on each machine: s3://BUCKET/PREFIX, or a shared /folder"
        yield failure(what)


CHECKS = {
    _mounts: "what is mounted is here",
    _key: "the ssh key is there, and its owner's alone",
    _groups: "Ray opens no port: every machine has a security group",
    _profiles: "Ray makes no role: every machine has an instance profile",
    _parameters: "what goes to EC2 is spelt as EC2 spells it",
    _dashboard: "the dashboard listens on the head alone",
    _token: "machines ask for a token",
    _versions: "the same Ray here and there",
    _ceiling: "there is a ceiling, and nothing stays when nothing runs",
    _head: "the head takes no run, and there is one",
    _idle: "machines that leave are ended, not stopped",
    _results: "results lie where every machine can write",
}
ONLY_AWS = (_groups, _profiles, _parameters, _ceiling, _head, _idle)  # machines of one's own cost and take what they do
