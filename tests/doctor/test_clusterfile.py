"""Each finding, raised by the smallest change of cluster.yaml that should raise it, and by nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdtune.doctor import clusterfile
from kdtune.doctor.clusterfile import EC2, findings
from kdtune.doctor.finding import Finding, Level

ROOT = Path(__file__).parents[2]
FAILURE, WARNING = Level.FAILURE, Level.WARNING
Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where ray up is run
    monkeypatch.setitem(sys.modules, "boto3", None)  # any import of it fails


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "kdtune.pem"
    path.write_text("a key")
    path.chmod(0o600)
    return path


@pytest.fixture
def filled(key: Path) -> str:
    """cluster.yaml as after deploy/aws/README.md."""
    text = (ROOT / "cluster.yaml").read_text()
    for placeholder, value in (("ami-REPLACE_ME", "ami-1"), ("sg-REPLACE_ME", "sg-1"), ("BUCKET", "a-bucket")):
        text = text.replace(placeholder, value)
    return text.replace("~/.ssh/kdtune.pem", str(key))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def as_file(text: str) -> Path:
        path = tmp_path / "cluster.yaml"
        path.write_text(text)
        return path

    return as_file


def troubles(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.level is not Level.OK]


def test_a_file_that_is_filled_in_is_fine(write: Write, filled: str) -> None:
    found = findings(write(filled))
    assert troubles(found) == []
    assert [each.what for each in found][1:] == [*clusterfile.CHECKS.values()]
    assert found[0].what.startswith("Ray accepts ")


def test_each_placeholder_of_the_file_is_named_with_its_line(key: Path, write: Write) -> None:
    text = (ROOT / "cluster.yaml").read_text().replace("~/.ssh/kdtune.pem", str(key))
    path = write(text)
    lines = text.splitlines()
    left = []
    for finding in troubles(findings(path)):
        where, _, what = finding.what.partition(": ")
        name = what.removesuffix(" is still to be filled in")
        assert finding.level is FAILURE and name != what
        line = lines[int(where.removeprefix(f"{path}:")) - 1]
        assert name in line and not line.lstrip().startswith("#")
        left.append(name)
    assert left == ["ami-REPLACE_ME", "sg-REPLACE_ME", "BUCKET"]


CHANGES = {
    "a misspelt key": ("idle_timeout_minutes", "idle_timeout_minute", FAILURE, "'idle_timeout_minute' was unexpected"),
    "a type of machine that is none": ("head_node_type: head", "head_node_type: boss", FAILURE, "`head_node_type`"),
    "no provider": ("provider:\n  type: aws\n", "provider:\n", FAILURE, "Ray does not accept"),
    "a wrong type": ("max_workers: 8 #", "max_workers: many #", FAILURE, "max_workers: 'many' is not of type"),
    "a key twice": ("max_workers: 8 #", "max_workers: 80\nmax_workers: 8 #", FAILURE, "max_workers"),
    "no key file": ("kdtune.pem #", "other.pem #", FAILURE, "there is no file"),
    "no key named": ("  ssh_private_key:", "  # ssh_private_key:", WARNING, "Ray makes a key pair"),
    "no group": ("SecurityGroupIds: [sg-1]", "SecurityGroupIds: []", FAILURE, "opens port 22 to every address"),
    "no profile of the head": (
        "IamInstanceProfile: {Name: kdtune-head}",
        "Monitoring: {}",
        FAILURE,
        "all in EC2 and S3",
    ),
    "no profile of a worker": ("{Name: kdtune-worker}\n      Inst", "\n      Inst", FAILURE, "cannot write to s3://"),
    "a misspelt parameter": ("KeyName: kdtune", "Keyname: kdtune", FAILURE, "node_config.Keyname is no parameter"),
    "an open dashboard": ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", FAILURE, "listens on 0.0.0.0"),
    "the same, by a space": ("--dashboard-host=127.0.0.1", "--dashboard-host 10.0.0.1", FAILURE, "listens on 10.0.0.1"),
    "no token": ("export RAY_AUTH_MODE=token", "# export RAY_AUTH_MODE=token", FAILURE, "whoever reaches a port"),
    "token mode of another kind": ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", FAILURE, "whoever reaches a port"),
    "zero workers": ("max_workers: 8 #", "max_workers: 0 #", FAILURE, "leaves no machine that could train"),
    "zero of the only type": ("    max_workers: 8\n", "    max_workers: 0\n", FAILURE, "leaves no machine"),
    "no ceiling": ("max_workers: 8 #", "# max_workers: 8 #", WARNING, "no max_workers"),
    "machines that stay": ("min_workers: 0\n    max_workers: 8", "min_workers: 1\n    max_workers: 8", WARNING, "stay"),
    "runs on the head": ("resources: {CPU: 0, GPU: 0}", "resources: {CPU: 4, GPU: 0}", WARNING, "head takes runs"),
    "GPU runs on the head": ("resources: {CPU: 0, GPU: 0}", "resources: {CPU: 0, GPU: 1}", WARNING, "head takes runs"),
    "whatever the head has": ("    resources: {CPU: 0, GPU: 0}", "    #", WARNING, "head takes runs"),
    "two heads": ("    max_workers: 0\n", "    max_workers: 1\n", FAILURE, "further machines like the head"),
    "stopped machines": ("cache_stopped_nodes: false", "cache_stopped_nodes: true", WARNING, "keep paid discs"),
    "results on the head": ("=s3://a-bucket/kdtune", "=results/here", FAILURE, "another folder on each machine"),
    "results on each machine": ("=s3://a-bucket/kdtune", "=file:///results", FAILURE, "another folder on each machine"),
    "results of one's own": ("=s3://a-bucket/kdtune", "=/mnt/results", WARNING, "must be a network file system"),
    "results nowhere": ("export KDTUNE_RESULTS", "# export KDTUNE_RESULTS", WARNING, "needs its --results"),
    "a mount that is not here": ("~/kdtune/sweeps: sweeps", "~/kdtune/sweeps: sweep", FAILURE, "sweep (for ~/kdtune"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found(name: str, write: Write, filled: str) -> None:
    old, new, level, words = CHANGES[name]
    assert old in filled
    found = troubles(findings(write(filled.replace(old, new))))
    assert found and {each.level for each in found} == {level}
    assert all(words in each.what and "\n" not in each.what for each in found), found


def test_no_check_is_without_a_change_that_raises_it(write: Write, filled: str) -> None:
    """Where a check finds something, its fine words are gone; `_versions` has tests of its own."""
    silenced = set()
    for old, new, _, _ in CHANGES.values():
        said = {each.what for each in findings(write(filled.replace(old, new)))}
        if any(what.startswith("Ray accepts") for what in said):
            silenced |= {*clusterfile.CHECKS.values()} - said
    assert silenced == {*clusterfile.CHECKS.values()} - {clusterfile.CHECKS[clusterfile._versions]}


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_may_read(mode: int, key: Path, write: Write, filled: str) -> None:
    key.chmod(mode)
    assert [each.level for each in troubles(findings(write(filled)))] == [FAILURE]


def test_a_head_without_a_token_is_found_beside_workers_with_one(write: Write, filled: str) -> None:
    moved = filled.replace("export RAY_AUTH_MODE=token", "true").replace(
        "&& ray start --address", "&& RAY_AUTH_MODE=token ray start --address"
    )
    (found,) = troubles(findings(write(moved)))
    assert found.level is FAILURE and "on the head" in found.what


def test_a_ray_out_of_step_is_found(write: Write, filled: str, tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text("absl-py==1\nray==2.1.0\n")
    text = filled.replace("constraints.txt: constraints.txt", f"constraints.txt: {pins}")
    (found,) = troubles(findings(write(text)))
    assert found.level is FAILURE and "constraints.txt has Ray 2.1.0" in found.what


@pytest.mark.parametrize(
    ("images", "level", "words"),
    [
        ("image: rayproject/ray:2.1.0-py311-gpu", FAILURE, "another Ray"),
        ("image: rayproject/ray:{ray}-py310", FAILURE, "3.11 or newer"),
        ("image: rayproject/ray:{ray}-py312-gpu, head_image: rayproject/ray:{ray}-py311", FAILURE, "different Pythons"),
        ("image: mine/ray:latest", WARNING, "does not say"),
    ],
)
def test_an_image_out_of_step_is_found(images: str, level: Level, words: str, write: Write, filled: str) -> None:
    import ray

    docker = f"\ndocker: {{container_name: kdtune, {images.format(ray=ray.__version__)}}}\n"
    (found,) = troubles(findings(write(filled + docker)))
    assert found.level is level and words in found.what


def test_an_image_in_step_is_fine(write: Write, filled: str) -> None:
    import ray

    image = f"rayproject/ray:{ray.__version__}-py311-gpu"
    text = filled.replace("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=") + (
        f"\ndocker: {{container_name: kdtune, image: '{image}', run_options: [-e RAY_AUTH_MODE=token]}}\n"
    )
    assert troubles(findings(write(text))) == []


def test_machines_of_ones_own_are_not_asked_for_what_aws_has(write: Write, key: Path) -> None:
    text = f"""
