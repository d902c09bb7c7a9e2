"""A sweep file as its points: profiles, overrides, names, and all errors at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdtune.sweepfile.load import load_sweep, profiles_of
from kdtune.sweepfile.tree import SweepFileError

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def problems(path: Path, *arguments, **keywords) -> list[str]:
    with pytest.raises(SweepFileError) as caught:
        load_sweep(path, *arguments, **keywords)
    return [str(problem).removeprefix(f"{path}") for problem in caught.value.problems]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_reads_in_every_profile(path):
    offered = profiles_of(path)
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


def test_three_mistakes_are_three_errors_with_lines_and_suggestions(write_sweep, small_sweep):
    text = (
        small_sweep.replace("momentum", "momentun")
        .replace("alpha: 0.9", "alpha: high")
        .replace("rate: [0.0, 0.2]", "rate: 0.1, sigma: 0.3")
    )
    assert problems(write_sweep(text)) == [
        ":4: grid.0.sigma: nothing uses the axis sigma; write $sigma where its value belongs, or remove it",
        ":6: recipe.optimizer.sgd.momentun: unknown key 'momentun'; did you mean momentum?",
        ":17: student.distillation.alpha: came 'high'; input should be a valid number",
    ]


def test_an_axis_that_nothing_uses_is_one_mistake_however_many_blocks_have_it(write_sweep, small_sweep):
    blocks = "grid: [&base {rate: 0.1, sigma: 0.3}, {<<: *base, rate: 0.2}, {<<: *base, rate: 0.3}]"
    (found,) = problems(write_sweep(small_sweep.replace("grid: {rate: [0.0, 0.2]}", blocks)))
    assert "grid.0.sigma: nothing uses the axis sigma" in found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("$rate}}}", "$rat}}}"), "did you mean $rate?"),
        (("grid: {rate: [0.0, 0.2]}", "grid: [{rate: 0.1}, {}]"), "block 2 of the grid has no rate"),
        (("grid: {rate: [0.0, 0.2]}", "grid: [{}, {rate: 0.1}, {}]"), "blocks 1, 3 of the grid have no rate"),
        (("grid: {rate: [0.0, 0.2]}", "grid: {rate: []}"), "came an empty list"),
        (("grid: {rate: [0.0, 0.2]}", "grid: {rate: {values: [0.1]}}"), "{grid_search: [0.1, 0.2]}"),
        (("grid: {rate: [0.0, 0.2]}", "grid: {rate: $other}"), "no axis of that name"),
        (("grid: {rate: [0.0, 0.2]}", "grid: 3"), "a grid is a mapping of axes"),
        ((", validation: 0.2", ""), "nothing is held out: set dataset.validation"),
        (("metric: val/accuracy", "metric: train/accuracy"), "val/accuracy or another val/* metric"),
        (("  seeds: 3\n", "  seeds: 0\n"), "at least 1 item"),
        (("hidden: [8], dropout: $rate", "hidden: [8], dropout: 1.5"), "less than or equal to 1"),
        (("name: small", "name: ../small"), "name"),
        (("[accuracy]", "[accurcy]"), "accuracy"),
        (("dataset: {digits: {}, train_size", "dataset: {digitz: {}, train_size"), "digits"),
        (("distillation: {alpha: 0.9, temperature: 4}", "distillation: null"), "no teacher to be noisy"),
        (
            ("select: {rule: best, metric: val/accuracy}", "select: {rule: paired, metric: val/accuracy}"),
            "rule: paired has none",
        ),
        (("rate: [0.0, 0.2]", "rate: [0.0, 1.2]"), ":4: "),
    ],
)
def test_mistakes_are_named(write_sweep, small_sweep, change, expected):
    assert small_sweep.count(change[0]) == 1, "the test must change something"
    found = "\n".join(problems(write_sweep(small_sweep.replace(*change))))
    assert expected in found


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


def test_labels_of_a_dataset_are_a_point_of_knobs(write_sweep, small_sweep):
    def with_labels(labels: str) -> Path:
        return write_sweep(small_sweep.replace("validation: 0.2}", f"validation: 0.2, labels: {labels}}}"))

    (found, *_) = load_sweep(with_labels("{corruption: {rate: $rate}}")).points
    assert found.sweep.dataset.label_knobs == {} and found.student_parameters == {"rate": 0.0}
    assert problems(with_labels("{corruptoin: {rate: 0.1}}")) == [
        ":2: dataset.labels.corruptoin: unknown labels knob 'corruptoin'; did you mean corruption?"
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
