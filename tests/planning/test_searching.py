"""A search under way: the plan that grows, with a standing of the test's own in the place of results."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdtune.planning.dispatch import Dispatch
from kdtune.planning.plan import build_plan
from kdtune.planning.searching import Searching
from kdtune.planning.watching import CannotGrow
from kdtune.store.layout import proposal_key
from kdtune.store.objects import Objects
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import Problem, SweepFileError

NOWHERE = Path("nowhere")


class FakeStanding:
    """How runs stand, as a test says; what was measured of one follows from its id."""

    def __init__(self, root: Path) -> None:
        self.store = Store(Objects(root))
        self.now: dict[str, str] = {}
        self.weights: dict[str, str] = {}

    def states(self, ids) -> dict[str, State]:
        return {id: self.state(id) for id in ids}

    def state(self, id: str) -> State:
        return State(self.now.get(id, "new"))

    def refresh(self, *ids: str) -> None:
        """A test's word is always fresh."""

    def measured(self, id: str) -> dict[str, float | None]:
        return {"val/accuracy": int(id, 16) % 1000 / 10, "val/nll": int(id, 16) % 7 / 7}

    def look(self, id: str) -> SimpleNamespace:
        ended = State(self.now.get(id, "new")) in (State.DONE, State.DIVERGED)
        done = SimpleNamespace(outcome=self.now.get(id), files={"model.safetensors": self.weights.get(id, id)})
        return SimpleNamespace(untried=State.NEW, failure=None, stop=None, done=done if ended else None)


@pytest.fixture
def begin(write_sweep, search_sweep, tmp_path):
    """A command on the sweep: its search and its dispatch. `standing` is what earlier commands left."""

    def command(standing: FakeStanding | None = None, text: str = search_sweep) -> tuple[Searching, Dispatch]:
        file = load_sweep(write_sweep(text))
        standing = standing or FakeStanding(tmp_path / "results")
        searching = Searching(file, build_plan(file, NOWHERE), NOWHERE, standing)  # type: ignore[arg-type]
        return searching, Dispatch(searching.plan, standing, searching)  # type: ignore[arg-type]

    return command


def work(dispatch: Any, slots: int = 2, order: random.Random | None = None, at_most: int = 10**9, **ends: str) -> None:
    """So many runs at a time, which end in any order. `ends`: how runs of a role end, `done` else."""
    order = order or random.Random(0)
    out: list[str] = []
    while not dispatch.over and at_most:
        while len(out) < slots and (place := dispatch.next()) is not None:
            out.append(place.id)
        at_most -= 1
        id = out.pop(order.randrange(len(out)))
        dispatch.standing.now[id] = ends.get(id) or ends.get(dispatch.plan.runs[id].role, "done")
        dispatch.ended(id, "ValueError: no" if dispatch.standing.now[id] == "failed" else "")


def points(searching: Searching) -> list[dict[str, Any]]:
    return [dict(proposal.point) for proposal in searching.proposals]


def test_the_grid_comes_first_and_what_follows_waits_for_what_it_must_know(begin):
    searching, dispatch = begin()
    assert [point["sigma"] for point in points(searching)] == [0.0, 0.1]
    assert not dispatch.over
    assert len(searching.proposals) == 2, "lag 2: proposal 2 knows 0 and 1"
    pool = [place.id for place in dispatch.plan.places if place.role == "teacher"]
    assert len(pool) == 3, "one pool: both points have teachers without dropout"
    work(dispatch, at_most=3)
    assert len(searching.proposals) == 2
    work(dispatch)
    assert len(searching.proposals) == 6 and searching.complete and set(dispatch.counts) == {State.DONE}


