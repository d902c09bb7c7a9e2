"""A sweep's folder: derived from the runs alone, written only where it changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SMALL

from kdtune.cli.sweep import Options, run
from kdtune.evaluation import pgd as attack
from kdtune.planning.plan import build_plan
from kdtune.report import table
from kdtune.report.folder import View, described
from kdtune.store.encoding import from_yaml
from kdtune.store.objects import Objects
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

NAMES = ("sweep.yaml", "plan.json", "results.csv", "results.parquet")
PGD = "{pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 2, images: 20}}"
TEXT = SMALL.replace("evaluation: [accuracy]", f"evaluation: [accuracy, {PGD}]")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Any:
    """The small sweep with an attack, finished."""
    root = tmp_path_factory.mktemp("view")
    path = root / "small.yaml"
    path.write_text(TEXT)
    options = Options(path, profile="paper", results=str(root / "results"), data=str(root), here=True, verbosity=-1)
    assert run(options) == 0
    file = load_sweep(path)
    return SimpleNamespace(root=root / "results", file=file, plan=build_plan(file, root))


@pytest.fixture
def view(done, tmp_path: Path) -> View:
    """A view that a test may spoil: of a copy of the results."""
    shutil.copytree(done.root, tmp_path / "results")
    return View(Standing(Store(tmp_path / "results"), done.plan.evaluators), done.plan)


def contents(view: View) -> dict[str, bytes]:
    return {name: (view.local / name).read_bytes() for name in NAMES}


def now(view: View) -> dict[str, str]:
    return view.standing.states(view.plan.runs)


def test_it_lies_under_the_sweep_and_the_profile(done) -> None:
    view = View(Standing(Store(done.root), done.plan.evaluators), done.plan)
    assert view.key == "small/paper"
    assert Path(view.place) == view.local == done.root / "small" / "paper"


def test_overrides_have_a_folder_of_their_own_always_the_same(done) -> None:
    keys = [
        View(Standing(Store(done.root), done.plan.evaluators), done.plan, overrides).key
        for overrides in ((), ("a=1",), ("a=1",), ("a=2",), ("a=1", "b=2"), ("a=1b=2",))
    ]
    assert keys[0] == "small/paper" and keys[1] == keys[2]
    assert len(set(keys)) == 5
    assert all(key.startswith("small/paper+") and len(key) == len("small/paper+1234") for key in keys[1:])


def test_the_folder_deleted_comes_back_to_the_byte(view: View, done) -> None:
    before = contents(view)
    shutil.rmtree(view.local)
    view.write(done.file, now(view))
    assert contents(view) == before


def test_what_has_not_changed_is_not_written_again(view: View, done) -> None:
    before = {name: (view.local / name).stat().st_mtime_ns for name in NAMES}
    view.write(done.file, now(view))
    assert {name: (view.local / name).stat().st_mtime_ns for name in NAMES} == before


@pytest.mark.parametrize("name", NAMES)
def test_one_file_deleted_comes_back(name: str, view: View, done) -> None:
    before = contents(view)
    (view.local / name).unlink()
    view.write(done.file, now(view))
    assert contents(view) == before


@pytest.mark.parametrize("name", ["sweep.yaml", "plan.json", "results.csv"])
def test_one_file_spoilt_is_made_right(name: str, view: View, done) -> None:
    before = contents(view)
    (view.local / name).write_bytes(b"spoilt")
    view.write(done.file, now(view))
    assert contents(view) == before


def test_cut_off_between_the_two_tables_the_next_command_makes_both_agree(
    view: View, done, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading arrow takes a second at the very end, when somebody may well press Ctrl-C twice."""
    before = contents(view)
    shutil.rmtree(view.local)
    view.write(done.file, dict.fromkeys(done.plan.runs, "new"))  # as at the start of the command

    def killed(*_: Any) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(table, "to_parquet", killed)
        view.write(done.file, now(view))
    view.write(done.file, now(view))
    assert contents(view) == before


def test_it_returns_the_rows_that_it_wrote(view: View, done) -> None:
    rows = view.write(done.file, now(view))
    assert [row["id"] for row in rows] == list(done.plan.runs)
    assert table.to_csv(rows) == (view.local / "results.csv").read_bytes()


def test_the_plan_tells_how_each_run_stands_and_for_whom_it_waits(view: View, done) -> None:
    kept = json.loads((view.local / "plan.json").read_bytes())
    assert (kept["sweep"], kept["profile"], kept["dataset"]) == ("small", "paper", done.plan.dataset)
    assert {part: kept[part] for part in ("runs", "places")} == described(done.plan, now(view))
    assert kept["file"] == str(Path(done.file.path).resolve())
    known = set()
    for each in kept["runs"]:
        assert set(each["waits_for"]) <= known, "a teacher stands before its students"
        known.add(each["id"])
    assert {each["state"] for each in kept["runs"]} == {"done"}


def test_the_attack_behind_a_robustness_number_travels_with_the_table(view: View) -> None:
    attack = table.read(view.local).attrs["attack"]
    assert attack == json.loads((view.local / "plan.json").read_bytes())["attack"]
    for words in ("eps 0.1", "step 0.05", "2 restarts"):
        assert words in attack


def test_an_attack_on_held_out_images_is_not_taken_for_the_one_behind_the_number(view: View, done) -> None:
    """Figures name the attack of `robust/*`; what is measured `on: val` has names of its own, wherever it stands."""
    before = table.read(view.local).attrs["attack"]
    held_out = attack.PGD(eps=(0.3,), step=(0.2,), on="val")
    beside = View(view.standing, replace(done.plan, evaluation=(*done.plan.evaluation, held_out)))
    beside.write(done.file, now(view))
    assert table.read(beside.local).attrs["attack"] == before


def test_the_kept_sweep_is_a_sweep_file_of_the_same_runs(view: View, done, tmp_path: Path) -> None:
    kept = view.local / "sweep.yaml"
    assert from_yaml(kept.read_bytes())["name"] == "small"
    assert list(build_plan(load_sweep(kept), tmp_path).runs) == list(done.plan.runs)


def test_a_store_elsewhere_has_a_mirror_for_files_that_need_a_folder(
    done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obstore.store import MemoryStore

    objects = Objects("memory", MemoryStore())
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path / "data"))
    view = View(Standing(Store(objects), done.plan.evaluators), done.plan)
    assert view.local == tmp_path / "data" / "mirror" / "memory" / "small" / "paper"
    view.write(done.file, dict.fromkeys(done.plan.runs, "new"))
    assert set(objects.list("small/paper")) == {f"small/paper/{name}" for name in NAMES}
