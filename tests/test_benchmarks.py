"""That benchmarks compare like with like, and that each runs at a tiny size."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdtune.cli.options import Options
from kdtune.cli.sweep import run
from kdtune.evaluation.families import FAMILIES
from kdtune.losses.kd import KD
from kdtune.noise.noise import Noise
from kdtune.planning.plan import build_plan
from kdtune.sweepfile.load import load_sweep
from kdtune.training.captured import Capture
from kdtune.training.lesson import Lesson

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A module of benchmarks by name, which writes its numbers elsewhere."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(importlib.import_module("measuring"), "RESULTS", tmp_path / "numbers")
    return importlib.import_module


def test_both_loops_have_one_loss(benchmark: Any) -> None:
    step = benchmark("step")
    student, teacher = step.network("wrn-10-1", 0).eval(), step.network("wrn-16-1", 1).eval()
    images, labels = torch.rand(12, 3, 32, 32), torch.arange(12) % 10
    theirs = step.distilled(student(images), teacher(images), labels)
    lesson = Lesson(10, 0, Noise(), KD(alpha=step.ALPHA, temperature=step.TEMPERATURE), teacher)
    lesson.begin(0)
    loss, _ = lesson(student, images, labels)
    torch.testing.assert_close(loss, theirs)


def test_our_networks_lie_in_memory_as_a_run_has_them(benchmark: Any) -> None:
    """They were channels first, and float32 looked no faster than the usual loop."""
    step = benchmark("step")
    for first in (False, True):
        weight = step.network("wrn-10-1", 0, channels_first=first).state_dict()["groups.0.0.conv2.weight"]
        assert weight.is_contiguous(memory_format=torch.channels_last) != first


def test_a_ratio_is_of_one_round(benchmark: Any) -> None:
    measuring = benchmark("measuring")
    slow, fast = ([measuring.Seconds(each, each) for each in times] for times in ((2.0, 8.0, 3.0), (1.0, 2.0, 3.0)))
    assert measuring.ratios(slow, fast) == (2.0, 1.0, 4.0)


def test_each_runs_at_a_tiny_size(benchmark: Any, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    for name, words in {"step": ["wrn-10-1", "wrn-10-1", "--rounds", "2", "--steps", "1", "--batch", "8"]}.items():
        monkeypatch.setattr(sys, "argv", [name, *words])
        threads = torch.get_num_threads()
        try:
            benchmark(name).main()
        finally:
            torch.set_num_threads(threads)
    found = json.loads((tmp_path / "numbers/step.json").read_text())
    ours = {f"kdtune, {precision}{how}" for precision in ("float32", "bfloat16") for how in ("", ", stored")}
    assert set(found["seconds"]) == {"usual loop", "the teacher's answers alone", *ours}
    assert found["machine"]["cpu"] and all(len(each) == 2 for each in found["seconds"].values())
    said = capsys.readouterr().out
    assert "as fast as the first" in said and "whole, bfloat16" in said
    planning = benchmark("planning")
    parts = planning.planned(200, tmp_path)
    assert set(parts) == {"read", "plan, with ids", "found new", "table", "peak, MB"}


def test_torchdistill_has_the_same_loss(benchmark: Any) -> None:
    pytest.importorskip("torchdistill", reason="torchdistill is not installed: benchmarks/peer.py says how")
    step, peer = benchmark("step"), benchmark("peer")
    student, teacher = step.network("wrn-10-1", 0).eval(), step.network("wrn-16-1", 1).eval()
    images, labels = torch.rand(12, 3, 32, 32), torch.arange(12) % 10
    _, box = peer.torchdistill(student, teacher, [], step.ALPHA, step.TEMPERATURE)
    student.eval()
    torch.testing.assert_close(
        box.forward_process(images, labels, None), step.distilled(student(images), teacher(images), labels)
    )


def test_the_parts_of_a_sweep_are_what_its_runs_took(benchmark: Any, write_sweep: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    options = Options(write_sweep(), results=str(results), data=str(tmp_path), here=True, verbosity=-1)
    assert run(options) == 0
    found = benchmark("sweep").parts(results)
    took = [json.loads(path.read_text())["seconds"] for path in results.glob("runs/*/*/provenance.json")]
    assert len(took) == 10 and sum(found.values()) == pytest.approx(sum(took))
    expected = {"training: data", "training: teacher", "training: student", "evaluation: accuracy"}
    assert set(found) == expected | {"reading, writing, val/accuracy"} and min(found.values()) > 0


def test_a_driver_without_runs(benchmark: Any, monkeypatch: Any, tmp_path: Path) -> None:
    driver = benchmark("driver")
    monkeypatch.setattr(driver.sweep, "launch", driver.sweep.launch)  # `measure` puts another in its place
    found = driver.measure(20, tmp_path)
    assert found["runs"] == 20 and found["cpu"] > 0
    assert len(list((tmp_path / "results/runs/done").iterdir())) == 20


def test_corruptions_at_a_tiny_size(benchmark: Any, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["corrupted", "wrn-10-1", "--images", "4", "--rounds", "1"])
    threads = torch.get_num_threads()
    try:
        benchmark("corrupted").main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads((tmp_path / "numbers/corrupted.json").read_text())["seconds"]
    assert {*FAMILIES, "a forward pass of wrn-10-1"} <= set(found)


def test_the_gpu_s_benchmark_at_a_tiny_size(benchmark: Any, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    gpu, sharing = benchmark("gpu"), benchmark("sharing")
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--rounds", "1"])
    threads = torch.get_num_threads()
    try:
        assert gpu.main() == 0
    finally:
        torch.set_num_threads(threads)
    found, said = json.loads((tmp_path / "numbers/gpu-tiny.json").read_text()), capsys.readouterr().out
    assert {"usual loop, float32", "bfloat16, stored, eager, channels last"} <= set(found["steps"]["seconds"])
    assert [each["other weights"] for each in found["whole"].values()] == [[], []]
    assert all(each["alike"] for each in found["sharing"].values()) and "2 processes" in found["sharing"]
    assert "once more" in said, "nothing was captured here"
    for absent in ("captured steps", "MPS", "streams", "what a step consists of"):
        assert absent in said
    assert sharing.Size().batch == 128


def test_runs_whose_steps_were_not_captured_are_told(benchmark: Any) -> None:
    """Their weights are those of eager steps, whatever a graph would have made of them."""
    with benchmark("whole").refusals() as refused:
        Capture().refuse("a look")
    Capture().refuse("another")
    assert refused == ["steps are not captured in a CUDA graph: a look"]


def test_a_part_of_the_gpu_s_benchmark_that_fails_leaves_the_others(
    benchmark: Any, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    gpu = benchmark("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny"])
    for name in ("steps", "together"):
        monkeypatch.setattr(gpu, name, broken)
    monkeypatch.setattr(gpu.whole, "compared", lambda device, epochs: {"seen": epochs})
    monkeypatch.setattr(gpu, "attack", lambda device, tiny: {})
    threads = torch.get_num_threads()
    try:
        assert gpu.main() == 1
    finally:
        torch.set_num_threads(threads)
    assert "FAILED: steps, sharing" in capsys.readouterr().out
    assert json.loads((tmp_path / "numbers/gpu-tiny.json").read_text())["whole"] == {"seen": 2}


def test_a_student_of_the_paper_s_length_is_planned() -> None:
    plan = build_plan(load_sweep(BENCHMARKS / "student.yaml"), Path("nowhere"))
    teacher, student = (planned.run for planned in plan.runs.values())
    assert (teacher.recipe.epochs, student.recipe.epochs, student.recipe.precision) == (30, 200, "bfloat16")
    assert student.loss.stored


def test_without_a_gpu_the_whole_is_refused(benchmark: Any, monkeypatch: Any, capsys: Any) -> None:
    gpu = benchmark("gpu")
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 4 and "--tiny" in capsys.readouterr().out


def test_what_the_gpu_s_benchmark_needs_is_what_it_loads() -> None:
    """On a bare machine with torch: whatever else is imported at once must be named."""
    code = (
        "import sys, sharing, measuring, whole;"
        "loaded = {name: getattr(each, '__file__', None) or '' for name, each in sys.modules.items()};"
        "print(*{name.split('.')[0] for name, file in loaded.items() if 'site-packages' in file})"
    )
    paths = {"PYTHONPATH": f"{BENCHMARKS.parent}{os.pathsep}{BENCHMARKS}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | paths, check=True
    )
    ours = {"numpy", "pydantic", "safetensors", "filelock", "PIL", "yaml"}
    of_these = {"pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}  # pydantic's
    of_torch = {"torch", "torchgen", "sympy", "mpmath", "triton", "tqdm", "networkx", "jinja2", "markupsafe", "fsspec"}
    others = {name for name in done.stdout.split() if not name.startswith(("_", "sitecustomize"))}
    assert others <= ours | of_these | of_torch


def test_no_benchmark_is_called_like_an_analysis_script() -> None:
    """Both are modules of their own folder, and a process that has imported one finds it for the other."""
    analysis = {path.stem for path in (BENCHMARKS.parent / "analysis").glob("*.py")}
    assert not analysis & {path.stem for path in BENCHMARKS.glob("*.py")}