def test_confirmed_are_the_best_with_seeds_that_chose_nothing(begin):
    searching, dispatch = begin()
    work(dispatch)
    best = sorted(range(6), key=lambda number: -searching.values[number][0])[:2]
    assert list(searching.confirming) == best
    for number, ids in searching.confirming.items():
        places = [place for place in dispatch.plan.places if place.id in ids]
        assert [place.run.seed for place in places] == [2, 3, 4] and all(place.confirms for place in places)
        own = [place for place in dispatch.plan.places if place.id in searching.proposals[number].runs]
        assert {place.waits_for for place in places} == {place.waits_for for place in own}, "the same teachers"
        assert {str(place.point) for place in places} == {str(place.point) for place in own}
        assert places[0].condition != own[0].condition and places[0].name.startswith("confirming student ")
    students = [place for place in dispatch.plan.places if place.role == "student"]
    assert len(students) == 6 * 2 + 2 * 3 and searching.to_come == 0


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_the_same_plan_on_any_number_of_slots_in_any_order_and_after_kills(begin, tmp_path, slots):
    _, alone = begin()
    work(alone, 1)
    order = random.Random(slots)
    standing = FakeStanding(tmp_path / "other")
    for _ in range(30):  # commands, each killed after some runs
        _, dispatch = begin(standing)
        work(dispatch, slots, order, at_most=order.randrange(1, 5))
        if dispatch.over:
            break
    assert dispatch.over and list(dispatch.plan.runs) == list(alone.plan.runs)


def test_without_its_memory_the_same_is_proposed_again(begin, tmp_path):
    searching, dispatch = begin()
    work(dispatch)
    for key in searching.standing.store.objects.list("searches"):
        searching.standing.store.objects.delete(key)
    again, dispatch = begin(searching.standing)
    assert dispatch.over and points(again) == points(searching)


def test_a_finished_search_asks_no_sampler(begin, monkeypatch):
    searching, dispatch = begin()
    work(dispatch)
    monkeypatch.setattr("kdtune.planning.searching.proposed", None)
    again, dispatch = begin(searching.standing)
    assert dispatch.over and dispatch.counts == {State.DONE: len(dispatch.plan.runs)}
    assert points(again) == points(searching) and again.confirming == searching.confirming


def test_more_trials_go_on_where_it_ended(begin, search_sweep):
    searching, dispatch = begin()
    work(dispatch)
    more, dispatch = begin(searching.standing, search_sweep.replace("trials: 6", "trials: 9"))
    assert more.id == searching.id and points(more) == points(searching) and not dispatch.over
    work(dispatch)
    assert points(more)[:6] == points(searching) and len(more.proposals) == 9 and more.complete


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (("trials: 6", "trials: 5"), True),
        (("points: 2", "points: 1"), True),
        (("name: small", "name: other"), True),
        (("lag: 2", "lag: 3"), False),
        (("lag: 2", "lag: 2\n  seed: 1"), False),
        (("lag: 2", "lag: 2\n  constraints: {val/nll: {max: 1.0}}"), False),
        (("startup: 3", "startup: 4"), False),
        (("[0.01, 0.5]", "[0.01, 0.4]"), False),
        (("seeds: 2\n", "seeds: 3\n"), False),
        (("sigma: [0.0, 0.1]", "sigma: [0.0, 0.2]"), False),
        (("lr: 0.1", "lr: 0.2"), False),
        (("train_size: 100", "train_size: 90"), False),
        (("hidden: [8]", "hidden: [9]"), False),
    ],
)
def test_what_is_another_search(begin, search_sweep, change, same):
    assert change[0] in search_sweep
    assert (begin(text=search_sweep.replace(*change))[0].id == begin()[0].id) is same


def test_what_diverged_is_known_and_never_best(begin):
    searching, dispatch = begin()
    dispatch.standing.now[searching.proposals[0].runs[1]] = "diverged"
    searching, dispatch = begin(searching.standing)
    work(dispatch)
    assert searching.values[0] is None and searching.complete and 0 not in searching.confirming


