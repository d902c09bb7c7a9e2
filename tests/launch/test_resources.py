"""What runs ask of a cluster: by what they train, not by what lives there; and which machines could be started."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdtune.launch import autoscaler, resources, tuner
from kdtune.launch.autoscaler import NOTHING, Growth, NodeType, growth_in, growth_of_monitor
from kdtune.launch.node import NoCuda, cuda
from kdtune.launch.resources import CannotHold, Resources

ROOT = Path(__file__).parents[2]
CORE, SHARE, WHOLE = {"CPU": 1}, {"CPU": 1, "GPU": 0.25}, {"CPU": 1, "GPU": 1.0}


def lives(monkeypatch: pytest.MonkeyPatch, *nodes: dict[str, float], types: dict[str, Any] | None = None) -> Growth:
    """These machines; what an autoscaler would start: two of each type, three together."""
    total = {name: sum(node.get(name, 0) for node in nodes) for node in nodes for name in node}
    told = [{"Alive": True, "Resources": node} for node in nodes]
    monkeypatch.setattr(resources, "ray", SimpleNamespace(nodes=lambda: told, cluster_resources=lambda: total))
    return Growth({name: NodeType(each, 2) for name, each in (types or {}).items()}, 3)


@pytest.mark.parametrize(
    ("profile", "gpus_per_run", "on_cluster", "gpu_lives", "teacher", "student"),
    [
        ("paper", None, True, False, WHOLE, SHARE),  # a cluster that has started no worker yet
        ("quick", None, True, False, WHOLE, SHARE),
        ("mine", None, True, False, WHOLE, SHARE),
        ("laptop", None, True, True, CORE, CORE),
        ("paper", 0.0, True, True, CORE, CORE),
        ("laptop", 0.5, True, False, {"CPU": 1, "GPU": 0.5}, {"CPU": 1, "GPU": 0.5}),
        ("paper", None, False, False, CORE, CORE),
        ("laptop", None, False, True, WHOLE, SHARE),
    ],
)
def test_what_a_run_asks_for(
    monkeypatch: pytest.MonkeyPatch,
    profile: str,
    gpus_per_run: float | None,
    on_cluster: bool,
    gpu_lives: bool,
    teacher: dict[str, float],
    student: dict[str, float],
) -> None:
    lives(monkeypatch, {"CPU": 8, "GPU": 1} if gpu_lives else {"CPU": 0})
    assert resources.choose(profile, gpus_per_run, on_cluster=on_cluster) == Resources(teacher, student)


def test_what_an_autoscaler_could_start_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Resources(WHOLE, SHARE)
    grows = lives(monkeypatch, {"CPU": 0}, types={"gpu_spot": {"CPU": 8, "GPU": 1}})
    resources.check(asked, {"teacher", "student"}, grows)
    grows = lives(monkeypatch, {"CPU": 4}, types={"cpu": {"CPU": 16}})
    with pytest.raises(CannotHold) as refused:
        resources.check(asked, {"student"}, grows)
    assert str(refused.value) == (
        "a student asks for 1 CPU, 0.25 GPU, but no machine has more than 4 CPU, 0 GPU, nor has any that the "
        "autoscaler would start (cpu: 16 CPU, 0 GPU); lower --gpus-per-run, 0 for none, or give --address of a cluster "
        "that has them"
    )
    with pytest.raises(CannotHold, match="no machine has more than 0 CPU; "):
        resources.check(Resources(CORE, CORE), {"teacher"}, lives(monkeypatch, {"CPU": 0}))
    grows = lives(monkeypatch, {"CPU": 4}, {"GPU": 2})  # no single machine has both
    with pytest.raises(CannotHold):
        resources.check(asked, {"teacher"}, grows)


def test_the_types_of_cluster_yaml() -> None:
    assert growth_in((ROOT / "cluster.yaml").read_text()) == Growth({"gpu_spot": NodeType({"CPU": 8, "GPU": 1}, 8)}, 8)
    assert growth_in("max_workers: 0\navailable_node_types: {a: {resources: {CPU: 1}}}") == NOTHING
    assert growth_in("max_workers: 2\navailable_node_types: {a: {resources: {CPU: 1}}, b: {max_workers: 0}}") == Growth(
        {"a": NodeType({"CPU": 1}, 2)}, 2
    )


def test_how_many_devices_there_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpus, on_cores = Resources(WHOLE, SHARE), Resources(CORE, CORE)
    types = {"a": {"CPU": 8, "GPU": 4}, "b": {"CPU": 32, "GPU": 1}}
    grows = lives(monkeypatch, {"CPU": 4}, {"CPU": 8, "GPU": 2}, types=types)
    assert resources.devices(on_gpus, grows) == 2 * 4 + 1, "the ceiling is of all types together"
    assert resources.devices(on_cores, grows) == 2 * 32 + 8
    assert (resources.devices(on_gpus, NOTHING), resources.devices(on_cores, NOTHING)) == (2, 12)


def test_a_start_asks_the_autoscaler_once_and_lets_many_trials_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, sizes, waiting = [], [], []
    grows = lives(monkeypatch, {"CPU": 0}, types={"cpu": {"CPU": 2}})
    monkeypatch.delenv(tuner.MAX_PENDING, raising=False)
    monkeypatch.setattr(tuner, "growth", lambda: asked.append(1) or grows)
    monkeypatch.setattr(tuner, "with_ray", lambda address, folder, work, interrupted: work(threading.Event()))
    monkeypatch.setattr(tuner, "ready", lambda *_: waiting.append(os.environ[tuner.MAX_PENDING]))
    plan = SimpleNamespace(profile="laptop", runs={"a": SimpleNamespace(role="teacher")})
    dispatch: Any = SimpleNamespace(plan=plan, states={"a": "new"}, over=True)
    cluster: Any = SimpleNamespace(address="somewhere", sized=sizes.append)
    tuner.launch(dispatch, lambda place: {}, SimpleNamespace(), cluster=cluster)  # type: ignore[arg-type]
    assert (asked, sizes, waiting) == ([1], [2 * 2], ["200"])
    assert tuner.MAX_PENDING not in os.environ


def test_the_file_is_that_of_this_clusters_monitor(tmp_path: Path) -> None:
    """Of several clusters on one machine; a monitor without a file has no types."""
    (tmp_path / "c.yaml").write_text("max_workers: 2\navailable_node_types: {a: {resources: {CPU: 3}}}")
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monitors = [
        subprocess.Popen([*sleep, "--gcs-address=here:1", f"--autoscaling-config={tmp_path / 'c.yaml'}"]),
        subprocess.Popen([*sleep, "--gcs-address=here:2"]),
    ]
    try:
        assert growth_of_monitor("here:1").types == {"a": NodeType({"CPU": 3}, 2)}
        assert growth_of_monitor("here:2") == growth_of_monitor("here:3") == NOTHING
    finally:
        for monitor in monitors:
            monitor.kill()
            monitor.wait()


def test_a_booked_gpu_is_never_a_cpu_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NoCuda, match=r"0\.25 GPU was booked on .*, where torch .* finds none.*--gpus-per-run 0"):
        cuda(0.25)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda(0.25) == "cuda"


# --- a head with nothing, and Ray's autoscaler ---


def sweep(address: str, results: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "kdtune.sweep", "sweeps/baseline.yaml", "--address", address]
    command += ["--results", str(results), "dataset={digits: {}, train_size: 100, validation: 0.2}", *words]
    env = os.environ | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False, env=env)


def alive(address: str) -> list[str]:
    """The machines of a cluster, as another process is told."""
    code = f"import ray; ray.init({address!r}, log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return asked.stdout.split()[-1:]


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_head_with_nothing_grows_does_the_sweep_and_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.autoscaling import autoscaled, node_type

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with autoscaled(small=node_type(3, CPU=2)) as address:
        assert alive(address) == ["1"]
        done = sweep(address, tmp_path / "results", "--profile", "laptop", "evaluation=[accuracy]", "recipe.epochs=2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "11 done" in done.stdout and alive(address) > ["1"]
        deadline = time.monotonic() + 240
        while alive(address) != ["1"]:
            assert time.monotonic() < deadline, "its machines stay"
            time.sleep(2)
        refused = sweep(address, tmp_path / "gpu", "--profile", "paper", "recipe.epochs=1")
        assert (
            refused.returncode == 4
            and "nor has any that the autoscaler would start (small: 2 CPU, 0 GPU)" in refused.stderr
        )


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_gpu_that_torch_does_not_find_is_refused_on_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launch.autoscaling import autoscaled, node_type

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import os
            if os.environ.get("PRETEND_CUDA"):
                from kdtune.launch import node
                node.cuda = lambda gpus: "cpu"
            """
        )
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    words = ["--profile", "quick", "evaluation=[accuracy]", "recipe.epochs=1", "teacher.seeds=1", "seeds=1"]
    words += ["teacher.model={mlp: {hidden: [8]}}", "student.model={mlp: {hidden: [8]}}", "recipe.augmentation=null"]
    with autoscaled(gpu=node_type(2, CPU=2, GPU=1)) as address:
        failed = sweep(address, tmp_path / "results", *words)
        assert failed.returncode == 4, failed.stdout + failed.stderr
        assert "1 GPU was booked on" in failed.stderr and "--gpus-per-run 0" in failed.stderr
        assert not list((tmp_path / "results").glob("runs/*/*/run.yaml")), "nothing was begun"
    monkeypatch.setenv("PRETEND_CUDA", "1")
    with autoscaled(gpu=node_type(2, CPU=2, GPU=1)) as address:
        done = sweep(address, tmp_path / "results", *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_head_that_does_not_answer_has_no_types(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    def lost(*_: object, **__: object) -> None:
        raise ray.exceptions.GetTimeoutError("Get timed out")

    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "a" * 56, "Resources": {"node:__internal_head__": 1.0}}])
    monkeypatch.setattr(ray, "get", lost)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="here:1"))
    monkeypatch.setattr(ray, "remote", lambda **_: lambda function: SimpleNamespace(remote=lambda address: None))
    assert autoscaler.growth() == NOTHING
    assert "does not say which machines it could start: Get timed out" in caplog.text


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_head_with_a_token_is_joined_with_its_address_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ray start --head` makes it on a machine that has a token; another machine has another, or none."""
    from launch.autoscaling import autoscaled, node_type

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    homes = {name: tmp_path / name for name in ("head", "none", "other")}
    for name, home in homes.items():
        (home / ".ray").mkdir(parents=True)
        if name != "none":
            (home / ".ray/auth_token").write_text(name[0] * 64)
            (home / ".ray/auth_token").chmod(0o600)
    monkeypatch.setenv("HOME", str(homes["head"]))
    words = ["--profile", "laptop", "evaluation=[accuracy]", "recipe.epochs=1", "teacher.seeds=1", "seeds=1"]
    with autoscaled(small=node_type(1, CPU=2)) as address:
        for name, said in (("none", "there is none here"), ("other", "does not take that of")):
            began = time.monotonic()
            refused = sweep(address, tmp_path / "results", *words, HOME=str(homes[name]))
            assert refused.returncode == 4 and said in refused.stderr, refused.stderr
            assert len(refused.stderr.splitlines()) == 1 and time.monotonic() - began < 20  # most of it Python's start
        done = sweep(address, tmp_path / "results", *words)
        assert done.returncode == 0, done.stdout + done.stderr
