"""A sweep file as its points: profiles, overrides, names, and all errors at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.source import read_source
from kdtune.sweepfile.tree import SweepFileError

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def problems(path: Path, *arguments, **keywords) -> list[str]:
    with pytest.raises(SweepFileError) as caught:
        load_sweep(path, *arguments, **keywords)
    return [str(problem).removeprefix(f"{path}") for problem in caught.value.problems]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_reads_in_every_profile(path):
    offered = read_source(path).profiles
    assert {"paper", "quick", "laptop"} <= set(offered)
    for profile in offered:
        file = load_sweep(path, profile)
        assert file.name == path.stem
        assert file.points


def test_a_recipe_of_ones_own_is_laid_over_the_sweeps(write_sweep, small_sweep):
    path = write_sweep(
        small_sweep.replace("  model: {mlp: {hidden: [8]}}\n", "  model: {mlp: {hidden: [8]}}\n  recipe: {epochs: 5}\n")
    )
    sweep = load_sweep(path).points[0].sweep
    assert (sweep.teacher.recipe.epochs, sweep.student.recipe.epochs) == (3, 5)
    assert sweep.student.recipe.batch_size == 20


def test_each_part_knows_the_axes_that_decide_it(write_sweep, small_sweep):
    text = small_sweep.replace("{rate: [0.0, 0.2]}", "{rate: [0.0, 0.2], epochs: [3, 4], size: [50, 100]}")
    text = text.replace(
        "  model: {mlp: {hidden: [8]}}\n", "  model: {mlp: {hidden: [8]}}\n  recipe: {epochs: $epochs}\n"
    )
    points = load_sweep(write_sweep(text.replace("train_size: 100", "train_size: $size"))).points
    assert len(points) == 8
    assert set(points[0].teacher_parameters) == {"rate", "size"}
    assert set(points[0].student_parameters) == {"rate", "epochs", "size"}


def test_a_file_as_it_stands_changes_nothing(write_sweep):
    assert load_sweep(write_sweep()).changes == ()


def test_three_mistakes_are_three_errors_with_lines_and_suggestions(write_sweep, small_sweep):
    text = (
        small_sweep.replace("momentum", "momentun")
        .replace("alpha: 0.9", "alpha: high")
        .replace("rate: [0.0, 0.2]", "rate: 0.1, sigma: 0.3")
    )
    assert problems(write_sweep(text)) == [
        ":4: grid.sigma: nothing uses the axis sigma; write $sigma where its value belongs, or remove it",
        ":6: recipe.optimizer.sgd.momentun: unknown key 'momentun'; did you mean momentum?",
        ":17: student.distillation.alpha: came 'high'; input should be a valid number",
    ]


def test_a_recipe_that_no_network_has_is_one_error_that_says_what_it_takes(write_sweep, small_sweep):
    text = re.sub(r"^recipe:\n(  .*\n)+", "", small_sweep, flags=re.M)
    assert problems(write_sweep(text)) == [
        ":1: recipe: is missing; a mapping with optimizer, schedule, precision, batch_size, epochs would do: "
        "kdtune explain recipe"
    ]
    assert problems(write_sweep(small_sweep.replace("lr: 0.1, ", ""))) == [
        ":6: recipe.optimizer.sgd.lr: is missing; number above 0 would do: kdtune explain recipe.optimizer.sgd"
    ]


def test_an_axis_that_nothing_uses_is_one_mistake_however_many_blocks_have_it(write_sweep, small_sweep):
    blocks = "grid: [&base {rate: 0.1, sigma: 0.3}, {<<: *base, rate: 0.2}, {<<: *base, rate: 0.3}]"
    (found,) = problems(write_sweep(small_sweep.replace("grid: {rate: [0.0, 0.2]}", blocks)))
    assert "grid.0.sigma: nothing uses the axis sigma" in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("$rate}}}", "$rat}}}"), "did you mean $rate?"),
        (("[accuracy]", "accuracy"), "evaluation: came 'accuracy'; a list is needed: [accuracy]"),
        (("grid: {rate: [0.0, 0.2]}", "grid: [{rate: 0.1}, {}]"), "block 2 of the grid has no rate"),
        (("grid: {rate: [0.0, 0.2]}", "grid: [{}, {rate: 0.1}, {}]"), "blocks 1, 3 of the grid have no rate"),
        (("grid: {rate: [0.0, 0.2]}", "grid: {rate: []}"), "came an empty list"),
        (("grid: {rate: [0.0, 0.2]}", "grid: {rate: {values: [0.1]}}"), "{grid_search: [0.1, 0.2]}"),
        (("grid: {rate: [0.0, 0.2]}", "grid: {rate: $other}"), "no axis of that name"),
        (("grid: {rate: [0.0, 0.2]}", "grid: 3"), "a grid is a mapping of axes"),
        ((", validation: 0.2", ""), "nothing is held out: set dataset.validation"),
        (("metric: val/accuracy", "metric: train/accuracy"), "val/accuracy or another val/* metric"),
        (("  seeds: 3\n", "  seeds: 0\n"), "a count of seeds is at least 1"),
        (("hidden: [8], dropout: $rate", "hidden: [8], dropout: 1.5"), "less than or equal to 1"),
        (("name: small", "name: ../small"), "name"),
        (("[accuracy]", "[accurcy]"), "accuracy"),
        (("dataset: {digits: {}, train_size", "dataset: {digitz: {}, train_size"), "digits"),
        (("distillation: {alpha: 0.9, temperature: 4}", "distillation: null"), "no teacher to be noisy"),
        (
            ("select: {rule: best, metric: val/accuracy}", "select: {rule: paired, metric: val/accuracy}"),
            "rule: paired and average have none",
        ),
        (("rate: [0.0, 0.2]", "rate: [0.0, 1.2]"), ":4: "),
    ],
)
def test_mistakes_are_named(write_sweep, small_sweep, change, expected):
    assert small_sweep.count(change[0]) == 1, "the test must change something"
    found = "\n".join(problems(write_sweep(small_sweep.replace(*change))))
    assert expected in found


@pytest.mark.parametrize(
    ("metric", "evaluation", "hint"),
    [
        ("val/acc", "[accuracy]", "no entry of evaluation measures it; did you mean val/accuracy?"),
        ("val/acuracy", "[accuracy]", "did you mean val/accuracy?"),
        ("val/", "[accuracy]", "did you mean val/accuracy?"),
        ("val/robust/pgd1", "[accuracy]", "known here: val/accuracy, val/nll, val/ece"),
        ("val/robust/pgd1", "[accuracy, {pgd: {steps: 10}, on: val}]", "did you mean val/robust/pgd10?"),
        ("val/robust/pgd10", "[accuracy, pgd]", "known here: val/accuracy"),
        ("val/accuracy", "[{pgd: {steps: 10}, on: val}]", "known here: val/robust/clean, val/robust/pgd10"),
        ("val/accuracy", "[pgd]", "accuracy, listed there, measures val/accuracy"),
        ("test/acc", "[accuracy]", "did you mean test/accuracy?"),
        ("val/corruption/saturate", "[accuracy, {corruptions: {}, on: val}]", "no entry of evaluation measures it"),
        ("val/corruption/families", "[accuracy, {corruptions: {}, on: val}]", "neither more nor less of it is better"),
        ("val/flags/collapsed", "[accuracy, {pgd: {}, on: val}]", "neither more nor less of it is better"),
        ("robust/pgd10", "[accuracy, pgd]", "a teacher is chosen by val/accuracy or another val/* metric"),
        ("shift/writers", "[accuracy, shift]", "a teacher is chosen by val/accuracy or another val/* metric"),
        ("VAL/accuracy", "[accuracy]", "a teacher is chosen by val/accuracy or another val/* metric"),
    ],
)
def test_a_teacher_is_chosen_by_what_the_sweep_measures(write_sweep, small_sweep, metric, evaluation, hint):
    """Row B1: said before any teacher trains, at the line of the metric."""
    text = small_sweep.replace("metric: val/accuracy", f"metric: {metric}").replace("[accuracy]", evaluation)
    (found,) = problems(write_sweep(text))
    assert found.startswith(f":14: teacher.select.metric: came '{metric}'; ") and hint in found


@pytest.mark.parametrize(
    ("metric", "evaluation"),
    [
        ("val/nll", "[accuracy]"),
        ("test/accuracy", "[accuracy]"),
        ("val/robust/pgd10", "[{pgd: {steps: 10}, on: val}]"),
        ("val/robust/pgd10@0.1/unconditional", "[{pgd: {steps: 10, eps: [0.05, 0.1]}, on: val}]"),
        ("val/corruption/mca", "[accuracy, {corruptions: {}, on: val}]"),
        ("val/robust/pgd5@few", "[{pgd: {steps: 5}, on: val}, {pgd: {steps: 5, images: 9}, on: val, label: few}]"),
    ],
)
def test_any_metric_that_ranks_may_choose(write_sweep, small_sweep, metric, evaluation):
    text = small_sweep.replace("metric: val/accuracy", f"metric: {metric}").replace("[accuracy]", evaluation)
    assert load_sweep(write_sweep(text)).points


def test_two_entries_that_write_one_metric_are_refused(write_sweep, small_sweep, tmp_path):
    """Shifted sets that a data set brings along have names too."""
    own = f"{{shift: {{folder: {{path: {tmp_path}, name: writers}}}}}}"
    (found,) = problems(write_sweep(small_sweep.replace("[accuracy]", f"[accuracy, shift, {own}]")))
    assert "evaluation: two entries write the metric shift/writers" in found and found.startswith(":19: ")


def test_the_best_epoch_is_chosen_by_what_is_held_out(write_sweep, small_sweep):
    text = small_sweep.replace(", validation: 0.2", "").replace("rule: best, metric: val/accuracy", "rule: paired")
    keeping = text.replace("epochs: 3", "epochs: 3\n  keep: {best: val/accuracy}")
    (found,) = problems(write_sweep(keeping))
    assert "recipe.keep.best is val/accuracy, but nothing is held out: set dataset.validation" in found
    (found,) = problems(write_sweep(keeping.replace("val/accuracy", "test/accuracy")))
    assert "recipe.keep.best: came 'test/accuracy'" in found


def test_an_axis_may_be_a_recipe_and_is_laid_over_the_sweeps_own(write_sweep, small_sweep):
    text = small_sweep.replace("{rate: [0.0, 0.2]}", "{rate: 0.1, recipe: [null, {epochs: 7}, {epochs: 0}]}")
    text = text.replace("  distillation:", "  recipe: $recipe\n  distillation:")
    (found,) = problems(write_sweep(text))
    assert ":4: " in found and "recipe.epochs: came 0" in found
    points = load_sweep(write_sweep(text.replace(", {epochs: 0}", ""))).points
    students = [point.sweep.student.recipe for point in points]
    assert [recipe.epochs for recipe in students] == [3, 7]
    assert {recipe.batch_size for recipe in students} == {20}
    assert {point.sweep.teacher.recipe.epochs for point in points} == {3}
    assert [list(point.teacher_parameters) for point in points] == [["rate"], ["rate"]]


STUDENT_NOISE = "  noise: {teacher: {dropout: {rate: $rate}}}"


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ("target: {variability: {rate: 1.5}}", ":18: student.noise.target.variability.rate: came 1.5"),
        ("target: {variability: {rate: .1, classes: all}}", "target.variability.classes: came 'all'; input should be"),
        (
            "target: {variabilty: {rate: .1}}",
            "student.noise.target.variabilty: unknown target knob 'variabilty'; did you mean",
        ),
        (
            "target: {smoothing: {rate: .1}, variability: {rate: .1}}",
            ":18: student.noise.target: variability stands after smoothing",
        ),
        ("teacher: {signal_noise: {sigma: -1}}", "student.noise.teacher.signal_noise.sigma: came -1"),
        ("teacher: {signal_noise: {sigma: .1, per: batch}}", "teacher.signal_noise.per: came 'batch'; input should be"),
        ("teacher: {swap: {rate: .1, pairs: all}}", "student.noise.teacher.swap.threshold: is missing"),
        ("teacher: {swap: {rate: .1, pairs: all, threshold: 2}}", "student.noise.teacher.swap: threshold is 2.0, but"),
        ("teacher: {dropout: {rate: .1, bn: on}}", "student.noise.teacher.dropout.bn: came 'on'; input should be"),
        ("teacher: {dropout: {rate: .1, passes: 0}}", "student.noise.teacher.dropout.passes: came 0"),
        ("input: {gaussian: {sigma: .1, clamp: 1}}", "student.noise.input.gaussian.clamp: came 1"),
    ],
)
def test_mistakes_in_knobs_are_named_by_path(write_sweep, small_sweep, noise, expected):
    assert STUDENT_NOISE in small_sweep
    text = small_sweep.replace(STUDENT_NOISE, f"  noise: {{{noise}}}")
    assert expected in "\n".join(problems(write_sweep(text)))


@pytest.mark.parametrize(
    ("written", "stated", "expected"),
    [
        (
            "[accuracy]",
            "[{pgd: {eps: [8], step: 0.01}}]",
            "evaluation.0.pgd.eps.0: came 8; pixels are in [0, 1]; 8/255 is 0.0314",
        ),
        (
            "[accuracy]",
            "[{pgd: {step: [2]}}]",
            "evaluation.0.pgd.step.0: came 2; pixels are in [0, 1]; 2/255 is 0.00784",
        ),
        (
            "[accuracy]",
            "[{masking: {eps: 16}}]",
            "evaluation.0.masking.eps: came 16; pixels are in [0, 1]; 16/255 is 0.0627",
        ),
        (
            "[accuracy]",
            "[{masking: {step: 1.5}}]",
            "evaluation.0.masking.step: came 1.5; pixels are in [0, 1]; 1.5/255 is 0.00588",
        ),
        (
            "[accuracy]",
            "[{autoattack: {eps: 8}}]",
            "evaluation.0.autoattack.eps.0: came 8; pixels are in [0, 1]; 8/255 is 0.0314",
        ),
        (
            STUDENT_NOISE,
            "  noise: {input: {gaussian: {sigma: 25}}}",
            "student.noise.input.gaussian.sigma: came 25; pixels are in [0, 1]; 25/255 is 0.098",
        ),
        (
            STUDENT_NOISE,
            "  normalization: {mean: [125.3], std: [63]}",
            "student.normalization.mean.0: came 125.3; pixels are in [0, 1]; 125.3/255 is 0.491",
        ),
        (
            "temperature: 4",
            "temperature: 1e6",
            "student.distillation.temperature: came 1000000.0; temperatures are in [0.1, 1000]; beyond, ",
        ),
    ],
)
def test_a_number_of_another_unit_is_told_in_this_one(write_sweep, small_sweep, written, stated, expected):
    """Row A13: eps 8 made 0 % of every network, without a word."""
    assert written in small_sweep
    assert expected in "\n".join(problems(write_sweep(small_sweep.replace(written, stated))))


def test_labels_of_a_dataset_are_a_point_of_knobs(write_sweep, small_sweep):
    def with_labels(labels: str) -> Path:
        return write_sweep(small_sweep.replace("validation: 0.2}", f"validation: 0.2, labels: {labels}}}"))

    (found, *_) = load_sweep(with_labels("{corruption: {rate: $rate}}")).points
    assert found.sweep.dataset.label_knobs == {} and found.student_parameters == {"rate": 0.0}
    assert problems(with_labels("{corruptoin: {rate: 0.1}}")) == [
        ":2: dataset.labels.corruptoin: unknown labels knob 'corruptoin'; did you mean corruption?"
        " (One of your own: --with FILE.py)"
    ]
    assert "dataset.labels.corruption.rate: came -1" in problems(with_labels("{corruption: {rate: -1}}"))[0]
    assert "is missing" in problems(with_labels("{corruption: {}}"))[0]


def test_an_error_in_a_grid_value_names_the_line_of_the_grid(write_sweep, small_sweep):
    (problem,) = problems(write_sweep(small_sweep.replace("[0.0, 0.2]", "[0.0, text]")))[:1]
    assert problem.startswith(":4: ")


def test_only_the_paper_profile_may_choose_by_test_data(write_sweep, small_sweep):
    text = small_sweep.replace("val/accuracy", "test/accuracy") + "profiles: {laptop: {seeds: 1}}\n"
    assert load_sweep(write_sweep(text), "paper").points
    assert "only the paper profile may choose by test data" in problems(write_sweep(text), "laptop")[0]


def test_a_profile_merges_key_by_key_and_replaces_kinds_whole(write_sweep, small_sweep):
    text = small_sweep + "profiles:\n  other: {dataset: {digits: {}, validation: 0.5}, recipe: {epochs: 1}}\n"
    file = load_sweep(write_sweep(text), "other")
    sweep = file.points[0].sweep
    assert sweep.dataset.train_size is None
    assert (sweep.student.recipe.epochs, sweep.student.recipe.batch_size) == (1, 20)
    assert file.changes == ("dataset.digits", "dataset.validation", "recipe.epochs")


def test_an_unknown_profile_names_the_known(write_sweep, small_sweep):
    assert "has paper" in problems(write_sweep(small_sweep), "huge")[0]


def test_overrides_come_after_the_profile_and_may_be_wrong_too(write_sweep):
    path = write_sweep()
    file = load_sweep(path, overrides=["recipe.epochs=7", "seeds=[4, 9]", "grid.rate=[0.5]"])
    sweep = file.points[0].sweep
    assert (sweep.student.recipe.epochs, sweep.seeds, len(file.points)) == (7, (4, 9), 1)
    (problem,) = problems(path, overrides=["recipe.epochz=7"])
    assert problem == "command line: recipe.epochz: unknown key 'epochz'; did you mean epochs?"


def test_values_given_for_a_whole_grid(write_sweep):
    path = write_sweep()
    (point,) = load_sweep(path, at={"rate": 0.3}).points
    assert point.student_parameters == {"rate": 0.3}
    assert "nothing uses the axis sigma" in problems(path, at={"rate": 0.3, "sigma": 1})[0]
    assert "no block of the grid has" in problems(path, at={})[0]


def test_paths_are_relative_to_the_file(write_sweep, small_sweep, tmp_path):
    text = small_sweep.replace(
        "{digits: {}, train_size: 100, validation: 0.2}", "{folder: {path: images, name: Mine}, validation: 0.2}"
    )
    assert load_sweep(write_sweep(text)).points[0].sweep.dataset.path == str(tmp_path / "images")


def test_reading_loads_neither_torch_nor_ray_nor_pandas():
    program = (
        "import sys; from pathlib import Path; from kdtune.sweepfile.load import load_sweep;"
        "from kdtune.planning.plan import build_plan;"
        "build_plan(load_sweep('sweeps/fickle.yaml', 'laptop'), Path('data'));"
        "print([name for name in ('torch', 'ray', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


ATTACK = "evaluation: [accuracy, {pgd: {eps: $e, step: 0.01, steps: [2], restarts: 1, images: 50}}]"


def test_an_axis_in_the_evaluation_is_refused_where_it_stands(write_sweep, small_sweep):
    """Row A4: only its first value was measured anywhere."""
    text = small_sweep.replace("evaluation: [accuracy]", ATTACK)
    (found,) = problems(write_sweep(text.replace("[0.0, 0.2]", "[0.0, 0.2], e: [0.01, 0.3]")))
    assert found.startswith(
        ":19: evaluation.1.pgd.eps: came $e, of 2 values, but all runs of a sweep have one evaluation"
    )
    assert "an evaluator that takes a list measures all of it (eps: [0.01, 0.3])" in found
    (found,) = problems(write_sweep(text.replace("{rate: [0.0, 0.2]}", "[{rate: 0.1, e: 0.01}, {rate: 0.2, e: 0.3}]")))
    assert found.startswith(":19: evaluation.1.pgd.eps: came $e")
    text = text.replace("eps: $e", "eps: [$e]").replace("[0.0, 0.2]", "[0.0, 0.2], e: 0.01")
    assert load_sweep(write_sweep(text)).points[1].sweep.evaluation[1].eps == (0.01,), "one value is one evaluation"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("name: small", "name: $rate"), ":1: name: came $rate, of 2 values, but all runs of a sweep have one name"),
        (("[0.0, 0.2]", "[0.1, 0.2, 1e-1]"), ":4: grid.rate: 0.1 is written twice; delete one of the two"),
        (("[0.0, 0.2]", "[1, 0.2, 1.0]"), ":4: grid.rate: 1 is written twice"),
        (("rate: [0.0, 0.2]", "rate: {grid_search: [0.1, 0.1]}"), ":4: grid.rate: 0.1 is written twice"),
        (("seeds: 2", "seeds: [0, 1, 0]"), ":3: seeds: 0 is written twice; it would still be one run"),
        (("{rate: [0.0, 0.2]}", "{rate: 0.1, metric: [1, 2]}"), "an axis is a column of the table: letters"),
        (("name: small", "name: Runs"), ":1: name: came 'Runs'; the name is taken"),
        (("name: small", "name: con.small"), ":1: name: came 'con.small'; the name is taken"),
        (("name: small", "name: small/er"), ":1: name: came 'small/er'; 'small/er' cannot name a folder"),
        (("[accuracy]", "[{shift: {folder: {path: x, name: a b}}}]"), "'a b' cannot name a folder"),
        (("epochs: 3", "epochs: 3000000"), "less than or equal to 1000000"),
        (("{teacher: {dropout: {rate: $rate}}}", "{labels: {corruption: {rate: 0.1}}}"),
         "student.noise.labels: labels are the data set's, wrong in the same way for all that learn from it: write"),
    ],
)  # fmt: skip
def test_more_mistakes_are_named(write_sweep, small_sweep, change, expected):
    assert small_sweep.count(change[0]) == 1, "the test must change something"
    assert expected in "\n".join(problems(write_sweep(small_sweep.replace(*change))))


def test_a_whole_recipe_may_be_an_axis_of_the_sweep(write_sweep, small_sweep):
    recipe = small_sweep[small_sweep.index("recipe:\n") : small_sweep.index("teacher:\n")]
    long = recipe.removeprefix("recipe:\n").replace("  ", "      ")
    grid = f"grid:\n  rate: 0.2\n  q:\n    - &long\n{long}    - {{<<: *long, epochs: 5}}"
    path = write_sweep(small_sweep.replace(recipe, "recipe: $q\n").replace("grid: {rate: [0.0, 0.2]}", grid))
    points = load_sweep(path).points
    assert [point.sweep.student.recipe.epochs for point in points] == [3, 5]
    assert [point.sweep.teacher.recipe.epochs for point in points] == [3, 5]
    assert set(points[0].teacher_parameters) == set(points[0].student_parameters) == {"rate", "q"}
    (found,) = problems(path, overrides=["grid.q=3"])
    assert found == "command line: recipe: a recipe is a mapping, such as {optimizer: ..., epochs: 200}"
    found = problems(path, overrides=["recipe=$other"])
    assert len(found) == 2 and "came $other, which no block of the grid has" in found[0]


def test_a_mapping_that_names_no_data_set_is_told_that_it_replaces_the_whole(write_sweep, small_sweep):
    path = write_sweep(
        small_sweep + "profiles:\n  less:\n    dataset: {train_size: 50, labels: {corruption: {rate: 0.1}}}\n"
    )
    (found,) = problems(path, "less")
    assert found.startswith(
        ":22: dataset: a mapping replaces the whole dataset; name it again: {digits: {}, train_size: 50,"
    )
    (found,) = problems(path, overrides=["dataset={train_size: 50}"])
    assert found.endswith("name it again: {digits: {}, train_size: 50}")


def test_paths_of_a_command_are_relative_to_where_it_is_given(write_sweep, small_sweep, tmp_path, monkeypatch):
    """Row D4. Those of the file stay relative to the file; what is kept of the sweep says where they lead."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = write_sweep(
        small_sweep.replace("[accuracy]", "[accuracy, {shift: {folder: {path: shifted, name: images}}}]")
    )
    given = ["dataset={folder: {path: images, name: images}, validation: 0.2}", "teacher.checkpoint=../own.pt",
             "teacher.seeds=null", "teacher.select=null"]  # fmt: skip
    file = load_sweep(path, overrides=given)
    sweep = file.points[0].sweep
    assert sweep.dataset.path == str(tmp_path / "here" / "images")
    assert sweep.teacher.checkpoint == str(tmp_path / "own.pt")
    assert sweep.evaluation[1].folder.path == str(tmp_path / "shifted")
    assert file.tree["dataset"]["folder"] == {"path": str(tmp_path / "here" / "images"), "name": "images"}
    assert file.tree["evaluation"][1]["shift"]["folder"]["path"] == "shifted"
    monkeypatch.chdir(tmp_path)
    assert load_sweep(path, overrides=given).asked != file.asked, "the same words, another sweep"