def test_what_breaks_a_constraint_is_known_and_never_confirmed(begin, search_sweep):
    plain, dispatch = begin()
    work(dispatch)
    free = [value[0] for value in plain.values]
    text = search_sweep.replace("lag: 2", "lag: 2\n  constraints: {val/nll: {max: 0.35}}")
    searching, dispatch = begin(text=text)
    work(dispatch)
    kept = [number for number, value in enumerate(searching.values) if value[1] <= 0.35]
    assert searching.complete and [searching.counted.index(each) for each in searching.counted if each] == kept
    assert 0 < len(kept) < 6 and set(searching.confirming) == set(
        sorted(kept, key=lambda n: -searching.values[n][0])[:2]
    )
    assert [value[0] for value in searching.values][:2] == free[:2], "what the grid lists"
    none, dispatch = begin(text=search_sweep.replace("lag: 2", "lag: 2\n  constraints: {val/nll: {max: -1.0}}"))
    work(dispatch)
    assert none.complete and not none.confirming and dispatch.over


def test_without_any_teacher_left_a_proposal_is_known_too(begin):
    searching, dispatch = begin()
    work(dispatch, teacher="diverged")
    assert searching.values == [None] * 6 and searching.complete and dispatch.over and not searching.confirming
    assert set(dispatch.counts) == {State.DIVERGED, State.SKIPPED}


def test_a_failed_run_leaves_its_proposal_open_and_the_next_command_goes_on(begin):
    searching, dispatch = begin()
    bad = searching.proposals[1].runs[0]
    work(dispatch, **{bad: "failed"})
    assert dispatch.over and len(searching.proposals) == 3, "lag 2: proposal 3 would have to know 1"
    assert [(proposal.number, id) for proposal, id in searching.open(dispatch.states)] == [(1, bad)]
    assert not searching.complete and not searching.confirming
    _, alone = begin(FakeStanding(searching.standing.store.objects.local / "alone"))
    work(alone)
    again, dispatch = begin(searching.standing)
    work(dispatch)
    assert again.complete and set(dispatch.plan.runs) == set(alone.plan.runs)


def test_a_stopped_command_proposes_nothing_more(begin):
    searching, dispatch = begin()
    work(dispatch, at_most=4)
    dispatch.stop()
    assert dispatch.over and dispatch.next() is None and len(searching.proposals) == 2


def test_what_was_drawn_from_other_weights_is_named_and_stays(begin):
    searching, dispatch = begin()
    work(dispatch)
    assert searching.drawn_from_others() == []
    changed = searching.proposals[2].runs[0]
    searching.standing.weights[changed] = "others"
    again, _ = begin(searching.standing)
    assert again.drawn_from_others() == [4, 5], "lag 2: 4 and 5 knew it, 3 did not"
    assert points(again) == points(searching)


def test_a_point_whose_values_do_not_go_together_ends_the_search_with_its_number(begin, monkeypatch):
    searching, dispatch = begin()
    file = searching._file

    def refused(points, *rest):
        if points[0]["sigma"] not in (0.0, 0.1):
            raise SweepFileError([Problem("small.yaml", None, ("student",), "both of these is too much")])
        return file(points, *rest)

    monkeypatch.setattr(searching, "_file", refused)
    work(dispatch)
    assert dispatch.over and len(searching.proposals) == 2 and not searching.memory.known()
    assert re.match(r"proposal 2 is no sweep.*sigma=.*both of these is too much", dispatch.stopped)


def test_what_is_foreseen_leaves_out_points_whose_values_do_not_go_together(begin, monkeypatch):
    searching, _ = begin()
    all_of_it, file = len(searching.foreseen().places), searching._file

    def refused(points, *rest):
        if any(point["sigma"] not in (0.0, 0.1) and point["rate"] for point in points):
            raise SweepFileError([Problem("small.yaml", None, ("student",), "both of these is too much")])
        return file(points, *rest)

    searching, _ = begin()
    monkeypatch.setattr(searching, "_file", refused)
    assert len(searching.plan.places) < len(searching.foreseen().places) < all_of_it


