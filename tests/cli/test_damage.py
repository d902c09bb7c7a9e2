"""One damaged file, one link: every command says so in a line and goes on, or is refused; never a traceback."""

from __future__ import annotations

import logging
import pickle
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stored
from click.testing import CliRunner, Result
from conftest import SMALL

import kdtune
from kdtune import sources
from kdtune.__main__ import main
from kdtune.cli.sweep import Options, run
from kdtune.planning.plan import build_plan
from kdtune.report.table import TableError, read
from kdtune.store.store import DamagedError, Store
from kdtune.sweepfile.load import load_sweep

OTHER = SMALL.replace("name: small", "name: other").replace("alpha: 0.9", "alpha: 0.5")  # the same teachers
PGD = "{pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 1, images: 20}}"
FILES = ["history.jsonl", "provenance.json", "run.yaml", "model.safetensors", "evaluation", "done", "folder"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Any:
    root = tmp_path_factory.mktemp("damage")
    (root / "small.yaml").write_text(SMALL)
    (root / "other.yaml").write_text(OTHER)
    options = Options(
        root / "small.yaml", (), "paper", results=str(root / "results"), data=str(root), here=True, verbosity=-1
    )
    assert run(options) == 0
    return SimpleNamespace(root=root, results=root / "results", plan=build_plan(load_sweep(root / "small.yaml"), root))


@pytest.fixture
def results(swept, tmp_path: Path) -> Path:
    return shutil.copytree(swept.results, tmp_path / "results", symlinks=True)


def do(*words: str | Path) -> Result:
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def sweep(swept, results: Path, *words: str, name: str = "small.yaml") -> Result:
    where = ["--profile", "paper", "--results", results, "--data", swept.root]
    return do("sweep", swept.root / name, *where, *(words or ["--here"]))


def damage(results: Path, id: str, what: str, how: str) -> None:
    done = Store(results).done(id)
    folder = results / "runs" / id
    if what == "folder":
        shutil.rmtree(folder)
        return
    (path,) = {
        "done": [results / "runs" / "done" / id],
        "evaluation": (folder / done.attempt / "evaluations").glob("*.json"),
    }.get(what, [folder / done.attempt / what])
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    elif how == "cut":
        data = data[: len(data) // 2]
    path.write_bytes({"empty": b"", "other": b"[1, 2]\n"}.get(how, bytes(data)))


WAYS = ("flip", "cut", "empty", "other")
CASES = [(what, how) for what in FILES for how in (WAYS if what != "folder" else ("gone",))]


@pytest.mark.parametrize(("what", "how"), CASES)
def test_one_damaged_file_is_one_runs_matter(swept, results, what, how, caplog, monkeypatch) -> None:
    """Row C1: each command that looks, then the sweep, then all is well again."""
    id = next(iter(swept.plan.runs))
    before = {id: stored.weights(Store(results), id) for id in swept.plan.runs}
    damage(results, id, what, how)
    for words in (["status", results / "small"], ["table", results / "small"]):
        assert do(*words).exit_code == 0
    assert sweep(swept, results, "--dry-run").exit_code == 0
    assert sweep(swept, results, "--dry-run", name="other.yaml").exit_code == 0
    about = [record for record in caplog.records if record.levelno >= logging.WARNING]
    told = {"history.jsonl": 0, "run.yaml": 0, "model.safetensors": 0}.get(what, 1)
    assert len(about) == told, [record.getMessage() for record in about]
    assert all(id in record.getMessage() for record in about)
    shown = sweep(swept, results)
    assert shown.exit_code == 0, shown.output
    assert "10 done" in shown.stdout
    words = ["evaluate", results / "small", "--evaluation", PGD, "--here", "--data", swept.root]
    if what == "model.safetensors":  # nobody has read them until now, and `evaluate` trains nothing
        refused = do(*words)
        assert refused.exit_code == 4 and "model.safetensors is damaged" in refused.stderr
        assert do("forget", results, id, "--yes").exit_code == 0
        assert sweep(swept, results).exit_code == 0
    late = do(*words)
    assert late.exit_code == 0, late.output
    assert {id: stored.weights(Store(results), id) for id in swept.plan.runs} == before
    assert sweep(swept, results, name="other.yaml").exit_code == 0


@pytest.mark.parametrize("what", ["provenance.json", "model.safetensors", "run.yaml"])
def test_a_folder_in_the_place_of_a_file_is_one_runs_matter(swept, results, what) -> None:
    id = next(iter(swept.plan.runs))
    path = results / "runs" / id / Store(results).done(id).attempt / what
    path.unlink()
    path.mkdir()
    shown = sweep(swept, results, "--dry-run")
    assert shown.exit_code == 0 and "1 new" in shown.stdout, shown.output
    assert sweep(swept, results).exit_code == 0


def test_what_comes_back_is_finished_again(swept, results, caplog) -> None:
    """A disk that was away, a copy that had not ended."""
    id = next(iter(swept.plan.runs))
    weights = results / "runs" / id / Store(results).done(id).attempt / "model.safetensors"
    weights.rename(results / "away")
    for words in (["status", results / "small"], ["status", results / "small"]):
        assert "teachers: 1 new, 5 done" in do(*words).stdout
    assert "counts as not done" in caplog.text and "put it back" in caplog.text
    (results / "away").rename(weights)
    assert "teachers: 6 done" in do("status", results / "small").stdout


@pytest.mark.parametrize("what", FILES)
def test_what_a_single_run_needs_is_made_again(swept, results, what) -> None:
    student = list(swept.plan.runs)[-1]
    for id in (student, *swept.plan.runs[student].waits_for):
        damage(results, id, what, "flip")
    words = ["--profile", "paper", "--results", results, "--data", swept.root, "--only", "rate=0.2,seed=1"]
    assert do("run", swept.root / "small.yaml", *words).exit_code == 0


@pytest.mark.parametrize("what", ["provenance.json", "run.yaml", "model.safetensors"])
def test_a_network_that_cannot_be_loaded_says_what_is_damaged(swept, results, what) -> None:
    id = next(iter(swept.plan.runs))
    damage(results, id, what, "flip")
    with pytest.raises(DamagedError, match=rf"{what} is damaged.*kdtune forget"):
        kdtune.load(id, str(results))


# plan.json and the table


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[]", b"null", b'{"runs": 5}', b'{"runs": [{"id": "../x"}]}', b"\xff"]
)
def test_a_damaged_plan_is_one_line_and_made_anew_by_the_sweep(swept, results, content) -> None:
    path = results / "small" / "paper" / "plan.json"
    good = path.read_bytes()
    path.write_bytes(content)
    for words in (["status"], ["evaluate", "--evaluation", "pgd", "--here"], ["forget", "--only", "rate=0.2"]):
        said = do(words[0], results / "small", *words[1:])
        assert said.exit_code == 2, said.output
        assert "plan.json cannot be used" in said.stderr and len(said.stderr.splitlines()) == 1
    assert sweep(swept, results).exit_code == 0
    assert path.read_bytes() == good


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\xff" * 100])
def test_a_damaged_table_is_one_line(swept, results, content) -> None:
    path = results / "small" / "paper" / "results.parquet"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"results.parquet cannot be read .*delete it") as caught:
        read(results / "small")
    assert "\n" not in str(caught.value)
    path.unlink()
    assert sweep(swept, results).exit_code == 0
    assert len(read(results / "small")) == 10
    (results / "small" / "paper" / "results.csv").write_bytes(b"\xff\xfe\x00")
    assert do("table", results / "small").exit_code == 2


