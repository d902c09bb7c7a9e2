"""Where two features meet in the store, in late evaluations, tables and commands."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import stored
from click.testing import CliRunner
from conftest import ROOT, SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import kdtune
import kdtune.training.loop
import kdtune.training.run
from kdtune import sources
from kdtune.__main__ import main
from kdtune.evaluation.flags import flags_of
from kdtune.evaluation.pgd import PGD as Attack
from kdtune.report.mirror import mirror
from kdtune.store.encoding import seal, unseal
from kdtune.store.objects import Objects
from kdtune.store.store import Store

PGD = "{pgd: {eps: [0.1], step: 0.05, steps: [2], restarts: 1, images: 20}}"
ONE = SMALL.replace("[0.0, 0.2]", "[0.2]").replace("seeds: 3", "seeds: 1").replace("seeds: 2", "seeds: 1")

KEEP = SMALL.replace("epochs: 3", "epochs: 4\n  keep: {best: val/accuracy}")


def do(*words):
    done = CliRunner().invoke(main, [*map(str, words)], env={"RAY_ADDRESS": None})
    print(done.output)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def sweep(file, results, *words):
    return do("sweep", file, "--profile", "paper", "--results", results, "--here", *words)


def late(results, evaluation=PGD, name="small"):
    return do("evaluate", f"{results}/{name}", "--evaluation", evaluation, "--here")


def rows(results, name="small"):
    return list(csv.DictReader((Path(results) / name / "paper" / "results.csv").open()))


def figure(results, folder, script="generic"):
    words = [sys.executable, f"analysis/{script}.py", str(results), "--output", str(folder)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


TRAIN = kdtune.training.loop.train_epoch


def breaks_in(monkeypatch, broken):
    """Every run raises in that epoch, from 0. What was begun is told: the list of epochs."""
    begun = []

    def train_epoch(network, optimizer, split, recipe, lesson, seed, epoch, capture=None):
        if epoch == broken:
            raise RuntimeError("a cable was pulled")
        begun.append(epoch)
        return TRAIN(network, optimizer, split, recipe, lesson, seed, epoch)

    monkeypatch.setattr(kdtune.training.loop, "train_epoch", train_epoch)
    return begun


def inside(uri, key):
    base, query, options = uri.partition("?")
    return f"{base}/{key}{query}{options}"


@pytest.fixture
def results(write_sweep, tmp_path):
    assert sweep(write_sweep(), tmp_path / "results").exit_code == 0
    return tmp_path / "results"


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C once a run is over."""
    ended = kdtune.training.run.measured_late

    def measured_late(*words):
        os.kill(os.getpid(), 2)
        return ended(*words)

    monkeypatch.setattr("kdtune.training.run.measured_late", measured_late)


def test_no_run_is_half_of_other_code(write_sweep, tmp_path, monkeypatch):
    """Interrupted in its second epoch, gone on with after the code has changed: as if trained by the new code."""
    file, results, original = write_sweep(ONE), tmp_path / "results", sources._digest_of
    breaks_in(monkeypatch, 2)
    assert sweep(file, results, "--checkpoint-every", "0").exit_code == 3
    begun = breaks_in(monkeypatch, None)
    monkeypatch.setattr(sources, "_digest_of", lambda name: "new" if name == "kdtune.training.loop" else original(name))
    sources.digest.cache_clear()
    try:
        assert sweep(file, results).exit_code == 0
    finally:
        sources.digest.cache_clear()
    assert begun == [0, 1, 2, 0, 1, 2], "teacher and student, each by one code alone"


def test_no_late_number_stands_under_a_name_of_the_sweeps_own(write_sweep, tmp_path):
    results, own = tmp_path / "results", SMALL.replace("[accuracy]", f"[accuracy, {PGD}]")
    assert sweep(write_sweep(own), results).exit_code == 0
    assert late(results, PGD.replace("0.1", "0.02", 1).removesuffix("}") + ', label: "0.2"}').exit_code == 0
    assert sweep(write_sweep(own.replace("[0.1]", "[0.1, 0.2]")), results).exit_code == 0
    assert sweep(tmp_path / "small.yaml", tmp_path / "alone").exit_code == 0
    name = "robust/pgd2@0.2/unconditional"
    assert [row[name] for row in rows(results)] == [row[name] for row in rows(tmp_path / "alone")]