def rewrite(searching: Searching, number: int, **values: Any) -> str:
    """Another point in the place of one that is kept, or one that lacks an axis (None); where it lies."""
    record = searching.memory.known()[number]
    searching.memory.objects.delete(proposal_key(searching.id, number))
    point = {axis: value for axis, value in {**record.point, **values}.items() if value is not None}
    searching.memory.keep(number, replace(record, point=point))
    return searching.memory.path(number)


@pytest.mark.parametrize(
    ("value", "told"), [(0, r"width=0 rate=[^ ]*: student\.model\.cnn\.width: came 0"), (None, "it has no width")]
)
def test_a_kept_proposal_that_is_no_sweep_is_named_with_its_place(begin, value, told):
    searching, dispatch = begin()
    work(dispatch)
    path = rewrite(searching, 3, width=value)
    said = f"proposal 3 is kept in {path}, and is no sweep for this kdtune: .*sigma=[^ ]* .*{told}"
    with pytest.raises(CannotGrow, match=f"{said}.*move that file away, and 3 is drawn anew"):
        begin(searching.standing)
    Path(path).unlink()
    again, dispatch = begin(searching.standing)
    assert dispatch.over and points(again) == points(searching)


def test_so_it_is_where_another_command_has_kept_it_meanwhile(begin):
    searching, dispatch = begin()
    keep = searching.memory.keep

    def overtaken(number, record):
        return keep(number, replace(record, point={**record.point, "width": 0}))

    searching.memory.keep = overtaken
    work(dispatch)
    assert dispatch.over and re.match(r"proposal 2 is kept in .*width=0", dispatch.stopped)
    assert len(searching.proposals) == 2 and dispatch.counts[State.DONE] == 7


def test_a_point_that_comes_again_costs_nothing_and_the_search_goes_on(begin, search_sweep):
    """A space of two points: proposals are more than points."""
    kept = [
        line for line in search_sweep.splitlines() if not re.search("    (sigma|alpha|temperature|width):|^grid", line)
    ]
    text = "\n".join(kept).replace("$width", "8").replace("$alpha, temperature: $temperature", "0.9, temperature: 4")
    searching, dispatch = begin(text=text.replace("$sigma", "0.1"))
    work(dispatch)
    assert searching.complete and len(searching.proposals) == 6 and set(dispatch.counts) == {State.DONE}
    assert len({str(proposal.point) for proposal in searching.proposals}) == 2
    assert len([place for place in dispatch.plan.places if place.role == "student"]) == 2 * 2 + 2 * 3
    assert len(searching.values) == 6 and len(set(searching.values)) == 2


def test_who_is_told_of_growth_has_the_plan_by_then(begin):
    _, dispatch = begin()
    told: list[str] = []

    def grown(new) -> None:
        assert set(new) <= set(dispatch.plan.runs) and set(new) <= set(dispatch.states)
        told.extend(new)

    before = [*dispatch.plan.runs]
    dispatch.on_growth = grown
    work(dispatch)
    assert before + told == [*dispatch.plan.runs] and len(told) == len(set(told))


def test_the_foreseen_plan_has_as_many_runs_as_may_come(begin):
    searching, dispatch = begin()
    whole = searching.foreseen()
    students = [place for place in whole.places if place.role == "student"]
    assert len(students) == 6 * 2 + 2 * 3 == 4 + searching.to_come and whole.runs.keys() >= dispatch.plan.runs.keys()
    assert searching.foreseen() is whole and searching.plan is dispatch.plan, "nothing was proposed by that"
    work(dispatch)
    assert searching.foreseen() is searching.plan


def test_an_axis_that_changes_no_run_is_refused_at_its_line(begin, search_sweep):
    """Of a teacher that nobody asks."""
    kept = [line for line in search_sweep.splitlines() if not re.search("alpha|temperature|^grid|teacher: {drop", line)]
    text = "\n".join(kept).replace("hidden: [8]", "hidden: [$width]").replace("{width: $width}", "{width: 8}")
    with pytest.raises(SweepFileError, match=r":9: search\.space\.width: came 4 and 8, which make the same runs"):
        begin(text=text)