# Links (row C11)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "place", ["small", "small/paper", "small/paper/tensorboard", "small/paper/figures", "small/paper/results.csv"]
)
def test_a_link_out_of_the_results_is_refused_before_anything_is_written(swept, results, tmp_path, place) -> None:
    outside = tmp_path / "outside"
    if (results / place).is_file():
        outside.write_bytes(b"mine")
        (results / place).unlink()
    else:
        outside.mkdir()
        (outside / "mine").write_bytes(b"mine")
        shutil.rmtree(results / place, ignore_errors=True)
    (results / place).symlink_to(outside)
    before = contents(results)
    said = sweep(swept, results)
    assert said.exit_code == 4, said.output
    line = said.stderr.splitlines()[-1]
    assert (
        line.startswith("refused: ")
        and f"{place} is a link (to {outside}" in line
        and "only the results folder" in line
    )
    assert "Traceback" not in said.output
    assert contents(results) == before
    assert outside.read_bytes() == b"mine" if outside.is_file() else contents(outside) == {"mine": b"mine"}


@pytest.mark.parametrize("place", ["runs/done", "runs/claims", "runs/{id}"])
def test_a_link_among_the_runs_is_refused(swept, results, tmp_path, place) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    id = next(iter(swept.plan.runs))
    path = results / place.format(id=id)
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(outside)
    said = sweep(swept, results)
    assert said.exit_code == 4
    assert f"{place.format(id=id)} is a link" in said.stderr.splitlines()[-1]
    words = ["--profile", "paper", "--results", results, "--data", swept.root, "--only", "rate=0,seed=0"]
    looking = [
        sweep(swept, results, "--dry-run"),
        do("status", results / "small"),
        do("run", swept.root / "small.yaml", *words),
    ]
    expected = {"runs/claims": [0, 4, 0]}  # of finished runs nobody reads the claims
    assert [each.exit_code for each in looking] == expected.get(place, [4, 4, 4])
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("place", [".", "runs"])
def test_the_results_folder_and_its_runs_may_be_links(swept, results, tmp_path, place) -> None:
    path = results if place == "." else results / place
    path.rename(tmp_path / "scratch")
    path.symlink_to(tmp_path / "scratch")
    said = sweep(swept, results)
    assert said.exit_code == 0 and "10 done" in said.stdout, said.output
    assert "6 done" in do("status", results / "small").stdout
    id = list(swept.plan.runs)[-1]
    assert do("forget", results / "small", id).exit_code == 0
    assert sweep(swept, results).exit_code == 0
    assert len(stored.finished(Store(results))) == 10