def test_a_label_says_in_what_an_entry_differs_after_an_edit_too(write_sweep, tmp_path):
    results, own = tmp_path / "results", SMALL.replace("[accuracy]", f"[accuracy, {PGD}]")
    assert sweep(write_sweep(own), results).exit_code == 0
    assert late(results, PGD.replace("images: 20", "images: 10")).exit_code == 0
    said = sweep(write_sweep(own.replace("[0.1]", "[0.25]")), results)
    assert not any("@images=10" in name for name in rows(results)[0]) and "not shown: pgd" in said.output


@pytest.mark.faults
def test_what_a_bucket_prints_works_and_loses_nothing(s3, write_sweep, tmp_path, monkeypatch):
    """X, then Y, then the command printed for X again; the figures command; outdated, with the endpoint."""
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path))
    uri, file = s3.bucket("res"), write_sweep(SMALL.replace("name: small", "name: fickle"), "fickle.yaml")
    said = sweep(file, uri).output
    (drawn,) = [line for line in said.splitlines() if line.startswith("figures ")]
    done = subprocess.run([sys.executable, *shlex.split(drawn)[2:]], cwd=ROOT, capture_output=True, text=True)
    assert "no results here" not in done.stderr
    x, y = (f"{{accuracy: {{}}, label: {label}}}" for label in "xy")
    said = do("evaluate", inside(uri, "fickle"), "--evaluation", x, "--here").output
    (again,) = [line.removeprefix("run again") for line in said.splitlines() if line.startswith("run again")]
    assert do("evaluate", inside(uri, "fickle"), "--evaluation", y, "--here").exit_code == 0
    before = Objects(uri).get("fickle/paper/results.csv")
    assert do(*shlex.split(again)[1:]).exit_code == 0
    assert Objects(uri).get("fickle/paper/results.csv") == before


def test_a_late_evaluation_of_an_incomplete_sweep_counts_what_was_planned(results, tmp_path):
    do("forget", results / "small", rows(results)[-1]["id"])
    assert late(results).exit_code == 0
    assert [row["state"] for row in rows(results)].count("done") == 9 and len(rows(results)) == 10
    assert figure(results / "small", tmp_path / "figures").returncode == 0
    assert "9 of 10 runs" in (tmp_path / "figures" / "generic.md").read_text()
    assert "students: 3 done, 1 new" in do("status", results / "small").output


def test_a_late_evaluation_of_nothing_leaves_the_table(results):
    before = (results / "small" / "paper" / "results.csv").read_bytes()
    (results / "runs").rename(results / "away")
    assert late(results).exit_code == 4
    assert (results / "small" / "paper" / "results.csv").read_bytes() == before


def test_what_was_measured_stays_where_a_late_evaluation_is_interrupted(results, interrupted):
    before = rows(results)
    assert late(results).exit_code == 130
    assert [{name: row[name] for name in before[0]} for row in rows(results)] == before


def test_or_fails_and_the_folder_is_as_it_was(results, monkeypatch):
    before = rows(results)
    monkeypatch.setattr(Attack, "measure", lambda *_: (_ for _ in ()).throw(MemoryError("none left")))
    said = late(results)
    assert said.exit_code == 3 and "MemoryError: none left" in said.output
    assert [{name: row[name] for name in before[0]} for row in rows(results)] == before
    assert "students: 4 done" in do("status", results / "small").output, "what measured nothing is not owed"
    monkeypatch.undo()
    assert late(results, "{accuracy: {}, label: again}").exit_code == 0, "nor asked for ever after"
    assert (
        do("sweep", results.parent / "small.yaml", "--results", results, "--profile", "paper", "--here").exit_code == 0
    )


LONELY = """\
name: small
dataset: {digits: {}, train_size: 100, validation: 0.2}
recipe:
  optimizer: {sgd: {lr: 1.0e+30}}
  schedule: {step: {milestones: [0.5], factor: 0.1}}
  precision: float32
  batch_size: 100
  epochs: 3
student: {model: {mlp: {hidden: [8]}}}
evaluation: [accuracy]
seeds: 1
"""


