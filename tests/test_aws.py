"""What cluster.yaml does to an AWS account, on a simulated one (moto); what the policies of deploy/aws allow."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from kdtune.doctor import clusterfile
from kdtune.sweepfile import reader

ROOT = Path(__file__).parents[1]
ROLES = ("head", "worker")
ACCOUNT, REGION, BUCKET = "123456789012", "us-west-2", "a-bucket"
TYPES = [
    {"InstanceType": "m6i.xlarge", "VCpuInfo": {"DefaultVCpus": 4}, "MemoryInfo": {"SizeInMiB": 16384}},
    {"InstanceType": "g5.2xlarge", "VCpuInfo": {"DefaultVCpus": 8}, "MemoryInfo": {"SizeInMiB": 32768}},
]
SSH = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "203.0.113.7/32"}]}


def policy(name: str) -> dict[str, Any]:
    """A policy as deploy/aws/README.md fills it in."""
    text = (ROOT / "deploy" / "aws" / f"{name}.json").read_text()
    for placeholder, value in (("BUCKET", BUCKET), ("ACCOUNT", ACCOUNT), ("REGION", REGION)):
        text = text.replace(placeholder, value)
    return json.loads(text)


@pytest.fixture
def policies_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for before `account`: the policies that Ray attaches to a role of its own are there. They take seconds."""
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A simulated account after deploy/aws/README.md; its security group. Nothing reaches a network."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws import config, node_provider, utils

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # seconds, for images that nobody asks about
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray would keep a key pair

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(node_provider, "list_ec2_instances", lambda *_: TYPES)  # of moto: seconds for a thousand others
    for module in (config, node_provider):
        monkeypatch.setattr(module.time, "sleep", lambda _: None)  # Ray waits 15 s for a role that it made
    for remembered in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
        remembered.cache_clear()
    with mock_aws():
        iam, ec2 = boto3.client("iam"), boto3.client("ec2")
        for role in ROLES:
            name = f"kdtune-{role}"
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(policy("trust")))
            iam.put_role_policy(RoleName=name, PolicyName="kdtune", PolicyDocument=json.dumps(policy(role)))
            iam.create_instance_profile(InstanceProfileName=name)
            iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        ec2.create_key_pair(KeyName="kdtune")
        group = ec2.create_security_group(GroupName="kdtune", Description="kdtune")["GroupId"]
        itself = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[SSH, itself])
        yield group
    for remembered in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
        remembered.cache_clear()


