"""Kinds from a file of the user's own: found, part of ids, refused where they cannot be used."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import SMALL

import kdtune
from kdtune import extensions, kinds
from kdtune.__main__ import main
from kdtune.cli.options import Options
from kdtune.cli.sweep import again
from kdtune.evaluation.evaluator import Evaluator
from kdtune.extensions import PREFIX, ExtensionError
from kdtune.noise.input import InputKnob
from kdtune.planning.plan import Plan, build_plan
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError

KNOB = '''\
"""A knob of one's own."""

from typing import ClassVar

from torch import Tensor, nn

from kdtune.noise.input import InputKnob
from kdtune.randomness import Draw
from kdtune.settings import Pixels


class Brightness(InputKnob):
    """Every image brighter or darker by one number, N(0, sigma^2)."""

    strength: ClassVar[str] = "sigma"
    sigma: Pixels

    def __call__(self, images: Tensor, labels: Tensor, network: nn.Module, draw: Draw, teacher, space) -> Tensor:
        return images + self.sigma * draw.normal(images[:, :1, :1, :1])  # one number an image

    def measure(self, before: Tensor, after: Tensor) -> float:
        return float((after - before).mean(dim=(1, 2, 3)).std())
'''
EVALUATOR = """\
from typing import ClassVar

from kdtune.evaluation.evaluator import Evaluator, Measurement, predict
from kdtune.evaluation.metric import Metric


class Margin(Evaluator):
    version: ClassVar[int] = 1

    def metrics(self, dataset):
        return (Metric("logits/margin", unit="logits", better="higher", headline=True),)

    def measure(self, subject):
        top = predict(subject.network, subject.split.images).topk(2).values
        return Measurement({"logits/margin": float((top[:, 0] - top[:, 1]).mean())})
"""
MODEL = """\
from math import prod

from kdtune.models.layers import linear
from kdtune.models.model import Model


class Straight(Model):
    def build(self, shape, classes):
        from torch import nn
        from kdtune.models.networks.network import Network

        return Network(features=nn.Flatten(), classifier=nn.Linear(prod(shape), classes))

    def layers(self, shape, classes):
        yield linear(prod(shape), classes)
"""
# The student alone has the knob: its teachers are as in a sweep without it.
SWEEP = SMALL.replace("rate: [0.0, 0.2]", "sigma: [0.0, 0.1]").replace(", dropout: $rate", "").replace(
    "{teacher: {dropout: {rate: $rate}}}", "{input: {brightness: {sigma: $sigma}}}"
)  # fmt: skip


@pytest.fixture(autouse=True)
def none_left_in_use():
    yield
    extensions.use(())


@pytest.fixture
def own(tmp_path):
    def write(text: str = KNOB, name: str = "brightness.py") -> Path:
        path = tmp_path / "own" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def plan_with(text: str, file: Path, tmp_path: Path) -> Plan:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    extensions.use(extensions.read([file]))
    return build_plan(load_sweep(path), tmp_path)


def ids(plan: Plan, role: str = "student") -> list[str]:
    return [place.id for place in plan.places if place.role == role]


def do(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


# What is known when


def test_a_class_is_known_with_its_file_and_not_without(own, write_sweep, tmp_path) -> None:
    file, sweep = own(), write_sweep(SWEEP)
    extensions.use(extensions.read([file]))
    assert "brightness" in InputKnob.kinds() and len(load_sweep(sweep).points) == 2
    extensions.use(())
    assert "brightness" not in InputKnob.kinds()
    with pytest.raises(SweepFileError, match=r"unknown input knob 'brightness'.*--with FILE\.py"):
        load_sweep(sweep)
    extensions.use(extensions.read([file]))
    assert "brightness" in InputKnob.kinds(), "and again, though its module was imported already"


def test_a_changed_file_takes_the_place_of_what_it_was(own) -> None:
    extensions.use(extensions.read([own()]))
    first = InputKnob.kinds()["brightness"]
    extensions.use(extensions.read([own(KNOB.replace("images +", "images -"))]))
    assert InputKnob.kinds()["brightness"] is not first


def test_two_files_at_once_and_one_named_twice(own) -> None:
    extensions.use(extensions.read([own(), own(EVALUATOR, "margin.py"), own()]))
    assert "brightness" in InputKnob.kinds() and "margin" in Evaluator.kinds()
    assert len(extensions.in_use()) == 2


# Ids


def test_only_runs_that_use_it_have_its_code_in_their_ids(own, tmp_path) -> None:
    plan = plan_with(SWEEP, own(), tmp_path)
    (code,) = {
        run.run.description["extensions"][0] for run in plan.runs.values() if "extensions" in run.run.description
    }
    assert extensions.read([own()])[0].module == f"{PREFIX}{code}"
    using = {place.id for place in plan.places if "extensions" in place.run.description}
    assert using == {place.id for place in plan.places if place.parameters.get("sigma") == 0.1}
    without = SWEEP.replace("{input: {brightness: {sigma: $sigma}}}", "{input: {gaussian: {sigma: $sigma}}}")
    extensions.use(())
    (tmp_path / "without.yaml").write_text(without)
    other = build_plan(load_sweep(tmp_path / "without.yaml"), tmp_path)
    assert set(ids(plan, "teacher")) == set(ids(other, "teacher"))
    assert set(ids(plan)) - using <= set(ids(other)), "at sigma 0 it is the plain student"


def test_comments_and_docstrings_leave_ids_alone_and_code_does_not(own, tmp_path) -> None:
    before = ids(plan_with(SWEEP, own(), tmp_path))
    spoken = KNOB.replace("# one number an image", "# for each").replace('"""A knob of one\'s own."""', '"""Mine."""')
    assert spoken != KNOB
    assert ids(plan_with(SWEEP, own(spoken, "other_name.py"), tmp_path)) == before
    changed = ids(plan_with(SWEEP, own(KNOB.replace("images +", "images -")), tmp_path))
    assert [one == other for one, other in zip(before, changed, strict=True)] == [True, True, False, False]


def test_the_code_of_an_evaluator_is_part_of_its_hash_and_of_no_run(own, tmp_path) -> None:
    text = SMALL.replace("evaluation: [accuracy]", "evaluation: [accuracy, margin]")
    first = plan_with(text, own(EVALUATOR, "margin.py"), tmp_path)
    second = plan_with(text, own(EVALUATOR.replace(".mean()", ".median()"), "margin.py"), tmp_path)
    assert [*first.runs] == [*second.runs]
    assert first.evaluation[0].hash == second.evaluation[0].hash
    assert first.evaluation[1].hash != second.evaluation[1].hash


def test_a_class_that_is_in_no_file_is_refused(tmp_path) -> None:
    """Typed into a notebook: nobody could say what code a number came from."""
    module = type(sys)("typed_here")
    sys.modules["typed_here"] = module
    source = KNOB.replace("class Brightness", "class Typed")
    try:
        exec(compile(source, "<cell>", "exec", dont_inherit=True), module.__dict__)
        (tmp_path / "typed.yaml").write_text(SWEEP.replace("brightness", "typed"))
        with pytest.raises(ValueError, match=r"classes of module typed_here are in no file; .*--with FILE\.py"):
            build_plan(load_sweep(tmp_path / "typed.yaml"), tmp_path)
    finally:
        del sys.modules["typed_here"], InputKnob.registered["typed"]
        kinds.outside.discard("typed_here")


# Files that cannot be used


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import neighbour\n" + KNOB, "it imports neighbour, which lies beside it"),
        ("from neighbour import x\n" + KNOB, "it imports neighbour, which lies beside it"),
        ("from . import neighbour\n" + KNOB, "it imports ., which lies beside it"),
        ("from pack.part import x\n" + KNOB, "it imports pack, which lies beside it"),
        ("def late():\n    import neighbour\n" + KNOB, "it imports neighbour, which lies beside it"),
        ("x = 1\n", "it defines no knob, loss, model"),
        ("from kdtune.noise.input import Gaussian\n", "it defines no knob, loss, model"),
        ("x = 1\ny = unheard_of\n" + KNOB, "line 2: NameError: name 'unheard_of' is not defined"),
        ("raise SystemError('mine')\n", "line 1: SystemError: mine"),
        ("import not_installed_anywhere\n" + KNOB, "line 1: ModuleNotFoundError"),
        ("def broken(:\n", "line 1: invalid syntax"),
        ("x = 1\0\n", "null bytes"),
        (KNOB.replace(", teacher, space)", ", teacher)"), "Brightness.__call__ takes (images, labels, network, draw, "
         "teacher), and it is called with (images, labels, network, draw, teacher, space): write these"),
        (EVALUATOR.replace("measure(self, subject)", "measure(self)"), "Margin.measure takes (), and it is called"),
        (KNOB.replace("class Brightness", "class Gaussian"), "the key 'gaussian' is kdtune.noise.input.Gaussian's"),
        (EVALUATOR.replace("class Margin", "class PGD"), "the key 'pgd' is kdtune.evaluation.pgd.PGD's"),
        (KNOB.replace("def measure", "def measured"), "Brightness lacks measure"),
        (KNOB.replace('= "sigma"', '= "sigm"'), "`strength` names the field that says how much noise: sigma"),
        (EVALUATOR.replace("    version: ClassVar[int] = 1\n", ""), "no version: write version: ClassVar[int] = 1"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_by_name_and_changes_nothing(own, write_sweep, text, told) -> None:
    file = own(text, "mine.py")
    (file.parent / "neighbour.py").write_text("x = 1\n")
    (file.parent / "pack").mkdir()
    (file.parent / "pack" / "part.py").write_text("x = 1\n")
    with pytest.raises(ExtensionError) as failure:
        extensions.use(extensions.read([file]))
    assert told in str(failure.value) and str(file) in str(failure.value)
    assert not any(kind.__module__.startswith(PREFIX) for kind in InputKnob.kinds().values())
    assert Evaluator.kinds()["pgd"].__module__ == "kdtune.evaluation.pgd"
    status, _, stderr = do("plan", write_sweep(), "--with", file)
    assert status == 2 and told in stderr and "Traceback" not in stderr


def test_a_file_that_is_not_there_is_refused(write_sweep, tmp_path) -> None:
    status, _, stderr = do("plan", write_sweep(), "--with", tmp_path / "nowhere.py")
    assert status == 2 and "nowhere.py: No such file or directory" in stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MODEL.replace("class Straight", "class MLP"), "line 7: taken.py:MLP: the key 'mlp' is kdtune.models.small."),
        (EVALUATOR.replace("class Margin", "class PGD"), "line 7: taken.py:PGD: the key 'pgd' is kdtune.evaluation."),
    ],
)  # fmt: skip
def test_a_key_of_kdtunes_is_kdtunes_also_where_the_file_comes_first(own, write_sweep, text, told) -> None:
    """In a process of its own: here all of kdtune's kinds may be known before the file is."""
    words = ["plan", write_sweep(), "--with", own(text, "taken.py")]
    done = subprocess.run([sys.executable, "-m", "kdtune", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 2 and told in done.stderr


def test_of_two_files_with_one_key_both_are_named(own) -> None:
    files = [own(), own(KNOB.replace("images +", "images -"), "other.py")]
    told = "other.py:Brightness: the key 'brightness' is brightness.py:Brightness's"
    with pytest.raises(ExtensionError, match=re.escape(told)):
        extensions.use(extensions.read(files))


def test_what_lies_where_the_command_is_given_is_a_neighbour_too(own, tmp_path, monkeypatch) -> None:
    (tmp_path / "neighbour.py").write_text("x = 1\n")
    file = own("import neighbour\n" + KNOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as `python -m` has it
    with pytest.raises(ExtensionError, match="it imports neighbour, which lies beside it or where the command was"):
        extensions.read([file])


def test_kdtune_itself_is_no_neighbour(own) -> None:
    """A file in the root of its own checkout lies beside kdtune/."""
    file = own()
    (file.parent / "kdtune").mkdir()
    (file.parent / "kdtune" / "stray.py").write_text("")
    assert extensions.read([file])


# From the command line to the table


@pytest.fixture
def swept(own, write_sweep, tmp_path):
    """A sweep with a knob, a model and an evaluator of one's own, done."""
    text = SWEEP.replace("evaluation: [accuracy]", "evaluation: [accuracy, margin]").replace("seeds: 2", "seeds: 1")
    text = text.replace("student:\n  model: {mlp: {hidden: [8]}}", "student:\n  model: straight")
    files = [own(), own(EVALUATOR, "margin.py"), own(MODEL, "straight.py")]
    words = [word for file in files for word in ("--with", file)]
    common = ["--results", tmp_path / "results", "--data", tmp_path]
    assert do("sweep", write_sweep(text), *words, *common, "--here", "-q")[0] == 0
    return words, common, tmp_path / "results", tmp_path / "small.yaml"


def test_a_sweep_with_classes_of_ones_own(swept, monkeypatch) -> None:
    words, common, results, file = swept
    rows = list(csv.DictReader((results / "small" / "paper" / "results.csv").open()))
    students = [row for row in rows if row["role"] == "student"]
    assert {row["state"] for row in rows} == {"done"}
    assert all(row["logits/margin"] for row in rows)
    assert [row["noise.input.brightness.sigma"] for row in students] == ["", "0.1"]
    assert [len(json.loads(row["extensions"])) for row in students] == [1, 2], "the model; the model and the knob"

    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: pytest.fail("trained again"))
    status, stdout, _ = do("sweep", file, *words, *common, "--here")
    assert status == 0 and "logits/margin" in stdout
    status, _, stderr = do("sweep", file, *common, "--here")
    assert status == 2 and stderr.count("--with FILE.py") == 3, "all three are told, each at its place"

    for verb in (["status"], ["table"], ["best", "--by", "logits/margin"], ["report"]):
        status, stdout, stderr = do(verb[0], results / "small", *verb[1:])
        assert status == 0 and not stderr, (verb, stderr)


def test_the_code_is_kept_with_the_run(swept) -> None:
    results = swept[2]
    kept = {path.name: path.read_text() for path in results.glob("runs/*/*/extension-*.py")}
    assert sorted(kept.values()) == sorted([KNOB, MODEL])
    (run,) = (path for path in results.glob("runs/*/*/run.yaml") if "brightness" in path.read_text())
    assert {path.name for path in run.parent.glob("extension-*.py")} == kept.keys()


def test_a_network_of_ones_own_is_loaded_with_its_file(swept, own) -> None:
    files = [word for word in swept[0] if word != "--with"]
    name, results = "student sigma=0.1 seed=0", str(swept[2])
    network = kdtune.load(name, results, extensions=files)
    assert [*network.state_dict()] == ["classifier.weight", "classifier.bias"]
    with pytest.raises(LookupError, match="unknown model 'straight'"):
        kdtune.load(name, results)


def test_a_class_that_breaks_is_found_before_anything_begins(own, write_sweep, tmp_path) -> None:
    broken = own(KNOB.replace("return images +", "raise RuntimeError('mine')\n        return images +"))
    words = ["--with", broken, "--results", tmp_path / "results", "--data", tmp_path, "--here"]
    status, _, stderr = do("sweep", write_sweep(SWEEP), *words)
    assert status == 4 and "seed=0 and 1 more: brightness.py, line 19: RuntimeError: mine" in stderr


def test_the_command_that_goes_on_names_the_files(tmp_path) -> None:
    options = Options(tmp_path / "mine.yaml", extensions=("a file.py", "other.py"), here=True)
    assert again(options).endswith("mine.yaml --with 'a file.py' --with other.py --here")


def test_what_was_measured_by_an_evaluator_of_ones_own_is_not_lost_without_it(own, write_sweep, tmp_path) -> None:
    file, results = write_sweep(SMALL.replace("rate: [0.0, 0.2]", "rate: [0.2]")), tmp_path / "results"
    common = ["--results", results, "--data", tmp_path, "--here"]
    assert do("sweep", file, *common, "-q")[0] == 0
    late = ["evaluate", results / "small", "--evaluation", "margin", "--data", tmp_path, "--here"]
    status, _, stderr = do(*late)
    assert status == 2 and "unknown evaluator 'margin'" in stderr and "--with FILE.py" in stderr
    assert do(*late, "--with", own(EVALUATOR, "margin.py"))[0] == 0
    status, stdout, _ = do("sweep", file, *common)
    assert status == 0
    assert "not shown: '{\"margin\": {}}', measured late, which is no evaluator here" in stdout
    status, stdout, _ = do("sweep", file, *common, "--with", own(EVALUATOR, "margin.py"))
    assert status == 0 and "logits/margin" in stdout


def test_explain_and_schema_know_it(own) -> None:
    status, stdout, _ = do("explain", "student.noise.input.brightness", "--with", own())
    assert status == 0 and "Every image brighter or darker" in stdout and "sigma" in stdout
    assert do("explain", "student.noise.input.brightness")[0] == 2
    assert "brightness" in do("schema", "--with", own())[1]
    assert "brightness" not in do("schema")[1]


# From Python


def test_a_sweep_may_be_a_mapping(tmp_path, own) -> None:
    sweep = {
        "name": "mapped",
        "dataset": {"digits": {}, "train_size": 100},
        "seeds": range(1),
        "grid": {"sigma": (0.0, 0.1)},
        "recipe": {
            "optimizer": {"sgd": {"lr": 0.1}},
            "schedule": {"cosine": {}},
            "precision": "float32",
            "batch_size": 20,
            "epochs": 1,
        },
        "student": {"model": {"mlp": {"hidden": [4]}}, "noise": {"input": {"brightness": {"sigma": "$sigma"}}}},
        "evaluation": ["accuracy"],
    }
    plan = kdtune.plan(sweep, data=str(tmp_path), extensions=[own()])
    assert len(plan.runs) == 2
    where = {"results": str(tmp_path / "results"), "data": str(tmp_path), "verbosity": -1, "here": True}
    assert kdtune.run_sweep(sweep, extensions=(str(own()),), **where) == 0
    assert len(kdtune.table(tmp_path / "results" / "mapped")) == 2
    with pytest.raises(SweepFileError, match=r"the mapping given, as JSON:\d+: student\.noise\.input\.brightness"):
        kdtune.plan(sweep, data=str(tmp_path))


def test_a_bundle_holds_the_code_and_another_machine_trains_nothing(swept, tmp_path, monkeypatch) -> None:
    words, _, results, file = swept
    assert do("bundle", results / "small", tmp_path / "small.tar")[0] == 0
    elsewhere = tmp_path / "elsewhere"
    assert do("import", tmp_path / "small.tar", "--results", elsewhere)[0] == 0
    assert {path.read_text() for path in elsewhere.glob("runs/*/*/extension-*.py")} == {KNOB, MODEL}
    monkeypatch.setattr("kdtune.training.run.train", lambda *_, **__: pytest.fail("trained again"))
    assert do("sweep", file, *words, "--results", elsewhere, "--data", tmp_path, "--here")[0] == 0


def test_runs_are_stopped_and_forgotten_with_their_files(swept) -> None:
    words, common, results, file = swept
    for verb in ("stop", "forget"):
        for place in (results / "small", file):
            more = common if place == file else common[2:]
            status, _, stderr = do(verb, place, "--only", "sigma=0.1", *more)
            assert status == 2 and "--with FILE.py" in stderr, (verb, place)
            if verb == "stop":
                status, stdout, _ = do(verb, place, "--only", "sigma=0.1", *more, *words)
                assert status == 0 and "student sigma=0.1 seed=0" in stdout
    status, stdout, _ = do("forget", results / "small", "--only", "sigma=0.1", "--data", file.parent, *words)
    assert status == 0 and "forgotten: 1 run;" in stdout


def test_what_was_measured_late_by_other_code_gives_way(own, write_sweep, tmp_path) -> None:
    """One entry, two codes, one name for both numbers: the table shows those of the file that the command names."""
    file, results = write_sweep(SMALL.replace("rate: [0.0, 0.2]", "rate: [0.2]")), tmp_path / "results"
    common = ["--data", tmp_path, "--here"]
    assert do("sweep", file, *common, "--results", results, "-q")[0] == 0
    one, hundred = own(EVALUATOR, "one.py"), own(EVALUATOR.replace(".mean())", ".mean()) * 100"), "hundred.py")

    def measured(extension: Path) -> float:
        late = ["evaluate", results / "small", "--evaluation", "margin", *common, "--with", extension]
        status, stdout, _ = do(*late)
        assert status == 0 and "outdated" not in stdout and "not shown" not in stdout
        with (results / "small" / "paper" / "results.csv").open() as rows:
            return float(next(csv.DictReader(rows))["logits/margin"])

    first = measured(one)
    assert measured(hundred) == pytest.approx(100 * first)
    assert measured(one) == first, "also where it was measured before"
    other = own(EVALUATOR.replace("topk(2)", "topk(3)"), "third.py")
    status, stdout, _ = do("sweep", file, *common, "--results", results, "--with", other)
    assert status == 0 and stdout.count("not shown: margin, measured late by other code of it; kdtune evaluate") == 1
    status, stdout, _ = do("sweep", file, *common, "--results", results)
    assert status == 0 and stdout.count("not shown") == 1, "two records, one entry"
