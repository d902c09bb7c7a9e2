"""`kdtune forget`: runs are taken away with all that learned from them, and done again by their sweeps."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
import stored
from click.testing import CliRunner, Result
from conftest import SMALL
from obstore.store import MemoryStore

from kdtune.__main__ import main
from kdtune.cli.forget import Asked, located
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import Plan, build_plan
from kdtune.store.forgetting import Lineage, evaluations_of, forget, forget_evaluations
from kdtune.store.objects import Objects
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

OTHER = SMALL.replace("name: small", "name: other").replace("alpha: 0.9", "alpha: 0.5")  # the same teachers
PGD = "{pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 1, images: 20}}"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Any:
    """Two sweeps that share their teachers, finished, to be copied."""
    root = tmp_path_factory.mktemp("forget")
    plans = []
    for name, text in (("small.yaml", SMALL.replace("[accuracy]", f"[accuracy, {PGD}]")), ("other.yaml", OTHER)):
        (root / name).write_text(text)
        options = Options(
            root / name, (), "paper", results=str(root / "results"), data=str(root), here=True, verbosity=-1
        )
        assert run(options) == 0
        plans.append(build_plan(load_sweep(root / name), root))
    return SimpleNamespace(results=root / "results", file=root / "small.yaml", plan=plans[0], other=plans[1])


@pytest.fixture
def results(swept, tmp_path: Path) -> Path:
    return shutil.copytree(swept.results, tmp_path / "results")


def do(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["forget", *map(str, words)])


def of_role(plan: Plan, role: str, **parameters: Any) -> list[str]:
    return [id for id, each in plan.runs.items() if each.role == role and parameters.items() <= each.parameters.items()]


def learners(swept, teacher: str) -> set[str]:
    return {id for plan in (swept.plan, swept.other) for id, each in plan.runs.items() if teacher in each.waits_for}


def sweep_again(swept, results: Path, name: str = "small.yaml") -> int:
    file = swept.file.with_name(name)
    return run(Options(file, (), "paper", results=str(results), data=str(results), here=True, verbosity=-1))


def test_a_teacher_goes_with_its_students_in_every_sweep_and_comes_back_the_same(swept, results) -> None:
    teacher = of_role(swept.plan, "teacher", rate=0.2)[0]
    gone = {teacher, *learners(swept, teacher)}
    assert len(gone) == 1 + 2 + 2
    before = {id: stored.weights(Store(results), id) for id in gone}
    said = do(results / "small", teacher, "--yes")
    assert said.exit_code == 0, said.output
    assert "teacher rate=0.2 seed=0" in said.stdout and "5 runs (4 that learned from the others)" in said.stdout
    assert all(id in said.stdout for id in gone)
    store = Store(results)
    assert stored.finished(store).isdisjoint(gone) and len(stored.finished(store)) == 14 - 5
    assert not any(store.objects.list(f"runs/{id}") for id in gone)
    (trash,) = (results / "runs" / "trash").iterdir()
    assert str(trash) in said.stdout
    assert {path.name for path in trash.iterdir()} == {*gone, "done"}
    for name in ("small.yaml", "other.yaml"):
        assert sweep_again(swept, results, name) == 0
    assert {id: stored.weights(store, id) for id in gone} == before


def test_what_is_in_the_trash_can_be_put_back(swept, results) -> None:
    teacher = of_role(swept.plan, "teacher", rate=0.2)[0]
    assert do(results / "small", teacher, "--yes").exit_code == 0
    (trash,) = (results / "runs" / "trash").iterdir()
    for path in [*(trash / "done").iterdir()]:
        path.rename(results / "runs" / "done" / path.name)
    (trash / "done").rmdir()
    for path in [*trash.iterdir()]:
        path.rename(results / "runs" / path.name)
    standing = Standing(Store(results), swept.plan.evaluators)
    assert set(standing.states(swept.plan.runs).values()) == {"done"}


@pytest.mark.parametrize("where", ["folder", "profile", "file", "root"])
def test_the_sweep_may_be_named_by_its_folder_or_file_and_runs_by_id_alone(swept, results, where) -> None:
    student = of_role(swept.plan, "student", rate=0.2)[0]
    place = {"folder": "small", "profile": "small/paper", "root": "."}
    words = [results / place[where]] if where != "file" else [swept.file, "--results", results, "--profile", "paper"]
    said = do(*words, student, "--data", results)
    assert said.exit_code == 0, said.output
    assert ("student rate=0.2 seed=0" if where != "root" else "student mlp seed=0") in said.stdout
    assert "forgotten: 1 run; kept in" in said.stdout
    assert len(stored.finished(Store(results))) == 13


@pytest.mark.parametrize("place", ["small", "."])
@pytest.mark.parametrize("by", ["beginning", "name"])
def test_runs_may_be_named_by_the_beginning_of_an_id_or_by_name(swept, results, place, by) -> None:
    """Finished or not. In all results at once a name may be of several runs."""
    student = of_role(swept.plan, "student", rate=0.2)[0]
    (results / "runs/done" / student).unlink()  # begun, and not finished
    said = do(results / place, student[:7] if by == "beginning" else "student rate=0.2 seed=0", "--data", results)
    if (place, by) == (".", "name"):
        (other,) = [id for id, each in swept.other.runs.items() if each.name == "student rate=0.2 seed=0"]
        assert said.exit_code == 2 and "may be any of" in said.stderr
        assert student in said.stderr and other in said.stderr
    else:
        assert said.exit_code == 0 and f"{student}" in said.stdout, said.output
        assert not (results / "runs" / student).exists()


def test_a_run_that_has_not_begun_cannot_be_forgotten(swept, results) -> None:
    student = of_role(swept.plan, "student", rate=0.2)[0]
    (results / "runs/done" / student).unlink()
    shutil.rmtree(results / "runs" / student)
    said = do(results / "small", "student rate=0.2 seed=0", "--data", results)
    assert said.exit_code == 2 and f"has no run {student}" in said.stderr


def test_only_takes_those_that_are_named_and_not_whom_they_wait_for(swept, results) -> None:
    said = do(results / "small", "--only", "rate=0.2,role=student", "--data", results)
    assert said.exit_code == 0, said.output
    assert swept.plan.runs.keys() - stored.finished(Store(results)) == {*of_role(swept.plan, "student", rate=0.2)}
    assert do(results / "small", "--only", "rate=0.2", "--yes", "--data", results).exit_code == 0
    assert swept.plan.runs.keys() & stored.finished(Store(results)) == {
        *of_role(swept.plan, "teacher", rate=0.0),
        *of_role(swept.plan, "student", rate=0.0),
    }
    assert swept.other.runs.keys() & stored.finished(Store(results)) == {
        *of_role(swept.other, "teacher", rate=0.0),
        *of_role(swept.other, "student", rate=0.0),
    }


def test_a_dry_run_moves_nothing(swept, results) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    said = do(results / "small", of_role(swept.plan, "teacher")[0], "--dry-run")
    assert said.exit_code == 0 and "would be forgotten: 5 runs" in said.stdout
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_what_a_command_works_on_stays(swept, results, whose) -> None:
    """A student that is being trained: its teacher is in use, whatever sweep it belongs to."""
    teacher = of_role(swept.plan, "teacher")[0]
    claimed = teacher if whose == "teacher" else next(iter(learners(swept, teacher) & swept.other.runs.keys()))
    store = Store(results)
    with store.claim(claimed):
        said = do(results / "small", teacher)
    assert said.exit_code == 4 and claimed in said.stderr and "nothing was moved" in said.stderr
    assert len(stored.finished(store)) == 14 and not (results / "runs" / "trash").exists()


def test_runs_of_earlier_images_or_labels_are_named(swept, results, monkeypatch) -> None:
    """By its axes nobody finds them: those are of the sweep as it would be now."""
    monkeypatch.setattr("kdtune.run.RECIPE_VERSION", 99)
    said = do(results / "small", "--only", "rate=0.2", "--data", results)
    assert said.exit_code == 2 and "runs of the folder's table are of other images, labels, weights" in said.stderr
    id = said.stderr.partition("by their ids, ")[2].split()[0]
    assert do(results / "small", id, "--data", results, "--dry-run").exit_code == 0


def test_what_is_not_there_is_said(swept, results, tmp_path) -> None:
    unknown = do(results / "small", "0" * 12, of_role(swept.plan, "teacher")[0])
    assert unknown.exit_code == 2 and "has no run 000000000000" in unknown.stderr
    for words in (
        [results / "small", "../x"],
        [results / "small"],
        [results / "small", "0" * 12, "--only", "rate=0.2"],
        [results / "small", "--only", "rate=0.7", "--data", results],
        [results / "small", "--only", "nonsense=1", "--data", results],
        [results / "small", "--outdated", "--data", results],
        [results, "--only", "rate=0.2"],
        [tmp_path / "nowhere", "0" * 12],
        [results / "small", of_role(swept.plan, "teacher")[0], "--evaluation", "masking"],
    ):
        said = do(*words)
        assert said.exit_code == 2 and said.stderr, words
    assert len(stored.finished(Store(results))) == 14


def test_without_a_terminal_students_go_only_where_that_was_asked_for(swept, results) -> None:
    said = do(results / "small", of_role(swept.plan, "teacher")[0])
    assert said.exit_code == 4 and "4 that learned from them. Add --yes" in said.stderr
    assert len(stored.finished(Store(results))) == 14


def test_what_no_run_has_is_told_from_what_is_not_there(results) -> None:
    said = do(results / "small", "--only", "role=teachr")
    assert said.exit_code == 2 and "no run has role=teachr" in said.stderr


def test_the_folders_table_shows_what_is_gone_no_more(swept, results) -> None:
    """And has it again from the trash, as the README says."""
    before = (results / "small/paper/results.csv").read_bytes()
    gone = of_role(swept.plan, "teacher")[0]
    said = do(results / "small", gone, "--yes")
    found = pandas.read_csv(results / "small/paper/results.csv").set_index("id")
    assert found.state[gone] == "new" and list(found.state).count("new") == 3 and len(found) == 10
    assert found["test/accuracy"][gone] != found["test/accuracy"][gone], "no number"
    (trash,) = (results / "runs/trash").iterdir()
    assert str(trash) in said.output
    subprocess.run(["cp", "-rn", f"{trash}/.", results / "runs"], check=True)
    options = Options(
        swept.file, (), "paper", results=str(results), data=str(swept.file.parent), here=True, verbosity=-1
    )
    assert run(options) == 0 and (results / "small/paper/results.csv").read_bytes() == before


def test_tensorboard_shows_what_is_gone_no_more(swept, results) -> None:
    """Of both sweeps; a mean is of all its seeds."""
    gone, *_ = of_role(swept.plan, "teacher", rate=0.2)
    shown = {name: results / name / "paper/tensorboard" for name in ("small", "other")}
    before = {name: {path.name for path in (folder / "runs").iterdir()} for name, folder in shown.items()}
    assert do(results / "small", gone, "--yes").exit_code == 0
    lost = {"teacher rate=0.2 seed=0", "student rate=0.2 seed=0", "student rate=0.2 seed=1"}
    for name, folder in shown.items():
        assert {path.name for path in (folder / "runs").iterdir()} == before[name] - lost, name
        means = {path.name for path in (folder / "means").iterdir() if path.is_dir()}
        assert means == {"teacher rate=0", "student rate=0"}
    shutil.rmtree(shown["small"])
    assert do(results / "small", of_role(swept.plan, "teacher", rate=0.0)[0], "--yes").exit_code == 0
    assert not shown["small"].exists(), "where there is none, none is made"


@pytest.mark.parametrize(("answer", "status"), [(True, 0), (False, 4)])
def test_on_a_terminal_it_asks_whether_students_go_too(swept, results, monkeypatch, answer, status) -> None:
    asked = []
    monkeypatch.setattr("kdtune.cli.forget.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr("click.confirm", lambda question, **_: (asked.append(question), answer)[1])
    teacher, *rest = of_role(swept.plan, "teacher")
    assert do(results / "small", teacher).exit_code == status
    assert len(asked) == 1 and "4 that learned from them" in asked[0]
    assert len(stored.finished(Store(results))) == (9 if answer else 14)
    assert do(results / "small", rest[-1], "--yes").exit_code == 0
    assert do(results / "small", of_role(swept.plan, "student")[0]).exit_code in (0, 2)
    assert len(asked) == 1, "of a student alone nobody asks"


def test_the_results_of_one_evaluator_alone(swept, results, monkeypatch) -> None:
    """Measured again, and trained not: its code alone had changed."""
    accuracy, pgd = swept.plan.evaluators
    said = do(results / "small", "--only", "rate=0.2", "--evaluation", "pgd", "--data", results)
    assert said.exit_code == 0, said.output
    standing = Standing(Store(results), swept.plan.evaluators)
    states = standing.states(swept.plan.runs)
    for id, planned in swept.plan.runs.items():
        touched = planned.parameters["rate"] == 0.2
        assert states[id] == ("partial" if touched else "done")
        assert standing.missing(id) == ([pgd] if touched else [])
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: pytest.fail("trained"))
    assert sweep_again(swept, results) == 0
    assert set(Standing(Store(results), [accuracy, pgd]).states(swept.plan.runs).values()) == {"done"}


# The store's part, wherever the store is


def store_of(kind: str, folder: Path) -> Store:
    if kind == "local":
        return Store(folder / "results")
    return Store(Objects("memory", MemoryStore()))


def finish(store: Store, id: str, *teachers: str) -> None:
    attempt = store.attempt(id)
    chosen = {"teacher": {"runs": [*teachers], "rule": "best"}} if teachers else {}
    attempt.write_description({"model": {"mlp": {}}, "seed": 1, **chosen})
    attempt.finish("done", b"weights", [], {})
    store.evaluations(id, store.done(id)).write("cafe" * 3, {"name": "pgd"}, {"a": 1.0}, {})


A, B, C, D, E = (letter * 12 for letter in "abcde")


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_students_of_students_and_those_that_never_finished_go_too(kind, tmp_path) -> None:
    store = store_of(kind, tmp_path)
    finish(store, E)
    finish(store, C, B, E)
    finish(store, B, A)
    finish(store, A)
    store.attempt(D).write_description({"teacher": {"runs": [C]}})
    lineage = Lineage(store.objects)
    family = lineage.with_learners([A])
    assert family == [A, B, C, D]
    trash = forget(store.objects, family)
    assert stored.finished(store) == {E} and Lineage(store.objects).runs.keys() == {E}
    moved = store.objects.list(trash)
    assert {key.split("/")[3] for key in moved} == {A, B, C, D, "done"}
    assert sum(key.startswith(f"{trash}/done/") for key in moved) == 3


@pytest.mark.parametrize("kind", ["local", "remote"])
@pytest.mark.parametrize("after", range(6))
def test_cut_short_no_student_counts_without_its_teacher(kind, after, tmp_path, monkeypatch) -> None:
    store = store_of(kind, tmp_path)
    for id, *teachers in ((A,), (B, A), (C, B)):
        finish(store, id, *teachers)

    class Crash(BaseException):
        pass

    moves, move = [], Objects.move

    def crashing(self, key: str, to: str) -> None:
        if len(moves) == after:
            raise Crash
        moves.append(key)
        move(self, key, to)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(Objects, "move", crashing)
        forget(store.objects, Lineage(store.objects).with_learners([A]))
    left = stored.finished(store)
    assert (A in left) >= (B in left) >= (C in left)
    lineage = Lineage(store.objects)
    if A in lineage.runs:  # the same command again
        forget(store.objects, lineage.with_learners([A]))
        assert Lineage(store.objects).runs.keys().isdisjoint({A, B})
    assert stored.finished(store) == set()


def test_results_of_all_attempts_go_for_an_evaluator_by_name_or_hash(tmp_path) -> None:
    store = store_of("local", tmp_path)
    store.attempt(A).evaluations("0" * 64).write("cafe" * 3, {"name": "pgd"}, {"a": 1.0}, {})
    finish(store, A)
    for name in ("pgd", "cafe" * 3):
        assert len(evaluations_of(store.objects, A, name)) == 2
    assert evaluations_of(store.objects, A, "accuracy") == []
    forget_evaluations(store.objects, evaluations_of(store.objects, A, "pgd"))
    assert evaluations_of(store.objects, A, "pgd") == [] and store.done(A) is not None


def test_a_file_is_of_the_profile_that_its_own_command_takes(tmp_path, monkeypatch):
    """On a cluster's head RAY_ADDRESS decides on the profile of both."""
    (tmp_path / "two.yaml").write_text(SMALL + "profiles:\n  laptop: {seeds: 1}\n")
    asked = Asked(str(tmp_path / "two.yaml"), only="seed=0", results=str(tmp_path / "results"), data=str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert located(asked).plan.profile == "laptop"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert located(asked).plan.profile == "paper" and "--address 10.0.0.1:6379" in located(asked).command