@pytest.fixture
def config(account: str) -> dict[str, Any]:
    """cluster.yaml, filled in."""
    text = json.dumps(reader.read(ROOT / "cluster.yaml"))
    for placeholder, value in (("ami-REPLACE_ME", "ami-1"), ("sg-REPLACE_ME", account), ("BUCKET", BUCKET)):
        text = text.replace(placeholder, value)
    return json.loads(text)


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a file, up to the moment when it starts the head."""
    from ray.autoscaler._private.commands import _bootstrap_config

    return _bootstrap_config(config, no_config_cache=True)


def holdings() -> dict[str, Any]:
    """All that lets somebody in or lets something be done."""
    import boto3

    iam, ec2 = boto3.client("iam"), boto3.client("ec2")
    groups = ec2.describe_security_groups()["SecurityGroups"]
    roles = [role["RoleName"] for role in iam.list_roles()["Roles"]]
    return {
        "groups": {group["GroupId"]: group["IpPermissions"] for group in groups},
        "roles": {name: iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"] for name in roles},
        "profiles": sorted(each["InstanceProfileName"] for each in iam.list_instance_profiles()["InstanceProfiles"]),
        "keys": sorted(key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]),
    }


def test_ray_up_makes_no_group_no_role_no_key_and_opens_nothing(config: dict[str, Any], account: str) -> None:
    before = holdings()
    made = bootstrapped(config)
    assert holdings() == before
    assert set(before["roles"]) == {"kdtune-head", "kdtune-worker"} == set(before["profiles"])
    assert all(policies == [] for policies in before["roles"].values())
    nodes = {name: kind["node_config"] for name, kind in made["available_node_types"].items()}
    assert made["head_node"] == {}, "else Ray has chosen the head's profile"
    assert nodes["head"]["IamInstanceProfile"] == {"Name": "kdtune-head"}
    assert {node["IamInstanceProfile"]["Name"] for name, node in nodes.items() if name != "head"} == {"kdtune-worker"}
    assert all(node["SecurityGroupIds"] == [account] and node["SubnetIds"] for node in nodes.values())
    assert "--dashboard-host=127.0.0.1" in made["head_start_ray_commands"][1]


def made_without(key: str, config: dict[str, Any]) -> str:
    """What else lets in or allows after a `ray up` of the file without `key`."""
    before = holdings()
    for node in config["available_node_types"].values():
        del node["node_config"][key]
    bootstrapped(config)
    after = holdings()
    return json.dumps({kind: value for kind, value in after.items() if value != before[kind]})


def test_without_a_group_of_ours_ray_opens_a_port_to_the_world(config: dict[str, Any]) -> None:
    """What the first test would notice, and why the file says what it says; so the next two."""
    assert "0.0.0.0/0" in made_without("SecurityGroupIds", config)


def test_without_a_profile_of_ours_ray_makes_a_role_that_may_do_all(
    policies_of_aws: None, config: dict[str, Any]
) -> None:
    made = made_without("IamInstanceProfile", config)
    assert "AmazonEC2FullAccess" in made and "AmazonS3FullAccess" in made


def test_without_a_key_of_ours_ray_makes_one(config: dict[str, Any], tmp_path: Path) -> None:
    before = holdings()
    del config["auth"]["ssh_private_key"]
    bootstrapped(config)
    assert holdings()["keys"] != before["keys"] and [*(tmp_path / ".ssh").iterdir()]


def allowed(document: Mapping[str, Any], action: str, resource: str, context: Mapping[str, str]) -> bool:
    """As IAM decides, of what these policies use: no Deny, and two kinds of condition."""

    def listed(value: Any) -> list[str]:
        return [value] if isinstance(value, str) else list(value)

    def holds(kind: str, key: str, values: Any) -> bool:
        assert kind in ("StringEquals", "StringLikeIfExists"), kind
        if key not in context:
            return kind.endswith("IfExists")
        return any(fnmatchcase(context[key], value) for value in listed(values))

    return any(
        any(fnmatchcase(action, each) for each in listed(statement["Action"]))
        and any(fnmatchcase(resource, each) for each in listed(statement["Resource"]))
        and all(
            holds(kind, key, values)
            for kind, pairs in statement.get("Condition", {}).items()
            for key, values in pairs.items()
        )
        for statement in document["Statement"]
    )


def machine(name: str) -> str:
    return f"arn:aws:ec2:{REGION}:{ACCOUNT}:{name}"


def life_of_workers(config: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All that the head's autoscaler asks EC2 for, from the first worker to the last."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    made = bootstrapped(config)
    provider = AWSNodeProvider(made["provider"], made["cluster_name"])
    asked: list[tuple[str, dict[str, Any]]] = []
    for resource in (provider.ec2, provider.ec2_fail_fast):
        resource.meta.client.meta.events.register(
            "before-parameter-build.ec2", lambda params, model, **_: asked.append((model.name, dict(params)))
        )
    spot = made["available_node_types"]["gpu_spot"]["node_config"]
    tags = {"ray-node-type": "worker", "ray-node-name": "ray-kdtune-worker", "ray-user-node-type": "gpu_spot"}
    for _ in range(3):
        provider.create_node(spot, dict(tags), 1)
    one, two, three = provider.non_terminated_nodes({"ray-node-type": "worker"})
    provider.set_node_tags(one, {"ray-node-status": "up-to-date"})
    assert provider.internal_ip(one) and not provider.is_terminated(one)
    provider.terminate_node(one)
    provider.terminate_nodes([two, three])
    provider.cached_nodes = {}
    assert provider.is_terminated(two)
    assert provider.non_terminated_nodes({}) == []
    return asked


def test_the_head_may_do_what_ray_does_there(config: dict[str, Any]) -> None:
    head = policy("head")
    ours = {"aws:ResourceTag/ray-cluster-name": config["cluster_name"]}
    asked = life_of_workers(config)
    assert {name for name, _ in asked} == {"RunInstances", "DescribeInstances", "CreateTags", "TerminateInstances"}
    for name, parameters in asked:
        if name == "RunInstances":
            given = {tag["Key"]: tag["Value"] for tag in parameters["TagSpecifications"][0]["Tags"]}
            tagged = {f"aws:RequestTag/{key}": value for key, value in given.items()}
            assert [each["ResourceType"] for each in parameters["TagSpecifications"]] == ["instance"]
            assert parameters["IamInstanceProfile"] == {"Name": "kdtune-worker"}
            assert allowed(head, "ec2:RunInstances", machine("instance/*"), tagged)
            assert allowed(head, "ec2:CreateTags", machine("instance/*"), {"ec2:CreateAction": "RunInstances"})
        else:
            resource = "*" if name.startswith("Describe") else machine("instance/i-1")
            assert allowed(head, f"ec2:{name}", resource, ours), name
    for kind in ("volume", "network-interface", "subnet", "security-group", "key-pair", "spot-instances-request"):
        assert allowed(head, "ec2:RunInstances", machine(f"{kind}/1"), {})
    assert allowed(head, "ec2:RunInstances", f"arn:aws:ec2:{REGION}::image/ami-1", {})
    role = f"arn:aws:iam::{ACCOUNT}:role/kdtune-worker"
    assert allowed(head, "iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})


def test_the_head_may_do_no_more() -> None:
    head = policy("head")
    theirs = {"aws:ResourceTag/ray-cluster-name": "another", "aws:RequestTag/ray-cluster-name": "another"}
    for context in ({}, theirs):
        for action in ("RunInstances", "CreateTags", "TerminateInstances"):
            assert not allowed(head, f"ec2:{action}", machine("instance/i-1"), context), action
    to_ec2 = {"iam:PassedToService": "ec2.amazonaws.com"}
    for role in ("kdtune-head", "Admin", "kdtune-worker-2"):
        assert not allowed(head, "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/{role}", to_ec2)
    assert not allowed(head, "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/kdtune-worker", {})
    assert not allowed(head, "ec2:RunInstances", machine("instance/*").replace(REGION, "eu-west-1"), {})


def test_ray_asks_ec2_for_nothing_that_is_not_known_here() -> None:
    """The calls in the text of Ray's provider: one that a new Ray adds is to be looked at, and may have to be allowed.

    Of stopped machines (cache_stopped_nodes), of CloudWatch, and at home alone: the second row.
    """
    from ray.autoscaler._private.aws import node_provider

    source = Path(node_provider.__file__).read_text()
    forms = (r"\bmeta\.client\.(\w+)", r"\bec2(?:_fail_fast)?\.(?!meta)([a-z]\w+)", r"\bnode\.(\w+)\(")
    calls = {name for form in forms for name in re.findall(form, source)}
    assert calls == {"create_tags", "create_instances", "instances", "terminate", "terminate_instances"} | {
        "start_instances", "stop", "stop_instances", "wait_until_stopped", "describe_images", "describe_instance_types",
    }  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
def test_results_are_read_written_and_listed_and_nothing_else_of_s3(role: str) -> None:
    document = policy(role)
    (place,) = set(re.findall(r"KDTUNE_RESULTS=s3://(\S+)", (ROOT / "cluster.yaml").read_text()))
    prefix = place.replace("BUCKET", BUCKET)
    for action in ("GetObject", "PutObject", "DeleteObject"):
        assert allowed(document, f"s3:{action}", f"arn:aws:s3:::{prefix}/runs/done/1", {})
        assert not allowed(document, f"s3:{action}", f"arn:aws:s3:::{BUCKET}/other", {})
        assert not allowed(document, f"s3:{action}", "arn:aws:s3:::another/kdtune/1", {})
    bucket = f"arn:aws:s3:::{BUCKET}"
    assert allowed(document, "s3:ListBucket", bucket, {"s3:prefix": "kdtune/runs/"})
    assert allowed(document, "s3:ListBucket", bucket, {}), "without it S3 answers 403 for an object that is not there"
    assert not allowed(document, "s3:ListBucket", bucket, {"s3:prefix": "other/"})
    assert not allowed(document, "s3:DeleteBucket", bucket, {})


def test_a_worker_starts_no_machine() -> None:
    context = {"aws:RequestTag/ray-cluster-name": "kdtune", "aws:ResourceTag/ray-cluster-name": "kdtune"}
    for action in ("RunInstances", "CreateTags", "TerminateInstances", "DescribeInstances"):
        assert not allowed(policy("worker"), f"ec2:{action}", machine("instance/*"), context)
        assert not allowed(policy("worker"), f"ec2:{action}", "*", context)


@pytest.mark.parametrize("name", [*ROLES, "trust"])
def test_no_policy_is_wide(name: str) -> None:
    document = policy(name)
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert statement["Effect"] == "Allow" and not any("*" in action for action in actions)
        if statement.get("Resource") == "*":
            assert actions == ["ec2:DescribeInstances"], "EC2 knows no narrower one for it"


def test_the_commands_for_an_account_fit_the_files() -> None:
    text = (ROOT / "deploy" / "aws" / "README.md").read_text()
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
    assert set(re.findall(r"deploy/aws/([\w.$]+\.json)", text)) == {"$role.json", "trust.json"}
    (filling,) = re.findall(r"^sed -i.*cluster\.yaml .*$", text, re.MULTILINE)
    placeholders = set(clusterfile.PLACEHOLDER.findall(json.dumps(reader.read(ROOT / "cluster.yaml"))))
    assert set(re.findall(r"\bs/([^/]+)/", filling)) == placeholders == {"ami-REPLACE_ME", "sg-REPLACE_ME", "BUCKET"}
    config = reader.read(ROOT / "cluster.yaml")
    machines = [kind["node_config"] for kind in config["available_node_types"].values()]
    assert {each["IamInstanceProfile"]["Name"] for each in machines} == {f"kdtune-{role}" for role in ROLES}
    assert f"--key-name {machines[0]['KeyName']} " in text and config["auth"]["ssh_private_key"] in text
    assert config["provider"]["region"] in text
    for role in ROLES:
        assert not re.search(r"\b[A-Z]{5,}\b", json.dumps(policy(role))), "a placeholder that nothing fills in"


def test_a_worker_has_the_token_before_its_own_setup(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the code of Ray's autoscaler that sets up a new machine, with a machine that only writes down what comes."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
    from ray.core.generated.instance_manager_pb2 import Instance

    class Machine:
        provider_config: dict[str, Any] = {}  # noqa: RUF012
        cluster_name = "kdtune"

        def __init__(self) -> None:
            self.came: list[str] = []
            self.tags: dict[str, str] = {}

        def get_command_runner(self, *_: Any) -> Machine:
            return self

        def run(self, command: str, **_: Any) -> None:
            self.came.append(command)

        def run_rsync_up(self, source: str, target: str, options: Any) -> None:
            self.came.append(f"{source} to {target}")

        def run_init(self, **_: Any) -> bool:
            return False

        def set_node_tags(self, _: str, tags: dict[str, str]) -> None:
            self.tags |= tags

        def node_tags(self, _: str) -> dict[str, str]:
            return self.tags

        def is_terminated(self, _: str) -> bool:
            return False

    monkeypatch.chdir(ROOT)
    key = tmp_path / "key.pem"
    key.write_text("a key")
    config["auth"]["ssh_private_key"] = str(key)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a token")
    worker = Machine()
    installer = RayInstaller(worker, AutoscalingConfig(config, skip_content_hash=True))
    installer.install_ray(Instance(cloud_instance_id="i-1", instance_type="gpu_spot"), "10.0.0.1")
    copied = worker.came.index(f"{token} to {token}")
    setup = [number for number, each in enumerate(worker.came) if ".venv" in each or "~/kdtune/environment" in each]
    assert copied < min(setup) and max(setup) < len(worker.came) - 1
    assert "ray start --address=$RAY_HEAD_IP:6379" in worker.came[-1] and "RAY_HEAD_IP=10.0.0.1" in worker.came[-1]
    assert not [each for each in worker.came if "get-auth-token" in each], "a token of its own would fit no other's"