def test_paths_may_be_an_axis_of_a_command(write_sweep, small_sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["dataset={folder: {path: $p, name: x}, validation: 0.2}", "grid={rate: 0.1, p: [a, b]}"]
    file = load_sweep(write_sweep(small_sweep), overrides=given)
    assert [point.sweep.dataset.path for point in file.points] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [point.student_parameters["p"] for point in file.points] == ["a", "b"]
    assert type(file.points[0].student_parameters["p"]) is str
    assert file.tree["grid"]["p"] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_what_a_search_proposes_is_taken_as_it_is_meant(write_sweep, small_sweep):
    """Row D5: numpy's numbers are numbers, a list is one value, a mapping is laid over as a file's would be."""
    numpy = pytest.importorskip("numpy")
    text = small_sweep.replace("rate: [0.0, 0.2]", "rate: 0.2, sizes: 1, own: 1, nesterov: 1")
    text = text.replace(
        "student:\n  model: {mlp: {hidden: [8]}}", "student:\n  model: {mlp: {hidden: $sizes}}\n  recipe: $own"
    )
    path = write_sweep(text.replace("momentum: 0.9", "momentum: 0.9, nesterov: $nesterov"))
    own = {"epochs": numpy.int64(7), "schedule": {"step": {"milestones": (0.5, 0.75), "factor": numpy.float32(0.5)}}}
    values = {"rate": numpy.float64(0.25), "sizes": [numpy.int64(8), 4], "own": own, "nesterov": numpy.bool_(True)}
    (point,) = load_sweep(path, at=values).points
    student = point.sweep.student
    assert (student.noise.knobs("teacher")["dropout"].rate, student.model.hidden) == (0.25, (8, 4))
    assert (student.recipe.epochs, student.recipe.batch_size, student.recipe.optimizer.nesterov) == (7, 20, True)
    assert student.recipe.schedule.milestones == (0.5, 0.75)
    plain = {"rate": 0.25, "sizes": [8, 4], "own": {**own, "epochs": 7}, "nesterov": True}
    assert load_sweep(path, at=plain).points[0].sweep == point.sweep
    assert "nothing uses the axis other" in problems(path, at={**plain, "other": 1})[0]
    assert "came $nope" in problems(path, at={**plain, "rate": "$nope"})[0]


def test_what_is_wrong_with_a_grid_is_said_of_where_it_was_written(write_sweep, small_sweep):
    path = write_sweep(small_sweep)
    assert str(wrong_of(path, overrides=["grid=3"])[0]).startswith("command line: grid: came 3")
    (problem,) = wrong_of(path, overrides=["grid={rate: [0.1, 0.2], foo: [1]}"])
    assert str(problem).startswith("command line: grid.foo: nothing uses the axis foo")
    (line,) = problems(write_sweep(small_sweep.replace("grid: {rate: [0.0, 0.2]}", "grid: 3").replace("$rate", "0.1")))
    assert line.startswith(":4: grid: came 3")


def wrong_of(path: Path, **keywords) -> list:
    with pytest.raises(SweepFileError) as caught:
        load_sweep(path, **keywords)
    return caught.value.problems