cluster_name: mine
provider: {{type: local, head_ip: a.example, worker_ips: [b.example]}}
auth: {{ssh_user: me, ssh_private_key: {key}}}
setup_commands: ["export RAY_AUTH_MODE=token KDTUNE_RESULTS=/shared"]
"""
    (found,) = troubles(findings(write(text)))
    assert found.level is WARNING and "network file system" in found.what
    (found,) = troubles(findings(write(text.replace("worker_ips", "workers").replace("=/shared", "=s3://a/b"))))
    assert found.level is FAILURE and "worker_ips" in found.what


def test_a_cluster_of_ray_s_defaults_is_answered(write: Write) -> None:
    """Not kdtune's: everything that Ray does by itself is said."""
    found = troubles(findings(write("cluster_name: x\nmax_workers: 2\nprovider: {type: aws, region: us-west-2}\n")))
    said = "\n".join(each.what for each in found)
    for words in ("port 22", "may do all in EC2 and S3", "0.0.0.0", "RAY_AUTH_MODE", "key pair", "cache_stopped"):
        assert words in said


@pytest.mark.parametrize("text", ["", "max_workers: 2\n", "[1, 2]\n", "a: b: c\n", "provider: 3\n", "provider: {}\n"])
def test_what_is_no_cluster_file_is_a_failure_in_a_line(text: str, write: Write) -> None:
    found = findings(write(text))
    assert [each.level for each in found] == [FAILURE] and "\n" not in found[0].what


def test_files_that_are_not_there_or_are_something_else() -> None:
    (found,) = findings(ROOT / "clusters.yaml")
    assert found.level is FAILURE and "there is no such file" in found.what and "cluster.yaml" in found.what
    (found,) = findings(ROOT / "sweeps" / "fickle.yaml")
    assert found.level is FAILURE and "Ray does not accept" in found.what


def test_the_parameters_of_ec2_are_those_of_ec2(monkeypatch: pytest.MonkeyPatch) -> None:
    import botocore.session

    operation = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    assert {*operation.input_shape.members, "SubnetIds"} == EC2


def test_looking_needs_neither_torch_nor_boto3_nor_a_running_ray() -> None:
    program = (
        "import sys, pathlib; from kdtune.doctor.clusterfile import findings\n"
        "assert findings(pathlib.Path('cluster.yaml')); import ray\n"
        "print(ray.is_initialized(), [name for name in ('torch', 'boto3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "False []\n", "and says nothing by itself"
