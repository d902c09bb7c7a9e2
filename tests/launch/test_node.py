"""What a machine is asked before its first run, asked of this one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kdtune.launch import node
from kdtune.launch.connection import in_one_line
from kdtune.launch.node import Expected, Unfit, check, versions
from kdtune.planning.plan import build_plan
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep


@pytest.fixture
def expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Expected]:
    monkeypatch.setattr(node, "name", lambda: "gpu-7 (10.0.0.7)")
    results = str(tmp_path / "results")
    with Store(results).claim("sweep/small/paper") as claim:
        yield Expected(versions(), results, str(tmp_path / "data"), (claim.name, claim.attempt))


def refused(expected: Expected, *runs: str, gpus: float = 0) -> str:
    with pytest.raises(Unfit) as told:
        check(expected, runs, gpus)
    return str(told.value)


def test_the_machine_that_asks_is_fit_itself(expected: Expected, write_sweep, tmp_path: Path) -> None:
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    check(expected, [next(iter(plan.runs.values())).run.model_dump_json()], 0)
    assert Store(expected.results).objects.list() == ["runs/claims/sweep/small/paper"], "its trial is taken away again"


def test_another_torch_another_python_another_code(expected: Expected) -> None:
    asked = dict(expected.versions) | {"torch": "2.0.1", "kdtune": "code 0123456789ab"}
    said = refused(replace(expected, versions=tuple(asked.items())))
    own = dict(versions())
    assert said == (
        f"machine gpu-7 (10.0.0.7): it was given kdtune {own['kdtune']}, not code 0123456789ab: if files of kdtune "
        f"have just been changed, give the command again; it has torch {own['torch']}, not 2.0.1: install there from "
        "the same constraints.txt"
    )
    assert "+" not in own["torch"], "a CPU build and one for CUDA are of one version"


def test_results_that_only_the_head_sees(expected: Expected, tmp_path: Path) -> None:
    said = refused(replace(expected, results=str(tmp_path / "its own")))
    assert said.startswith("machine gpu-7 (10.0.0.7): it does not see there what this command wrote to ")
    assert said.endswith("its own: is --results a place that all machines share?")
    later = refused(replace(expected, claim=(expected.claim[0], "of an earlier command")))
    assert "it does not see there" in later, "a stale copy is not the place itself"


def test_results_that_cannot_be_written_there(expected: Expected, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.store.objects import Objects, StorageError

    def read_only(self: Objects) -> None:
        raise StorageError("cannot write results/probe: Read-only file system; check its mount")

    monkeypatch.setattr(Objects, "probe", read_only)
    assert "Read-only file system" in refused(replace(expected, data_dir="other"))  # other: asked once a process


def test_data_that_are_not_there(expected: Expected, write_sweep, tmp_path: Path) -> None:
    from PIL import Image

    for part in ("train", "test"):
        for label in ("a", "b"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("L", (8, 8), 60 * number).save(folder / f"{number}.png")
    images = f"dataset={{folder: {{path: {tmp_path / 'images'}, name: mine}}, validation: 0.5}}"
    plan = build_plan(load_sweep(write_sweep(), overrides=[images]), tmp_path)
    run = next(iter(plan.runs.values())).run.model_dump_json()
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    said = refused(expected, run)
    assert str(tmp_path / "images") in said and said.startswith("machine gpu-7"), said


def test_a_gpu_that_torch_does_not_find(expected: Expected, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "0.25 GPU was booked on" in refused(expected, gpus=0.25)


def test_rays_and_pythons_out_of_step_are_one_line() -> None:
    def version(ray: str, python: str) -> dict[str, str]:
        return {"ray_version": ray, "python_version": python}

    from ray._private.utils import check_version_info, compute_version_info

    ray, python = compute_version_info()[:2]
    for other in (version("2.59.0", python), version(ray, "3.10.1")):
        with pytest.raises(RuntimeError) as told:
            check_version_info(other, "node 10.0.0.1")
        assert in_one_line(str(told.value)) == (
            f"it runs Ray {other['ray_version']} on Python {other['python_version']}, this process Ray {ray} on Python "
            f"{python}: both must be the same on all machines, patch level included"
        )
    assert in_one_line("something\n  else") == "something else"
