"""Which code decides numbers: what changes its digest and what does not (row A3)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL

from kdtune import sources
from kdtune.planning.plan import build_plan
from kdtune.run import Run
from kdtune.sweepfile.load import load_sweep

ROOT = Path(__file__).parents[1]
EVALUATORS = "[accuracy, {pgd: {eps: [0.1], step: 0.05}}, {corruptions: {families: [fog], severities: [1]}}]"
ALL = {"teacher", "student", "accuracy", "pgd", "corruptions"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package's files, to be changed; the code that runs is not theirs."""
    root = tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "kdtune", root / "kdtune", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "small.yaml").write_text(SMALL.replace("[accuracy]", EVALUATORS))
    return root / "kdtune"


def forget_what_was_read() -> None:
    for cached in (sources.digest, sources._tree, sources._digest_of, sources._imports):
        cached.cache_clear()


def digests(copy: Path) -> dict[str, str]:
    plan = build_plan(load_sweep(copy.parent / "small.yaml"), copy.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PACKAGE", copy)
        forget_what_was_read()
        found = {planned.role: sources.of_training(planned.run) for planned in plan.runs.values()}
        found |= {each.key: sources.of_evaluator(each) for each in plan.evaluation}
    forget_what_was_read()
    return found


@pytest.fixture(scope="module")
def before(copy) -> dict[str, str]:
    found = digests(copy)
    assert found.keys() == ALL
    return found


END = ""
CHANGES = [
    ("losses/kd.py", "self.alpha", "1.0 * self.alpha", {"student"}),
    ("models/networks/small.py", "nn.ReLU", "nn.GELU", {"teacher", "student"}),
    ("training/step.py", "optimizer.zero_grad()", "optimizer.zero_grad(set_to_none=False)", {"teacher", "student"}),
    ("noise/teacher.py", END, "\nmore = 1\n", {"student"}),
    ("noise/input.py", END, "\nmore = 1\n", set()),  # no run here has such a knob
    ("models/residual.py", END, "\nmore = 1\n", set()),
    ("data/sets/published.py", END, "\nmore = 1\n", {"teacher", "student"}),
    ("evaluation/pgd.py", END, "\nmore = 1\n", {"pgd", "corruptions"}),
    ("evaluation/families/weather.py", END, "\nmore = 1\n", {"corruptions"}),
    ("attacks/pgd.py", END, "\nmore = 1\n", ALL),  # `evaluating` stands there
    ("report/summary.py", END, "\nmore = 1\n", set()),
    ("store/store.py", END, "\nmore = 1\n", set()),
    ("planning/dispatch.py", END, "\nmore = 1\n", set()),
    ("config.py", END, "\nmore = 1\n", set()),
    ("losses/kd.py", "    ", "    # said in other words\n    ", set()),
    ("losses/kd.py", '"""', '"""In other words: ', set()),
    ("training/loop.py", "\n\n\n", "\n\n\n\n\n", set()),
]


@pytest.mark.parametrize(("file", "was", "now", "moved"), CHANGES)
def test_what_a_change_moves(copy, before, file, was, now, moved) -> None:
    path = copy / file
    text = path.read_text()
    at = text.index(was) if was else len(text)
    try:
        path.write_text(text[:at] + now + text[at + len(was) :])
        after = digests(copy)
    finally:
        path.write_text(text)
    assert {name for name in ALL if before[name] != after[name]} == moved


def test_a_run_depends_on_its_own_kinds_alone(write_sweep, tmp_path) -> None:
    plan = build_plan(load_sweep(write_sweep()), tmp_path)
    teacher, student = (
        next(each.run for each in plan.runs.values() if each.role == role) for role in ("teacher", "student")
    )
    assert "kdtune.losses.kd" not in sources.modules_of(teacher)
    assert "kdtune.losses.kd" in sources.modules_of(student)
    reached = sources.reached(["kdtune.training.run", *sources.modules_of(student)])
    assert {"kdtune.training.lesson", "kdtune.models.networks.small", "kdtune.randomness"} <= reached
    assert not any(name.split(".")[1] in ("store", "report", "cli", "launch", "planning") for name in reached)


def test_code_of_ones_own_is_digested_where_it_was_loaded_from(tmp_path, monkeypatch) -> None:
    (tmp_path / "own_loss.py").write_text("import kdtune.randomness\nstrength = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("own_loss")
    before = sources.digest(("own_loss",))
    assert sources.reached(["own_loss"]) == {"own_loss", "kdtune.randomness"}
    (tmp_path / "own_loss.py").write_text("import kdtune.randomness\nstrength = 2\n")
    forget_what_was_read()
    assert sources.digest(("own_loss",)) != before


@pytest.mark.parametrize("name", ["fickle", "messy", "noisy_labels"])
def test_a_run_that_travelled_to_another_process_is_of_the_same_code(name) -> None:
    """It travels without what is off: where sigma was 0, all such runs of a sweep were said to be of other code."""
    plan = build_plan(load_sweep(ROOT / "sweeps" / f"{name}.yaml", "laptop"), Path("nowhere"))
    for planned in plan.runs.values():
        travelled = Run.model_validate(json.loads(planned.run.model_dump_json()))
        assert sources.of_training(travelled) == sources.of_training(planned.run), planned.name
