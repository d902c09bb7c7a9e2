"""Students whose images come from a source: planned, shared, lost, damaged, interrupted, measured late."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stored
import torch
from click.testing import CliRunner
from world import PGD, ROBUST, SOURCE, SOURCED, STUDENT, WIDE, WORLD, at, of_role, performed, planned

import kdtune
from kdtune.__main__ import main
from kdtune.data.loading import load
from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import Plan
from kdtune.report.outdated import outdated
from kdtune.store.forgetting import Lineage
from kdtune.store.standing import Standing
from kdtune.store.store import Store
from kdtune.training.context import RunContext
from kdtune.training.run import perform
from kdtune.training.taught import answers_of, data_of
from kdtune.training.teacher import choose_source, load_teacher

GRID = """\
grid:
  - {robust: [null, {steps: 20, step: 0.2}], loss: {ce: {}}, eps: 0.0}
  - {robust: null, loss: {mse: {teacher_sees: shown}}, eps: 0.5}
"""
ARM = f"""\
student:
  model: {WIDE}
  dataset: {{robust: $robust}}
  loss: $loss
  noise: {{input: {{pgd: {PGD.replace("0.5,", "$eps,", 1)}}}}}
"""
ARMS = SOURCED.replace(ROBUST, ARM).replace("seeds: 2\n", f"seeds: 2\n{GRID}")


def do(*words: object, status: int = 0) -> str:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == status, done.output
    return done.output


def swept(root: Path, text: str, *words: object, status: int = 0) -> str:
    (root / "world.yaml").write_text(text)
    return do("sweep", root / "world.yaml", "--results", root / "r", "--data", root, "--here", *words, status=status)


@pytest.fixture(scope="module")
def swept_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    root = tmp_path_factory.mktemp("arms")
    swept(root, ARMS)
    return root, planned(ARMS, root)


@pytest.fixture
def finished(swept_once: tuple[Path, Plan], tmp_path: Path) -> tuple[Path, Plan]:
    """A copy of a sweep with a source, all done."""
    root = shutil.copytree(swept_once[0], tmp_path / "copy")
    return root, swept_once[1]


def sourced(plan: Plan) -> list[Any]:
    return [place for place in of_role(plan, "student") if place.run.source]


# The plan


def test_a_source_that_an_arm_asks_for_too_is_one_run(swept_once: tuple[Path, Plan]) -> None:
    root, plan = swept_once
    sources = {place.id for place in of_role(plan, "source")}
    assert len(sources) == 2 and plan.shared == 2 and len(plan.runs) == 2 + 2 + 2 + 2
    assert sources == {place.id for place in of_role(plan, "student") if place.parameters["eps"] == 0.5}
    for place in sourced(plan):
        (teacher,), (source,) = place.run.teacher.runs, place.run.source.runs
        assert place.waits_for == (teacher, source)
        assert {plan.runs[id].run.seed for id in (teacher, source)} == {place.run.seed}
        assert plan.runs[source].waits_for == (teacher,)
    table = kdtune.table(root / "r/world")
    rows = table[table.id.isin(sources)]
    assert sorted(rows.role) == ["source", "source", "student", "student"]
    for _, two in rows.groupby("id"):
        assert two["test/accuracy"].nunique() == 1


def test_a_source_whom_nobody_asks_is_no_run(tmp_path: Path) -> None:
    plan = planned(WORLD.replace(STUDENT, SOURCE + STUDENT), tmp_path)
    assert {place.role for place in plan.places} == {"teacher", "student"}
    assert plan.runs.keys() == planned(WORLD, tmp_path).runs.keys()


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("steps: 20", "steps: 21"),
        ("step: 0.2", "step: 0.3"),
        ("eps: 0.5", "eps: 0.6"),
        ("climbs: oracle", "climbs: mse"),
        ("source:\n", "source:\n  recipe: {epochs: 4}\n"),
        ("source:\n", "source:\n  dataset: {repeat: 2}\n"),
        ("{mse: {teacher_sees: shown}}", "{mse: {}}"),
        ("seeds: 2", "seeds: [2, 3]"),
    ],
)
def test_another_source_is_another_student(there: str, instead: str, tmp_path: Path) -> None:
    assert there in SOURCED
    before, after = planned(SOURCED, tmp_path), planned(SOURCED.replace(there, instead, 1), tmp_path)
    one, other = ({place.id for place in of_role(plan, "student")} for plan in (before, after))
    assert one.isdisjoint(other)


def test_a_student_without_a_source_has_another_id_and_no_trace_of_it(tmp_path: Path) -> None:
    student = of_role(planned(WORLD, tmp_path), "student")[0].run
    assert not {"source", "robust"} & {*student.description, *student.description["dataset"]}
    own = of_role(planned(SOURCED, tmp_path), "student")[0].run
    assert own.description["source"]["runs"] and own.description["dataset"]["robust"] == {"steps": 20, "step": 0.2}


# What it is trained on


def test_it_is_trained_on_what_its_own_source_sees_in_images(swept_once: tuple[Path, Plan]) -> None:
    root, plan = swept_once
    context = at(root)
    for place in sourced(plan):
        chosen = stored.provenance(context.store, place.id)
        source, weights = load_teacher(chosen["source"]["id"], context.store, "cpu")
        assert chosen["source"] == {"id": place.run.source.runs[0], "weights_sha256": weights}
        teacher, _ = load_teacher(chosen["teacher"]["id"], context.store, "cpu")
        data = load(place.run.dataset, root, answer=answers_of(teacher, "cpu"), source=source)
        (hash,) = plan.evaluators
        assert context.store.evaluation(place.id, hash)["test/accuracy"] == pytest.approx(
            100
            * (answers_of(kdtune.load(place.id, str(root / "r")), "cpu")(data.test.images) == data.test.labels)
            .double()
            .mean()
            .item()
        )


def test_images_of_no_source_are_never_left_as_they_are_without_a_word(swept_once: tuple[Path, Plan]) -> None:
    root, plan = swept_once
    run, store = sourced(plan)[0].run, at(root).store
    teacher, _ = load_teacher(run.teacher.runs[0], store, "cpu")
    plain = run.model_copy(update={"source": None})
    with pytest.raises(RuntimeError, match="with robust takes its images from a source, and the run has none"):
        data_of(plain, lambda: (teacher, {}), root, "cpu", lambda: choose_source(plain, store, "cpu"))
    with pytest.raises(RuntimeError, match="takes its images from a source"):
        data_of(run, lambda: (teacher, {}), root, "cpu")


def test_interrupted_it_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    plan = planned(SOURCED, tmp_path)
    whole, parts = at(tmp_path, "a"), at(tmp_path, "b", checkpoint_every=0.0, stopped=lambda: True)
    performed(plan, whole)
    performed(plan, replace(parts, stopped=lambda: False), "teacher")
    through = replace(parts, stopped=lambda: False)
    for place in (of_role(plan, "source")[0], of_role(plan, "student")[0]):
        assert [perform(place.run, plan.evaluation, parts).state for _ in range(2)] == ["stopped"] * 2
        assert stored.checkpoint(parts.store, place.id)[0] == 2
        assert perform(place.run, plan.evaluation, through).state == "done"
        assert stored.weights(whole.store, place.id) == stored.weights(parts.store, place.id)
        (hash,) = plan.evaluators
        assert whole.store.evaluation(place.id, hash) == parts.store.evaluation(place.id, hash)


def test_a_checkpoint_of_another_sources_images_is_not_gone_on_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = planned(SOURCED, tmp_path)
    context = at(tmp_path, checkpoint_every=0.0)
    performed(plan, context, "teacher", "source")
    student = of_role(plan, "student")[0]
    assert perform(student.run, plan.evaluation, replace(context, stopped=lambda: True)).state == "stopped"
    retrained(context, plan, student.run.source.runs[0])
    assert perform(student.run, plan.evaluation, context).state == "done"
    assert "other code than this, another teacher or another source trained it so far" in caplog.text
    assert stored.provenance(context.store, student.id)["source"]["weights_sha256"] == weights_of(
        context.store, student.run.source.runs[0]
    )


def weights_of(store: Store, id: str) -> str:
    return store.done(id).files["model.safetensors"]


def retrained(context: RunContext, plan: Plan, id: str) -> None:
    """A run is trained once more, to other weights: as if by other code."""
    before = weights_of(context.store, id)
    done = context.store.done(id)
    context.store.withdraw(id, done, "a test")
    run = plan.runs[id].run
    other = run.model_copy(update={"seed": 77})
    object.__setattr__(other, "id", id)
    other.__dict__["id"] = id
    assert perform(other, plan.evaluation, context).state == "done"
    assert weights_of(context.store, id) != before


# What becomes of it


def test_what_is_measured_late_is_of_the_images_that_it_had(finished: tuple[Path, Plan]) -> None:
    """`fit` looks at what was trained on. Where the source has other weights since, that is not to be had any more."""
    root, plan = finished
    do("evaluate", root / "r/world", "--evaluation", "fit", "--here")
    table, store = kdtune.table(root / "r/world"), Store(root / "r")
    place = sourced(plan)[0]
    chosen = stored.provenance(store, place.id)
    source, teacher = (load_teacher(chosen[part]["id"], store, "cpu")[0] for part in ("source", "teacher"))
    answer = answers_of(teacher, "cpu")
    images = load(place.run.dataset, root, answer=answer, source=source).train
    right = answers_of(kdtune.load(place.id, str(root / "r")), "cpu")(images.images) == images.labels
    (row,) = table[table.id == place.id].itertuples()
    assert table["fit/accuracy"][row.Index] == pytest.approx(100 * right.double().mean().item())
    plain = load(place.run.dataset.model_copy(update={"robust": None}), root, answer=answer).train
    assert not torch.equal(plain.images, images.images)

    retrained(at(root), plan, place.run.source.runs[0])
    said = do("evaluate", root / "r/world", "--evaluation", "{oracle: {steps: 2}}", "--here", status=3)
    assert f"its source {place.run.source.runs[0]} has other weights by now" in said


def test_a_student_is_outdated_where_its_source_has_other_weights(finished: tuple[Path, Plan]) -> None:
    root, plan = finished
    place = sourced(plan)[0]
    retrained(at(root), plan, place.run.source.runs[0])
    standing = Standing(Store(root / "r"), plan.evaluators)
    standing.preload(plan.runs)
    assert outdated(plan, standing, {}).taught == (place.id,)
    said = swept(root, ARMS)
    assert "outdated     1 students learned from weights that their teacher or source has no longer" in said
    do("forget", root / "r/world", "--outdated", "--yes")
    assert place.id not in stored.finished(Store(root / "r"))
    assert "outdated  " not in swept(root, ARMS)
    chosen = stored.provenance(Store(root / "r"), place.id)["source"]
    assert chosen["weights_sha256"] == weights_of(Store(root / "r"), place.run.source.runs[0])


def test_with_a_source_its_students_are_forgotten(finished: tuple[Path, Plan]) -> None:
    root, plan = finished
    place = sourced(plan)[0]
    (source,) = place.run.source.runs
    store = Store(root / "r")
    assert Lineage(store.objects).with_learners([source]) == [source, place.id]
    before = stored.weights(store, source), stored.weights(store, place.id)
    said = do("forget", root / "r/world", source, "--yes")
    assert "2 runs (1 that learned from the others)" in said and place.id in said
    assert {source, place.id}.isdisjoint(stored.finished(store))
    swept(root, ARMS)
    assert (stored.weights(store, source), stored.weights(store, place.id)) == before


def test_a_damaged_source_is_trained_again_before_its_student(finished: tuple[Path, Plan]) -> None:
    root, plan = finished
    place = sourced(plan)[0]
    (source,) = place.run.source.runs
    store = Store(root / "r")
    done = store.done(place.id)
    store.withdraw(place.id, done, "a test")
    (file,) = (root / "r/runs" / source).glob("*/model.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    outcome = perform(place.run, plan.evaluation, at(root))
    assert outcome.state == "failed" and f"its source {source} is damaged" in outcome.traceback
    assert store.done(source) is None, "which whoever meets it says"
    dispatch = Dispatch(plan, Standing(store, plan.evaluators))
    assert dispatch.next().id == source


def test_a_source_that_diverged_is_named_by_its_student(tmp_path: Path) -> None:
    plan = planned(SOURCED.replace("source:\n", "source:\n  recipe: {optimizer: {sgd: {lr: 1.0e+30}}}\n"), tmp_path)
    context = at(tmp_path)
    performed(plan, context, "teacher")
    assert {str(each.state) for each in performed(plan, context, "source").values()} == {"diverged"}
    (outcome, _) = performed(plan, context, "student").values()
    (source,) = of_role(plan, "student")[0].run.source.runs
    assert outcome.state == "failed" and f"its source {source} is diverged: it has no network" in outcome.traceback


def test_a_student_of_a_source_that_failed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdtune.losses.mse import MSE

    def breaks(self: MSE, views: Any) -> Any:
        raise RuntimeError("out of paper")

    plan = planned(SOURCED, tmp_path)
    context = at(tmp_path)
    dispatch = Dispatch(plan, Standing(context.store, plan.evaluators))
    monkeypatch.setattr(MSE, "__call__", breaks)
    while (place := dispatch.next()) is not None:
        dispatch.ended(place.id, perform(place.run, plan.evaluation, context).traceback)
    for place in of_role(plan, "student"):
        assert dispatch.states[place.id] == "skipped"
        assert place.run.source.runs[0] in dispatch.reasons[place.id]


def test_a_sweep_says_which_source_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = swept(
        tmp_path, SOURCED.replace("source:\n", "source:\n  recipe: {optimizer: {sgd: {lr: 1.0e+30}}}\n"), status=3
    )
    assert "source   0 of 2" in said and "skipped: student seed=0" in said and "its source" in said


# What commands say


def test_dry_run_status_and_table_know_the_role(
    finished: tuple[Path, Plan], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root, plan = finished
    (tmp_path / "world.yaml").write_text(ARMS)
    said = do("sweep", tmp_path / "world.yaml", "--results", tmp_path / "none", "--data", tmp_path, "--dry-run", "-v")
    assert "2 sources: 2 new" in said and "source seed=0" in said
    words = ["sweep", root / "world.yaml", "--results", root / "r", "--data", root, "--dry-run", "--json"]
    do(*words)
    told = json.loads(capfd.readouterr().out)
    assert {place["role"] for place in told["places"]} == {"teacher", "source", "student"}
    assert "sources: 2 done" in do("status", root / "r/world")
    (_, means) = do("table", root / "r/world", "--rows", "eps", "--only", "role=source").splitlines()
    assert means.startswith("null ") and " +- " in means
    table = kdtune.table(root / "r/world")
    for place in sourced(plan):
        (index,) = table.index[table.id == place.id]
        assert table["source.id"][index] == place.run.source.runs[0]
        assert table["source.weights_sha256"][index] == weights_of(Store(root / "r"), place.run.source.runs[0])
        assert table["dataset.robust.steps"][index] == 20
    assert "source.runs" not in table and table["source.id"].notna().sum() == 2


def test_one_student_alone_brings_its_source_along(tmp_path: Path) -> None:
    (tmp_path / "world.yaml").write_text(ARMS)
    only = "robust={steps: 20, step: 0.2},seed=1"
    do("run", tmp_path / "world.yaml", "--results", tmp_path / "r", "--data", tmp_path, "--only", only)
    plan = planned(ARMS, tmp_path)
    (place,) = (each for each in sourced(plan) if each.run.seed == 1)
    assert stored.finished(Store(tmp_path / "r")) == {place.id, *place.waits_for}


def test_a_bundle_has_the_source(finished: tuple[Path, Plan], tmp_path: Path) -> None:
    root, plan = finished
    do("bundle", root / "r/world", tmp_path / "x.tar")
    do("import", tmp_path / "x.tar", "--results", tmp_path / "there")
    assert stored.finished(Store(tmp_path / "there")) == set(plan.runs)


def test_a_source_is_not_cleaned_away_while_its_student_is_kept(finished: tuple[Path, Plan]) -> None:
    from kdtune.store.unreferred import unreferred

    root, plan = finished
    store = Store(root / "r")
    assert unreferred(store.objects, store.claims, now=4e9).runs == []
    alone = planned(SOURCED, root)
    assert {place.id for place in sourced(alone)} == {place.id for place in sourced(plan)}
    shutil.rmtree(root / "r/world")
    swept(root, SOURCED)
    gone = set(unreferred(store.objects, store.claims, now=4e9).runs)
    assert gone == set(plan.runs) - set(alone.runs) and of_role(plan, "source")[0].id not in gone
