"""`search:` of a sweep file: what it takes, and all that is wrong with it at once, with lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdtune.search.space import Choice, LogUniform, QUniform, RandInt, Uniform
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.size import TooManyRuns
from kdtune.sweepfile.tree import SweepFileError


def problems(path: Path, *arguments, **keywords) -> list[str]:
    with pytest.raises(SweepFileError) as caught:
        load_sweep(path, *arguments, **keywords)
    return [str(problem).removeprefix(f"{path}") for problem in caught.value.problems]


@pytest.fixture
def load(write_sweep):
    return lambda text, **keywords: load_sweep(write_sweep(text), **keywords)


def test_a_space_by_tunes_names_and_the_grid_as_first_proposals(load, search_sweep):
    file = load(search_sweep)
    assert file.search.space == {
        "sigma": LogUniform(lower=0.01, upper=0.5),
        "alpha": Uniform(lower=0.0, upper=1.0),
        "temperature": QUniform(lower=1.0, upper=10.0, q=0.5),
        "width": RandInt(lower=4, upper=9),
        "rate": Choice(values=(0.0, 0.2)),
    }
    assert file.axes == ("sigma", "alpha", "temperature", "width", "rate")
    assert [point.at.values["sigma"] for point in file.points] == [0.0, 0.1]
    assert file.points[0].sweep.seeds == (0, 1) and "grid" in file.tree and "search" in file.tree


def test_without_a_grid_nothing_is_proposed_beforehand(load, search_sweep):
    assert load(search_sweep.replace(GRID, "")).points == ()


def test_the_ends_are_validated_like_points_of_a_grid(load, search_sweep, write_sweep):
    ends = [point.at.values for point in load(search_sweep).ends]
    assert {"sigma": 0.01, "alpha": 0.0, "temperature": 1.0, "width": 4, "rate": 0.0} in ends
    assert {"sigma": 0.5, "alpha": 1.0, "temperature": 10.0, "width": 8, "rate": 0.2} in ends
    assert len(ends) == 2 + 2 * 5 and all(set(end) == set(ends[0]) for end in ends)
    path = write_sweep(search_sweep.replace("uniform: [0.0, 1.0]", "uniform: [0.0, 1.5]"))
    (found,) = problems(path)
    assert found.startswith(":9: student.distillation.alpha: came 1.5")


def test_given_points_stand_for_what_is_proposed(load, search_sweep):
    point = {"sigma": 0.2, "alpha": 0.5, "temperature": 2.0, "width": 5, "rate": 0.2}
    file = load(search_sweep, at=[point, {**point, "rate": 0.0}])
    assert [each.at.values["rate"] for each in file.points] == [0.2, 0.0]
    assert file.points[0].sweep.seeds == (0, 1) and file.ends == ()
    assert load(search_sweep, at=point, overrides=["seeds=[7]"]).points[0].sweep.seeds == (7,)


GRID = "grid: {sigma: [0.0, 0.1], alpha: 0.9, temperature: 4, width: 8, rate: 0.0}\n"
SPACE = "sigma: {loguniform: [0.01, 0.5]}"


@pytest.mark.parametrize(
    ("change", "where", "told"),
    [
        ((SPACE, "sigma: {logunifrom: [0.01, 0.5]}"), ":8: search.space.sigma.logunifrom", "did you mean loguniform?"),
        ((SPACE, "sigma: {qloguniform: [0.01, 0.5, 0.01]}"), ":8: search.space.sigma.qloguniform", "did you mean"),
        (
            (SPACE, "sigma: {loguniform: [0.5, 0.01]}"),
            ":8: search.space.sigma.loguniform",
            "0.5 is not below upper 0.01",
        ),
        ((SPACE, "sigma: {loguniform: [0.0, 0.5]}"), ":8: search.space.sigma.loguniform.lower", "greater than 0"),
        ((SPACE, "sigma: {uniform: [0.1]}"), ":8: search.space.sigma.uniform", "uniform: [lower, upper] would do"),
        ((SPACE, "sigma: {uniform: [a, 1]}"), ":8: search.space.sigma.uniform.lower", "came 'a'"),
        ((SPACE, "sigma: [0.1, 0.2]"), ":8: search.space.sigma", "names no distribution"),
        (("[1, 10, 0.5]", "[1, 10, 0]"), ":10: search.space.temperature.quniform.q", "greater than 0"),
        (("[1, 10, 0.5]", "[1.2, 10, 0.5]"), ":10: search.space.temperature.quniform", "lower 1.2 is no multiple of q"),
        (("randint: [4, 9]", "randint: [4, 5]"), ":11: search.space.width.randint", "[4, 6] would have two values"),
        (("randint: [4, 9]", "randint: [4.5, 9]"), ":11: search.space.width.randint.lower", "came 4.5"),
        (("choice: [0.0, 0.2]", "choice: [0.0, 0]"), ":12: search.space.rate.choice", "written twice"),
        (("choice: [0.0, 0.2]", "choice: [0.2]"), ":12: search.space.rate.choice", "two alternatives or more"),
        (("lag: 2", "lag: 0"), ":6: search.lag", "came 0"),
        (("lag: 2", "lags: 2"), ":6: search.lags", "did you mean lag?"),
        (("  lag: 2\n", ""), ":3: search.lag", "is missing"),
        (("{tpe: {startup: 3}}", "{cmaes: {startup: 3}}"), ":5: search.sampler.cmaes", "unknown sampler 'cmaes'"),
        (("{tpe: {startup: 3}}", "{nsga2: {population: 1}}"), ":5: search.sampler.nsga2.population", "equal to 2"),
        (("lag: 2", "lag: 2\n  constraints: {accuracy: {max: 8.0}}"), ":7: search.constraints", "not of held-out"),
        (("lag: 2", "lag: 2\n  constraints: {val/acc: {max: 8.0}}"), ":7: search.constraints.val/acc", "did you mean"),
        (("lag: 2", "lag: 2\n  constraints: {val/nll: {}}"), ":7: search.constraints.val/nll", "bounds nothing"),
        (
            ("lag: 2", "lag: 2\n  constraints: {val/nll: {most: 1}}"),
            ":7: search.constraints.val/nll.most",
            "unknown key",
        ),
        (("lag: 2", "lag: 2\n  stop: {median: {by: val/accuracy}}"), ":7: search.stop", "unknown key"),
        (("val/accuracy: max}", "test/accuracy: max}"), ":14: search.objectives", "not of held-out images"),
        (("val/accuracy: max}", "val/accuracy: min}"), ":14: search.objectives.val/accuracy", "max would do"),
        (
            ("val/accuracy: max}", "val/acuracy: max}"),
            ":14: search.objectives.val/acuracy",
            "did you mean val/accuracy?",
        ),
        (("val/accuracy: max}", "val/accuracy: up}"), ":14: search.objectives.val/accuracy", "'max' or 'min'"),
        (("  objectives: {val/accuracy: max}\n", ""), ":3: search.objectives", "is missing"),
        (("metric: val/accuracy", "metric: test/accuracy"), ": teacher.select.metric", "must not see test images"),
        (("trials: 6", "trials: 1"), ":4: search.trials", "2 or more would do"),
        (("sigma: [0.0, 0.1], ", ""), ":16: grid", "lacks sigma"),
        (("grid: {", "grid: {depth: 3, "), ":16: grid.depth", "is no axis of search.space"),
        (("$width", "8"), ":11: search.space.width", "nothing uses the axis width"),
        (("$width", "$wdith"), ": student.model.cnn.width", "is no axis of search.space; did you mean $width?"),
        (("choice: [0.0, 0.2]", "uniform: [0.0, 0.2]"), ":12: search.space.rate", "search.teachers: many"),
        (("recipe:\n", "seeds: 3\nrecipe:\n"), ":17: seeds", "remove one of the two"),
        (("  space:\n", "  space: {}\n  other:\n"), ": search.space", "at least 1"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_what_would_do(write_sweep, search_sweep, change, where, told):
    assert change[0] in search_sweep
    found = problems(write_sweep(search_sweep.replace(*change)))
    assert any(where in each and told in each for each in found), found


def test_all_mistakes_at_once(write_sweep, search_sweep):
    text = search_sweep.replace("lag: 2", "lag: 0").replace("loguniform", "logunifrom").replace("$width", "$wdith")
    text = text.replace("momentum", "momentun")
    found = "\n".join(problems(write_sweep(text)))
    for part in ("search.lag", "logunifrom", "$wdith", "nothing uses the axis width", "momentun"):
        assert part in found


def test_paired_teachers_must_be_there_for_those_that_confirm(write_sweep, search_sweep):
    text = search_sweep.replace("{rule: best, metric: val/accuracy}", "{rule: paired}")
    (found,) = problems(write_sweep(text))
    assert "search.confirm.seeds" in found and "lacks [3, 4]" in found
    assert load_sweep(write_sweep(text.replace("seeds: 3\n", "seeds: 5\n"))).search.confirm.those((0, 1)) == (2, 3, 4)


def test_two_objectives_and_not_three(load, write_sweep, search_sweep):
    pgd = "{pgd: {eps: 0.1, step: 0.05, steps: 2, restarts: 1}, on: val}"
    text = search_sweep.replace("[accuracy]", f"[accuracy, {pgd}]")
    two = text.replace("{val/accuracy: max}", "{val/accuracy: max, val/robust/pgd2: max}")
    assert list(load(two).search.objectives) == ["val/accuracy", "val/robust/pgd2"]
    three = two.replace("pgd2: max}", "pgd2: max, val/nll: min}")
    assert any("at most 2 would do" in each for each in problems(write_sweep(three)))


def test_more_runs_than_are_allowed_are_refused_before_any(load, search_sweep):
    with pytest.raises(TooManyRuns, match="up to 18 students and 6 teachers"):
        load(search_sweep, max_runs=20)
    assert load(search_sweep, max_runs=24)


def test_nothing_held_out_is_nothing_to_go_by(write_sweep, search_sweep):
    text = search_sweep.replace(", validation: 0.2", "").replace(
        "{rule: best, metric: val/accuracy}", "{rule: average}"
    )
    (found,) = problems(write_sweep(text))
    assert found == ":14: search.objectives.val/accuracy: nothing is held out: set dataset.validation"


def test_no_sweep_can_take_the_folder_of_searches(write_sweep, search_sweep):
    (found,) = problems(write_sweep(search_sweep.replace("name: small", "name: searches")))
    assert "the name is taken" in found


def test_a_search_is_a_mapping(write_sweep, search_sweep):
    (found,) = problems(write_sweep("search: 3\n" + search_sweep.split("search:")[0] + "recipe: {}\nstudent: {}\n"))[:1]
    assert found.startswith(":1: search: came 3; a search is a mapping")


def test_a_profile_replaces_distributions_and_samplers_whole_and_keeps_the_rest(write_sweep, search_sweep):
    profile = "profiles: {laptop: {search: {space: {sigma: {uniform: [0.0, 0.3]}}, sampler: random}}}\n"
    found = load_sweep(write_sweep(search_sweep + profile), "laptop").search
    assert found.space["sigma"] == Uniform(lower=0.0, upper=0.3) and found.sampler.key == "random"
    assert list(found.space) == ["sigma", "alpha", "temperature", "width", "rate"] and found.lag == 2
    overridden = load_sweep(write_sweep(search_sweep), overrides=["search.space.sigma={uniform: [0.0, 0.3]}"]).search
    assert overridden.space["sigma"] == Uniform(lower=0.0, upper=0.3)


LABELS = "validation: 0.2, labels: {corruption: {rate: $wrong}}}"


@pytest.mark.parametrize(
    ("axis", "dataset"),
    [
        ("wrong: {uniform: [0.0, 0.5]}", LABELS),
        ("wrong: {choice: [0.1, 0.3]}", "validation: $wrong}"),
        ("wrong: {choice: [{corruption: {rate: 0.1}}, null]}", "validation: 0.2, labels: $wrong}"),
    ],
)
def test_proposals_are_judged_by_the_same_images_under_the_same_labels(write_sweep, search_sweep, axis, dataset):
    """Held out images are as wrongly labelled as the others: the least noise would look best, whatever was learned."""
    changed = search_sweep.replace("validation: 0.2}", dataset).replace("  space:\n", f"  space:\n    {axis}\n")
    changed = changed.replace("grid: {", "grid: {wrong: [WRONG], ").replace("WRONG", axis.split("[")[1].split(",")[0])
    found = problems(write_sweep(changed))
    assert any("search.space.wrong" in each and "judged by other images" in each for each in found), found
    assert not any("search.space.sigma" in each for each in found)


def test_what_only_training_images_see_may_be_proposed(load, search_sweep):
    assert load(
        search_sweep.replace("validation: 0.2}", "validation: 0.2, repeat: $times}")
        .replace("  space:\n", "  space:\n    times: {choice: [1, 2]}\n")
        .replace("grid: {", "grid: {times: 1, ")
    ).search


def test_labels_that_a_proposal_s_own_teacher_gives_compare_nothing(write_sweep, search_sweep):
    text = search_sweep.replace("student:\n", "student:\n  dataset: {labels: {teacher: {rate: 1.0}}}\n")
    found = problems(write_sweep(text))
    assert any("search.space.rate" in each and "labels.teacher asks the teacher" in each for each in found), found
    assert not any("search.space.sigma" in each for each in found)


def test_a_listed_proposal_is_judged_by_the_images_that_those_of_the_space_are(write_sweep, load, search_sweep):
    """Its values need not be any of the space's."""

    def listing(validation: float) -> str:
        data = "{digits: {}, train_size: 100, validation: %s}"
        space = f"    data: {{choice: [{data % 0.2}, {(data % 0.2)[:-1]}, repeat: 2}}]}}\n"
        text = search_sweep.replace("dataset: {digits: {}, train_size: 100, validation: 0.2}", "dataset: $data")
        return text.replace("  space:\n", f"  space:\n{space}").replace(
            "grid: {", f"grid: {{data: [{data % validation}], "
        )

    assert len(load(listing(0.2)).points) == 2
    (found,) = problems(write_sweep(listing(0.3)))
    assert "grid: a proposal listed here would be judged by other images" in found


def test_a_teacher_that_labels_test_points_alone_may_be_proposed(load, search_sweep):
    """Images held out have the labels of their own set."""
    text = search_sweep.replace(
        "{digits: {}, train_size: 100, validation: 0.2}",
        "{points: {count: 40, dimension: 2, classes: 2}, validation: 0.2, test: {gaussian: {dimension: 2, std: 1.0, "
        "classes: 2, count: 20}}}",
    )
    text = text.replace(
        "  seeds: 3\n  select: {rule: best, metric: val/accuracy}",
        "  untrained: true\n  seeds: 5\n  select: {rule: paired}",
    )
    text = text.replace("cnn: {width: $width}", "mlp: {hidden: [$width]}")
    assert load(text).search