def test_a_runs_link_among_tensorboards_folders_is_not_followed(swept, results, tmp_path, caplog) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = results / "small" / "paper" / "tensorboard" / "runs" / "teacher rate=0 seed=0"
    shutil.rmtree(path)
    path.symlink_to(outside)
    assert sweep(swept, results).exit_code == 0
    assert list(outside.iterdir()) == [] and "TensorBoard files are incomplete" in caplog.text


# Other code (row A3)


def test_a_changed_loss_is_said_and_done_again_by_forgetting(swept, results, monkeypatch) -> None:
    assert "outdated" not in sweep(swept, results).stdout
    original = sources._digest_of
    monkeypatch.setattr(sources, "_digest_of", lambda name: "other" if name == "kdtune.losses.kd" else original(name))
    sources.digest.cache_clear()
    said = sweep(swept, results)
    assert said.exit_code == 0
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("outdated")]
    assert "4 of 10 runs were trained by other code (commit " in line
    assert f"kdtune forget {results / 'small' / 'paper'} --outdated" in line
    forgot = do("forget", results / "small", "--outdated", "--data", swept.root)
    assert forgot.exit_code == 0 and "forgotten: 4 runs;" in forgot.stdout
    assert "outdated" not in sweep(swept, results).stdout
    sources.digest.cache_clear()


def test_a_changed_evaluator_is_said_and_measured_again(swept, results, monkeypatch) -> None:
    assert do("evaluate", results / "small", "--evaluation", PGD, "--here", "--data", swept.root).exit_code == 0
    file = swept.root / "more.yaml"
    file.write_text(SMALL.replace("[accuracy]", f"[accuracy, {PGD}]").replace("name: small", "name: more"))
    original = sources._digest_of
    monkeypatch.setattr(
        sources, "_digest_of", lambda name: "other" if name == "kdtune.evaluation.pgd" else original(name)
    )
    sources.digest.cache_clear()
    said = sweep(swept, results, name="more.yaml")
    assert "outdated     pgd measured 10 runs by other code" in said.stdout
    forgot = do("forget", results / "more", "--outdated", "--data", swept.root)
    assert forgot.exit_code == 0 and "forgotten: results of 10 runs;" in forgot.stdout
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: pytest.fail("trained"))
    assert "outdated" not in sweep(swept, results, name="more.yaml").stdout
    sources.digest.cache_clear()