@pytest.mark.parametrize("validation", ["", ", validation: 0.2"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_whose_answers_are_no_numbers_has_diverged(write_sweep, tmp_path, validation, epochs):
    """With a hold-out or without, in its last epoch or before."""
    text = LONELY.replace(", validation: 0.2", validation).replace("epochs: 3", f"epochs: {epochs}")
    assert sweep(write_sweep(text), tmp_path / "results").exit_code == 3
    assert [row["state"] for row in rows(tmp_path / "results")] == ["diverged"]


def test_what_fails_elsewhere_is_told_with_its_cause(write_sweep, tmp_path, monkeypatch):
    """Another command's run, which this one waits for."""
    file, store = write_sweep(ONE), Store(tmp_path / "results")
    id = next(iter(kdtune.plan(file, "paper").runs))
    claim = store.claim(id)
    looked = []

    def sleep(seconds):
        if not looked:
            store.attempt(id, claim.attempt).write_failure(RuntimeError("a cable"))
            claim.release()
        looked.append(seconds)

    monkeypatch.setattr("kdtune.launch.here.time.sleep", sleep)
    monkeypatch.setattr("kdtune.planning.dispatch.POLL_S", 0.0)
    done = sweep(file, tmp_path / "results")
    assert done.exit_code == 3 and "RuntimeError: a cable" in done.output


def test_images_of_an_earlier_late_evaluation_need_not_be_there(tmp_path, write_sweep):
    import numpy
    from PIL import Image

    for split, count in (("set/train", 40), ("set/test", 20), ("odd", 6)):
        for number, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = numpy.random.default_rng(i).integers(0, 120, (8, 8, 3)) + numpy.array([100 * number, 0, 0])
                Image.fromarray(pixels.astype(numpy.uint8)).save(tmp_path / split / name / f"{i}.png")
    text = SMALL.replace("{digits: {}, train_size: 100,", "{folder: {path: set, name: mine},")
    assert sweep(write_sweep(text), tmp_path / "results").exit_code == 0
    assert late(tmp_path / "results", "{shift: {folder: {path: %s, name: odd}}}" % (tmp_path / "odd")).exit_code == 0
    (tmp_path / "odd").rename(tmp_path / "away")
    words = ["evaluate", str(tmp_path / "results" / "small"), "--evaluation", PGD, "--here"]
    done = subprocess.run([sys.executable, "-m", "kdtune", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "results")[0]["shift/odd"] and rows(tmp_path / "results")[0]["robust/pgd2/unconditional"]


def test_forgetting_runs_says_what_was_measured_late_of_them(results):
    assert late(results).exit_code == 0
    before = (results / "small" / "paper" / "results.csv").read_bytes()
    said = do("forget", results / "small", "--only", "rate=0.2", "--yes").output
    (again,) = [line for line in said.splitlines() if line.startswith("and what was measured late: kdtune ")]
    assert sweep(results.parent / "small.yaml", results).exit_code == 0
    assert do(*shlex.split(again)[6:], "--here").exit_code == 0
    assert (results / "small" / "paper" / "results.csv").read_bytes() == before


def test_a_bucket_keeps_no_curves_of_runs_that_left_the_plan(s3, write_sweep, tmp_path, monkeypatch):
    monkeypatch.setenv("KDTUNE_DATA", str(tmp_path))
    uri = s3.bucket("res")
    assert sweep(write_sweep(), uri).exit_code == 0
    assert sweep(write_sweep(SMALL.replace("[0.0, 0.2]", "[0.0]")), uri).exit_code == 0
    here = mirror(uri) / "small/paper/tensorboard"
    there = set(Objects(uri)._backend.names("small/paper/tensorboard"))
    local = {
        f"small/paper/tensorboard/{path.relative_to(here).as_posix()}" for path in here.rglob("*") if path.is_file()
    }
    assert there == {name for name in local if not name.endswith(".uploaded")}


def curves(results):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for folder in sorted(path for path in (results / "small/paper/tensorboard/runs").iterdir() if path.is_dir()):
        events = EventAccumulator(str(folder))
        events.Reload()
        found[folder.name] = {tag: [each.step for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found


def test_a_late_evaluation_draws_no_point_twice(results):
    assert late(results).exit_code == 0
    assert {tuple(run["test/accuracy"]) for run in curves(results).values()} == {(3,)}


def test_a_run_that_was_interrupted_or_failed_keeps_its_curves(write_sweep, tmp_path, monkeypatch):
    breaks_in(monkeypatch, 2)
    assert sweep(write_sweep(ONE), tmp_path / "results").exit_code == 3
    (run,) = curves(tmp_path / "results").values()
    assert run["train/loss"] == [1, 2]


def test_commands_that_are_printed_can_be_given(write_sweep, tmp_path, monkeypatch):
    """A folder with a space, a variant beside the file's own."""
    results = tmp_path / "a b"
    assert sweep(write_sweep(), results).exit_code == 0 and late(results).exit_code == 0
    said = sweep(write_sweep(SMALL.replace("[accuracy]", f"[accuracy, {PGD.replace('0.1', '0.2')}]")), results).output
    (hidden,) = [line.partition("; ")[2] for line in said.splitlines() if line.startswith("not shown")]
    assert do(*shlex.split(hidden)[1:], "--here").exit_code == 0
    odd = iter("abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setattr("kdtune.training.run.trained", lambda *_: (_ for _ in ()).throw(RuntimeError(next(odd))))
    said = sweep(tmp_path / "small.yaml", results, "recipe.epochs=2", "teacher.seeds=12").output
    (more,) = [line.partition(": ")[2] for line in said.splitlines() if line.startswith("and ")]
    assert do(*shlex.split(more)[1:]).exit_code == 0


@pytest.mark.parametrize("axis", ["chosen", "taught"])
def test_an_axis_has_no_name_of_a_column_that_figures_add(write_sweep, tmp_path, axis):
    file = write_sweep(SMALL.replace("grid: {rate:", f"grid: {{{axis}:").replace("$rate", f"${axis}"))
    assert sweep(file, tmp_path / "results").exit_code == 2


def test_a_single_run_that_was_interrupted_runs_no_longer(write_sweep, tmp_path, interrupted):
    words = ["--only", "rate=0.2,seed=0", "--profile", "paper", "--results", tmp_path / "results", "--json"]
    done = do("run", write_sweep(ONE), *words)
    assert done.exit_code == 130 and "running" not in done.output.replace("being run", "")


def weights(results):
    store = Store(str(results))
    return {id: store.done(id).files["model.safetensors"] for id in stored.finished(store)}


@pytest.mark.faults
def test_killed_in_a_bucket_and_gone_on_with_in_a_copy_of_it(s3, write_sweep, tmp_path):
    """keep: best, a student's third epoch, `aws s3 sync`."""
    uri, file, copy = s3.bucket("r"), write_sweep(KEEP), tmp_path / "copy"
    program = f"""if True:
        import os
        from kdtune.cli.sweep import run, Options
        from kdtune.report.progress import Progress as P
        def rows(self, id, rows):
            if self.plan.runs[id].role == "student" and rows and rows[-1]["epoch"] >= 3: os.kill(os.getpid(), 9)
        P.rows = rows
        from pathlib import Path
        run(Options(Path({str(file)!r}), profile="paper", results={uri!r}, here=True, checkpoint_every=0.0))"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == -9
    for key in Objects(uri)._backend.names(""):
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        (copy / key).write_bytes(Objects(uri)._backend.read(key))
    assert [sweep(file, place).exit_code for place in (copy, uri, tmp_path / "whole")] == [0, 0, 0]
    assert weights(copy) == weights(uri) == weights(tmp_path / "whole")
    table = "small/paper/results.csv"
    assert (copy / table).read_bytes() == Objects(uri).get(table) == (tmp_path / "whole" / table).read_bytes()


@pytest.mark.faults
def test_two_late_evaluations_at_once_measure_shared_teachers_once(write_sweep, tmp_path):
    results = tmp_path / "results"
    other = SMALL.replace("name: small", "name: other").replace("alpha: 0.9", "alpha: 0.5")
    assert sweep(write_sweep(), results).exit_code == sweep(write_sweep(other, "other.yaml"), results).exit_code == 0
    slow = PGD.replace("[2]", "[60]").replace("0.05", "0.01").replace("images: 20", "images: 200")
    words = [sys.executable, "-m", "kdtune", "evaluate"]
    both = [
        subprocess.Popen([*words, str(results / name), "--evaluation", slow, "--here"], stderr=subprocess.DEVNULL)
        for name in ("small", "other")
    ]
    assert [each.wait(120) for each in both] == [0, 0]
    column = "robust/pgd60/unconditional"
    small, more = ({row["id"]: row[column] for row in rows(results, name)} for name in ("small", "other"))
    assert all((small | more).values()) and len(small.keys() & more.keys()) == 6
    assert all(small[id] == more[id] for id in small.keys() & more.keys())
    records = list(results.glob("runs/*/*/evaluations/*.json"))
    assert len(records) == 2 * 14, "accuracy and the attack, once a run"


def test_what_the_files_own_folder_forgets_its_variant_does_again_too(write_sweep, tmp_path):
    """--seeds 3 shares nine of its runs; one of its students goes along, and both tables come back to the byte."""
    results, file = tmp_path / "results", write_sweep()
    assert sweep(file, results).exit_code == sweep(file, results, "--seeds", "3").exit_code == 0
    tables = {path: path.read_bytes() for path in results.glob("small/*/results.csv")}
    before, (variant,) = weights(results), [path.parent.name for path in tables if "+" in str(path)]
    said = do("forget", results / "small", "--profile", "paper", "--only", "rate=0.2", "--yes").output
    assert "forgotten: 6 runs (1 that learned from the others)" in said
    assert "students: 3 done, 3 new" in do("status", results / "small", "--profile", variant).output
    assert sweep(file, results).exit_code == sweep(file, results, "--seeds", "3").exit_code == 0
    assert {path: path.read_bytes() for path in tables} == tables and weights(results) == before


def test_what_one_sweep_forgets_no_table_and_no_page_of_another_counts(results, write_sweep):
    """A teacher that two sweeps share goes, named in the one, by its file: the other's table had it and its students
    still, and its page said of the same runs that no mean is over them."""
    other = write_sweep(SMALL.replace("name: small", "name: other").replace("alpha: 0.9", "alpha: 0.5"), "other.yaml")
    assert sweep(other, results).exit_code == 0
    teacher = next(row["id"] for row in rows(results) if row["role"] == "teacher")
    assert do("forget", results.parent / "small.yaml", "--results", results, teacher, "--yes").exit_code == 0
    for name in ("small", "other"):
        assert [row["state"] for row in rows(results, name)].count("new") == 3, "it and two students"
        table = do("table", results / name, "--rows", "rate", "--columns", "val/accuracy", "--format", "csv").output
        assert [line.split(",")[5] for line in table.splitlines()[1:]] == ["0", "2"], "n"
        assert (results / name / "paper" / "report.html").read_text().count("<td>0 of 2</td>") == 1


def test_a_page_counts_no_run_that_is_gone_since_its_table_was_written(results):
    (results / "runs" / "done" / rows(results)[-1]["id"]).unlink()
    assert do("report", results / "small").exit_code == 0
    page = (results / "small" / "paper" / "report.html").read_text()
    assert "<td>1 of 2</td>" in page and "not finished when this was written" in page


TWO = SMALL.replace("seeds: 3", "seeds: 1").replace("epochs: 3", "epochs: 2")


def test_a_calibration_that_was_measured_anew_tells_which_students_learned_by_another(write_sweep, tmp_path):
    calibrated = (
        TWO.replace("grid: {rate: [0.0, 0.2]}\n", "")
        .replace(", dropout: $rate", "")
        .replace("noise: {teacher: {dropout: {rate: $rate}}}", "noise: {input: {gaussian: {sigma: 0.2}}}")
        .replace("epochs: 2\n", "epochs: 2\n  keep: {best: val/accuracy}\n")
        .replace("alpha: 0.9, temperature: 4", "calibrated: calibration, teacher_sees: shown")
        .replace("[accuracy]", "[accuracy, {calibration: {eps: 0.1, step: 0.05, steps: 2, images: 20}}]")
    )
    results = tmp_path / "results"
    assert sweep(write_sweep(calibrated), results).exit_code == 0
    teacher = rows(results)[0]["id"]
    (place,) = (
        path for path in (results / "runs" / teacher).rglob("*.json") if b"calibration/weight" in path.read_bytes()
    )
    record = unseal(place.read_bytes())
    place.write_bytes(seal(record))
    assert "nothing to forget" in do("forget", results / "small", "--outdated", "--dry-run").output
    record["metrics"]["val/calibration/weight"] /= 2
    place.write_bytes(seal(record))
    said = do("forget", results / "small", "--outdated", "--dry-run").output
    assert [line.split()[0] for line in said.splitlines()] == ["student", "student", "would"]
    assert (
        "2 students learned by a calibration that their teacher has no longer"
        in sweep(tmp_path / "small.yaml", results).output
    )


def test_one_point_a_step_of_what_is_watched_where_another_epoch_is_kept(write_sweep, tmp_path):
    """The kept network's number was a second point at the last epoch, beside that epoch's own. It is the last one."""
    kept = TWO.replace("[0.0, 0.2]", "[0.2]").replace("epochs: 2\n", "epochs: 4\n  keep: {best: val/accuracy}\n")
    assert sweep(write_sweep(kept.replace("[accuracy]", "[accuracy, {shift: {}, every: 1}]")), tmp_path).exit_code == 0
    finals = {f"{row['role']} rate=0.2 seed={row['seed']}": float(row["shift/writers"]) for row in rows(tmp_path)}
    differ = 0
    for name, final in finals.items():
        loaded = EventAccumulator(str(tmp_path / "small" / "paper" / "tensorboard" / "runs" / name)).Reload()
        points = [(point.step, point.value) for point in loaded.Scalars("shift/writers")]
        differ += len(points) == 5
        assert [step for step, _ in points] == [1, 2, 3, 4, 5][: len(points)]
        assert points[-1][1] == pytest.approx(final)
    assert differ, "of some network another epoch is kept than the last"


@pytest.mark.parametrize("side", ["last/", "average/", "val/", "val/last/"])
def test_a_flag_of_other_weights_or_images_bears_on_their_numbers_alone(side):
    row = {"flags/collapsed": 0.0, f"{side}flags/collapsed": 1.0, "flags/zero_gradient": 1.0}
    assert "collapsed" in flags_of(row, f"{side}robust/pgd20")
    assert flags_of(row, "robust/pgd20") == ("zero_gradient",)
    assert ("zero_gradient" in flags_of(row, f"{side}robust/pgd20")) is (side == "val/"), "of the same network"


def test_the_command_that_measures_again_names_profile_and_code(write_sweep, tmp_path):
    file, results = write_sweep(TWO + "profiles:\n  quick: {seeds: 1}\n"), tmp_path / "results"
    for profile in ("paper", "quick"):
        assert do("sweep", file, "--profile", profile, "--results", results, "--here").exit_code == 0
    assert do("evaluate", results / "small", "--profile", "quick", "--evaluation", PGD, "--here").exit_code == 0
    said = do("forget", results / "small", "--profile", "quick", "--only", "rate=0.2", "--yes").output
    assert do("sweep", file, "--profile", "quick", "--results", results, "--here").exit_code == 0
    (again,) = (line.partition("kdtune ")[2] for line in said.splitlines() if "measured late" in line)
    assert do(*shlex.split(again), "--here").exit_code == 0
    assert all(row["robust/pgd2/unconditional"] for row in csv.DictReader((results / "small/quick/results.csv").open()))


def test_held_out_images_of_other_labels_are_not_compared_in_silence(write_sweep, tmp_path):
    text = (
        TWO.replace("rate: [0.0, 0.2]", "labels: [null, {corruption: {rate: 0.5}}]")
        .replace(", dropout: $rate", "")
        .replace("noise: {teacher: {dropout: {rate: $rate}}}", "dataset: {labels: $labels}")
    )
    assert sweep(write_sweep(text), tmp_path).exit_code == 0
    assert "are not to be compared" in do("best", tmp_path / "small", "--by", "val/accuracy").output
    one = do("best", tmp_path / "small", "--by", "val/accuracy", "--only", "labels=null").output
    assert "are not to be compared" not in one


def test_a_page_says_who_stopped_a_run(write_sweep, tmp_path):
    file = write_sweep(ONE)
    named = ("--profile", "paper", "--results", tmp_path, "--reason", "too <hot>")
    assert do("stop", file, "student rate=0.2 seed=0", *named).exit_code == 0
    assert sweep(file, tmp_path).exit_code == 3
    page = (tmp_path / "small" / "paper" / "report.html").read_text()
    assert "<td>stopped by " in page and "too &lt;hot&gt;" in page


def test_a_column_of_words_is_no_metric(results):
    for words in (("best", "--by", "state"), ("table", "--rows", "rate", "--columns", "recipe.precision")):
        said = do(words[0], results / "small", *words[1:])
        assert said.exit_code == 2 and "is no number of a run" in said.output
