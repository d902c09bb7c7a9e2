"""Proposals are a pure function: the same at any speed, on any number of slots; held against Optuna itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from math import log10
from statistics import fmean
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtune.planning.front import front, hypervolume, ranked
from kdtune.planning.search import SEED_BITS, known_to, proposed
from kdtune.randomness import stream_seed
from kdtune.search.samplers import TPE, Random, Sampler
from kdtune.search.search import Search

SPACE = {
    "sigma": {"loguniform": [0.01, 0.5]},
    "alpha": {"uniform": [0.0, 1.0]},
    "width": {"randint": [4, 17]},
    "rate": {"choice": [0.0, None, {"a": 1}]},
}
ONE, TWO = {"val/accuracy": "max"}, {"val/accuracy": "max", "val/nll": "min"}
LISTED = [{"sigma": 0.0, "alpha": 0.5, "width": 8, "rate": None}]  # outside of the space


def search(sampler: Any = "random", lag: int = 4, objectives: Mapping[str, str] = ONE, **more: Any) -> Search:
    written = {"trials": 20, "objectives": objectives, "sampler": sampler, "lag": lag, "space": SPACE}
    return Search.model_validate({**written, **more})


def fake(point: Mapping[str, Any], objectives: Mapping[str, str]) -> tuple[float, ...] | None:
    """What runs would come to, by the point alone; one that diverges has nothing."""
    if point["alpha"] > 0.95:
        return None
    near = -((point["alpha"] - 0.3) ** 2) - (log10(max(point["sigma"], 0.001)) + 1) ** 2
    return (near - (point["rate"] is None), point["width"] / 8 + point["alpha"])[: len(objectives)]


def simulated(asked: Search, trials: int, slots: int, order: random.Random, killed: float = 0.0) -> list[Any]:
    """The points of a search on so many slots, whose runs end in any order; at times all is forgotten but what is
    stored: points and values."""
    points: list[dict[str, Any]] = [dict(each) for each in LISTED]
    values: dict[int, Any] = {}
    under_way: set[int] = set()
    while len(values) < trials:
        while len(points) < trials and all(place in values for place in range(known_to(asked, len(points)))):
            points.append(proposed(asked, points, [values[place] for place in range(known_to(asked, len(points)))]))
        waiting = [place for place in range(len(points)) if place not in values and place not in under_way]
        under_way |= set(waiting[: slots - len(under_way)])
        if order.random() < killed:
            under_way.clear()
            continue
        ended = order.choice(sorted(under_way))
        under_way.remove(ended)
        values[ended] = fake(points[ended], asked.objectives)
    return points


GP, NSGA2 = {"gp": {"startup": 8}}, {"nsga2": {"population": 3}}
SAMPLERS = ["random", {"tpe": {"startup": 4}}, GP, NSGA2]
KEYS = ["random", "tpe", "gp", "nsga2"]


@pytest.mark.parametrize("objectives", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=KEYS)
def test_the_same_points_on_any_number_of_slots_in_any_order_of_ends_and_after_any_kill(sampler, objectives):
    trials, examples = (14, 8) if sampler != GP else (11, 2)  # a fit costs a tenth of a second
    asked = search(sampler, objectives=objectives)
    expected = simulated(asked, trials, 1, random.Random(0))

    @settings(max_examples=examples, deadline=None)
    @given(slots=st.sampled_from([1, 2, 8]), seed=st.integers(0, 2**32), killed=st.sampled_from([0.0, 0.3]))
    def same(slots: int, seed: int, killed: float) -> None:
        assert simulated(asked, trials, slots, random.Random(seed), killed) == expected

    same()
    again = 1 if sampler == NSGA2 else 0  # a child may be as its parent
    assert len({str(point) for point in expected}) >= trials - again


@pytest.mark.parametrize("sampler", SAMPLERS, ids=KEYS)
def test_ten_and_then_twenty_are_twenty(sampler):
    asked = search(sampler)
    trials = 20 if sampler != GP else 12
    points = simulated(asked, trials, 2, random.Random(1))
    assert simulated(asked, 10, 8, random.Random(2)) == points[:10]


def test_what_is_not_known_to_a_proposal_changes_nothing_in_it():
    asked = search({"tpe": {"startup": 2}}, lag=3)
    points = simulated(asked, 8, 1, random.Random(0))
    values = [fake(point, ONE) for point in points]
    assert proposed(asked, points[:7], values[:5]) == points[7] == proposed(asked, points[:7], values)
    best = max(range(1, 5), key=lambda place: values[place] or (-9.0,))
    changed = [*values[:best], (-9.0,), *values[best + 1 :]]
    assert proposed(asked, points[:7], [*values[:5], (3.0,)]) == points[7] != proposed(asked, points[:7], changed)
    with pytest.raises(ValueError, match="proposal 7 needs 5 values; came 4"):
        proposed(asked, points[:7], values[:4])


def optimized(
    asked: Search,
    value: Callable[[Mapping[str, Any]], float],
    trials: int,
    excess: Callable[[Mapping[str, Any]], float] | None = None,
) -> list[dict[str, Any]]:
    """The same search by `study.optimize`, whose sampler is seeded anew for every trial."""
    study = optuna.create_study(direction="maximize")
    points: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        drawn = {axis: trial._suggest(axis, asked.space[axis].build()) for axis in sorted(asked.space)}
        points.append({axis: asked.space[axis].value(drawn[axis]) for axis in asked.space})
        if excess is not None:
            trial.set_constraint("0", excess(points[-1]))
        return value(points[-1])

    for number in range(trials):
        study.sampler = asked.sampler.build(stream_seed(asked.seed, "search", number) & SEED_BITS)
        for kept in study._storage.get_study_system_attrs(study._study_id):  # parents, in another order than chosen
            study._storage.set_study_system_attr(study._study_id, kept, None)
        study.optimize(objective, n_trials=1)
    return points


def test_startup_points_are_those_of_study_optimize_with_these_seeds():
    asked = search({"tpe": {"startup": 10}}, lag=8)
    points: list[dict[str, Any]] = []
    for _ in range(10):
        points.append(proposed(asked, points, [fake(point, ONE) for point in points]))
    assert points == optimized(asked, lambda point: point["alpha"], 10)
    assert points != simulated(search({"tpe": {"startup": 10}}, seed=1), 10, 1, random.Random(0))


@pytest.mark.parametrize("bounds", [None, {"val/ece": {"max": 30.0}}], ids=["free", "constrained"])
@pytest.mark.parametrize(
    ("sampler", "trials"),
    [({"tpe": {"startup": 5}}, 30), ({"gp": {"startup": 5}}, 8), ({"nsga2": {"population": 4}}, 30)],
    ids=KEYS[1:],
)
def test_in_a_space_of_steps_all_points_are_those_of_study_optimize(sampler, trials, bounds):
    """Nothing is rounded there, so the study knows what was proposed; one at a time nothing is under way."""
    space = {"a": {"quniform": [0, 10, 0.5]}, "b": {"randint": [0, 50]}, "c": {"choice": ["x", "y", "z"]}}
    asked = search(sampler, lag=1, space=space, constraints=bounds)

    def value(point: Mapping[str, Any]) -> float:
        return -abs(point["a"] - 3) - abs(point["b"] - 20) / 10 - (point["c"] != "y")

    points: list[dict[str, Any]] = []
    for _ in range(trials):
        known = [(value(point), point["b"])[: len(asked.metrics)] for point in points]
        points.append(proposed(asked, points, known))
    assert points == optimized(asked, value, trials, (lambda point: point["b"] - 30.0) if bounds else None)


def test_a_constraint_changes_what_is_proposed_and_what_diverged_breaks_it():
    plain, asked = (
        search({"tpe": {"startup": 2}}, lag=1, constraints=each) for each in (None, {"val/ece": {"max": 5}})
    )
    points = simulated(search(), 9, 1, random.Random(0))[1:]
    values = [(float(place), place + 1.0) for place in range(len(points))]  # of five the bound is kept
    broken = [(value, ece + 5.0) for value, ece in values]
    assert proposed(asked, points, broken) != proposed(asked, points, values)
    assert proposed(plain, points, [each[:1] for each in values]) != proposed(asked, points, values)
    without, worst = ([*values[:4], each, *values[5:]] for each in (None, (0.0, float(len(points)))))
    assert proposed(asked, points, without) == proposed(asked, points, worst) != proposed(asked, points, values)


def test_what_breaks_a_constraint_is_never_best():
    asked = search(constraints={"val/ece": {"max": 5.0, "min": 1.0}, "val/accuracy": {"min": 50.0}})
    assert asked.metrics == ("val/accuracy", "val/ece")
    assert asked.excess((60.0, 4.0)) == [-3.0, -1.0, -10.0] and asked.counted((60.0, 4.0)) == (60.0,)
    assert [asked.counted(value) for value in ((60.0, 5.0), (60.0, 5.1), (60.0, 0.9), (49.0, 2.0), None)] == [
        (60.0,),
        None,
        None,
        None,
        None,
    ]
    for wrong, told in (({}, "bounds nothing"), ({"min": 2, "max": 2}, "min 2 is not below max 2")):
        with pytest.raises(ValueError, match=told):
            search(constraints={"val/ece": wrong})
    with pytest.raises(ValueError, match="ece is not of held-out images"):
        search(constraints={"ece": {"max": 1}})


def test_the_order_of_axes_in_the_file_changes_nothing():
    asked = search(space=dict(reversed(SPACE.items())))
    assert proposed(asked, [], []) == proposed(search(), [], [])


def test_what_diverged_counts_as_the_worst_that_is_known():
    asked = search({"tpe": {"startup": 2}}, lag=1)
    points = [point for point in simulated(search(), 9, 1, random.Random(0))[1:] if fake(point, ONE)]
    values = [fake(point, ONE) for point in points]
    worst = min(value[0] for value in values[1:])
    assert proposed(asked, points, [None, *values[1:]]) == proposed(asked, points, [(worst,), *values[1:]])
    assert proposed(asked, points[:1], [None]) == proposed(asked, points[:1], [(0.0,)])


def test_tpe_beats_random_on_a_known_function():
    """The best of 40 over 8 searches each: the mean regret of random is larger."""

    def best(sampler: Any, seed: int) -> float:
        asked = search(sampler, lag=4, seed=seed, trials=40)
        points: list[dict[str, Any]] = []
        for _ in range(40):
            points.append(proposed(asked, points, [fake(point, ONE) for point in points]))
        return max(value[0] for point in points if (value := fake(point, ONE)))

    tpe, blind = (fmean(best(each, seed) for seed in range(8)) for each in ({"tpe": {"startup": 10}}, "random"))
    assert blind < tpe < 0


numbers = st.integers(0, 6).map(float)
two_values = st.lists(st.one_of(st.none(), st.tuples(numbers, numbers)), min_size=1, max_size=12)


@settings(deadline=None)
@given(values=two_values)
def test_the_front_is_optunas(values):
    study = optuna.create_study(directions=["maximize", "minimize"])
    for each in values:
        stands = {"values": each} if each else {"state": optuna.trial.TrialState.FAIL}
        study.add_trial(optuna.trial.create_trial(**stands))
    assert front(values, ["max", "min"]) == sorted(trial.number for trial in study.best_trials)


@given(values=two_values)
def test_an_order_has_all_that_have_values_front_by_front(values):
    order = ranked(values, ["max", "min"])
    assert sorted(order) == [place for place, each in enumerate(values) if each is not None]
    best = front(values, ["max", "min"])
    assert sorted(order[: len(best)]) == best
    assert hypervolume(values, ["max", "min"]) == pytest.approx(hypervolume(values, ["max", "min"], best))


@given(values=two_values)
def test_the_hypervolume_is_optunas(values):
    import numpy as np
    from optuna._hypervolume import compute_hypervolume

    known = np.array([(-each[0], each[1]) for each in values if each is not None])
    if not len(known):
        assert hypervolume(values, ["max", "min"]) == 0
        return
    assert hypervolume(values, ["max", "min"]) == pytest.approx(compute_hypervolume(known, known.max(axis=0)))


def test_one_objective_is_an_order_by_it():
    values = [(3.0,), None, (5.0,), (3.0,), (1.0,)]
    assert front(values, ["max"]) == [2] and ranked(values, ["max"]) == [2, 0, 3, 4]
    assert ranked(values, ["min"]) == [4, 0, 3, 2] and hypervolume(values, ["max"]) == 4.0
    assert front([None], ["max"]) == ranked([None], ["max"]) == []


def test_of_a_front_first_come_those_that_dominate_most():
    values = [(0.0, 10.0), (9.0, 9.0), (10.0, 0.0), (9.5, 5.0)]
    assert ranked(values, ["max", "max"]) == [1, 3, 0, 2]


def test_samplers_are_settings():
    assert search({"tpe": {"startup": 3}}).sampler == TPE(startup=3) and search().sampler == Random()
    assert set(Sampler.kinds()) == {*KEYS}, "each of them stands in SAMPLERS"