def test_what_was_measured_late_by_other_code_is_said_too(swept, results, monkeypatch) -> None:
    """By the sweep's own command, whose file does not know the evaluator; and the forgotten one is asked for again."""
    words = ["evaluate", results / "small", "--evaluation", PGD, "--here", "--data", swept.root]
    assert do(*words).exit_code == 0
    original = sources._digest_of
    monkeypatch.setattr(
        sources, "_digest_of", lambda name: "other" if name == "kdtune.evaluation.pgd" else original(name)
    )
    sources.digest.cache_clear()
    assert "outdated     pgd measured 10 runs by other code" in sweep(swept, results).stdout
    forgot = do("forget", results / "small", "--outdated", "--data", swept.root)
    assert forgot.exit_code == 0 and "forgotten: results of 10 runs;" in forgot.stdout
    (again,) = [line for line in forgot.stdout.splitlines() if line.startswith("and what was measured late: kdtune ")]
    assert do(*shlex.split(again)[6:], "--here", "--data", swept.root).exit_code == 0
    assert "outdated" not in sweep(swept, results).stdout
    assert set(read(results / "small")["robust/pgd2"].notna()) == {True}
    sources.digest.cache_clear()


def test_students_of_a_teacher_that_is_another_network_by_now_are_counted(swept, results) -> None:
    """Row A1: trained again elsewhere, its bytes may differ."""
    store = Store(results)
    student = list(swept.plan.runs)[-1]
    teacher = stored.provenance(store, student)["teacher"]["id"]
    other = next(id for id in swept.plan.runs[student].waits_for if id != teacher)
    origin, history = stored.provenance(store, teacher), stored.history(store, teacher)
    weights = stored.weights(store, other)
    (results / "runs" / "done" / teacher).unlink()
    again = store.attempt(teacher)
    again.write_description(swept.plan.runs[teacher].run.description)
    again.finish("done", weights, history, origin)
    said = sweep(swept, results)
    assert said.exit_code == 0
    assert "2 students learned from weights that their teacher or source has no longer" in said.stdout
    assert do("forget", results / "small", "--outdated", "--data", swept.root).exit_code == 0
    assert "outdated" not in sweep(swept, results).stdout


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_planted_pickles_and_tune_state_run_no_code(swept, results, tmp_path) -> None:
    """faults 14 and 32: Tune's files and others, wherever a command could look for them."""
    mark, id = tmp_path / "touched", next(iter(swept.plan.runs))
    attempt = results / "runs" / id / Store(results).done(id).attempt
    planted = ["tuner.pkl", "error.pkl", "params.pkl", "experiment_state-1.json", "searcher-state.pkl"]
    for folder in (results, results / "small", results / "small" / "paper", results / "runs" / id, attempt):
        for name in planted:
            (folder / name).write_bytes(pickle.dumps(Touch(mark)))
    done = sorted((attempt / "evaluations").glob("*.npz"))
    done[0].write_bytes(pickle.dumps(Touch(mark)))  # what NumPy would unpickle
    (results / "runs" / "done" / id).unlink()
    assert sweep(swept, results).exit_code == 0
    for words in (["status", results / "small"], ["table", results / "small"]):
        assert do(*words).exit_code == 0
    late = do("evaluate", results / "small", "--evaluation", PGD, "--here", "--data", swept.root)
    assert late.exit_code == 0, late.output
    read(results / "small")
    kdtune.load(id, str(results))
    assert not mark.exists()
    pickle.loads((results / "tuner.pkl").read_bytes())
    assert mark.exists(), "it is dangerous indeed"
