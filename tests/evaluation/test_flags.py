"""What raises a flag, by bits made for it; and how flags are read off a row."""

from __future__ import annotations

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from kdtune.evaluation.flags import DEGENERATE, FLAGS, degenerate, flags_of, proven, raised, weaker


def some(count: int, of: int = 100) -> np.ndarray:
    """The first `count` of `of` images."""
    return np.arange(of) < count


def honest(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """A network that hides nothing: 50 of 100 images stand, the same ones after all good attacks."""
    bits = {"pgd10": some(53), "pgd20": some(50), "pgd50": some(50), "pgd100": some(50), "white_box": some(49)}
    bits |= {"margin20": some(51), "scaled20": some(55), "square": some(60), "transfer": some(80), "floor": some(1)}
    return bits | {"zero_gradient": some(1), "zero_gradient_margin": some(0)} | changes


def up(**changes: np.ndarray) -> set[str]:
    return {name for name, is_up in raised(honest(**changes)).items() if is_up}


def test_nothing_is_raised_where_nothing_is_hidden():
    assert up() == set()
    assert set(raised(honest())) <= set(FLAGS)


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("zero_gradient", {"zero_gradient": some(2)}),
        ("zero_gradient", {"zero_gradient_margin": some(2)}),
        ("steps_do_not_help", {"pgd100": some(60), "pgd10": some(50)}),
        ("steps_do_not_help", {"margin20": some(70)}),
        ("other_loss_wins", {"margin20": some(35)}),
        ("other_loss_wins", {"scaled20": some(35)}),
        ("floor_not_reached", {"floor": some(6)}),
        ("square_wins", {"square": some(47)}),
        ("transfer_wins", {"transfer": some(47)}),
    ],
)
def test_each_flag_has_its_reason(flag, changes):
    assert up(**changes) == {flag}


@pytest.mark.parametrize(
    "changes",
    [
        {"zero_gradient_margin": some(1)},  # one image is no proof
        {"square": some(48)},
        {"transfer": some(48)},
        {"pgd100": some(54)},  # 1 image more than after 10 steps: chance
        {"margin20": some(55)},  # 5 points weaker: losses differ
        {"margin20": some(46), "scaled20": some(46)},  # 4 points stronger
        {"floor": some(5)},
    ],
)
def test_what_chance_does_raises_nothing(changes):
    assert up(**changes) == set()


def test_without_a_teacher_transfer_is_not_judged():
    bits = honest()
    del bits["transfer"]
    assert "transfer_wins" not in raised(bits) and "square_wins" in raised(bits)


def test_proofs_are_two_images_and_more_than_their_share():
    assert not proven(some(1, 3)) and proven(some(2, 3))
    assert proven(some(3, 1000)) and not proven(some(2, 1000))  # 0.2 points are not more than 0.2 points
    assert not proven(some(0, 1))


def test_chance_alone_rarely_makes_an_attack_the_weaker_one():
    """Images that fall to either of two equal attacks by the toss of a coin: how often is one called weaker?"""
    draw = np.random.default_rng(0)
    for discordant in (4, 10, 40):
        called = 0
        for _ in range(2000):
            first = draw.random(discordant) < 0.5
            one, other = (np.concatenate([bits, np.ones(100 - discordant, bool)]) for bits in (first, ~first))
            called += weaker(one, other, 0.2)
        # nowhere more often than the binomial tail beyond two standard errors
        assert called / 2000 < binom.sf(discordant / 2 + 0.8 * discordant**0.5, discordant, 0.5) + 0.02 < 0.12


def test_five_images_all_on_one_side_are_more_than_chance():
    assert not weaker(some(54), some(50), 0.2)
    assert weaker(some(55), some(50), 0.2)
    assert not weaker(some(50), some(55), 0.2)  # it is the stronger one


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50), st.floats(0, 20))
def test_never_both_of_two_attacks_are_weaker(pairs, points):
    one, other = (np.array(bits) for bits in zip(*pairs, strict=True))
    assert not (weaker(one, other, points) and weaker(other, one, points))
    assert not weaker(one, one, points)


def test_flags_of_a_row():
    row = {f"flags/{name}": 0.0 for name in FLAGS} | {"flags/raised": 1.0, "id": "x", "robust/pgd20": 3.0}
    assert flags_of(row) == ()
    assert flags_of(row | {"flags/square_wins": 1.0, "flags/dynamic": 1}) == ("dynamic", "square_wins")
    assert flags_of({"flags/dynamic": 0.0, "flags/transfer_wins": float("nan")}) == ()  # nothing to compare with
    assert flags_of({"robust/pgd20": 3.0}) is None  # nobody looked
    assert flags_of({f"flags/{name}": None for name in FLAGS}) is None
    frame = pandas.DataFrame([row, {"id": "y"}, {"id": "z", "flags/softmax_output": 1.0}])
    assert [flags_of(one) for _, one in frame.iterrows()] == [(), None, ("softmax_output",)]


def test_flags_bear_on_what_they_are_about():
    row = {"flags/collapsed": 1.0, "flags/square_wins": 1.0, "flags/dynamic": 0.0}
    assert flags_of(row) == flags_of(row, "robust/pgd20") == ("collapsed", "square_wins")
    assert flags_of(row, "distance/median") == flags_of(row)
    assert flags_of(row, "val/robust/pgd20") == ("square_wins",) and flags_of(row, "last/robust/pgd20") is None
    theirs = row | {"last/flags/dynamic": 1.0, "val/flags/near_chance": 1.0, "val/average/flags/collapsed": 1.0}
    assert flags_of(theirs) == flags_of(theirs, "robust/pgd20") == flags_of(row)
    assert flags_of(theirs, "val/robust/pgd20") == ("near_chance", "square_wins")
    assert flags_of(theirs, "val/last/distance/median") == flags_of(theirs, "last/robust/pgd20") == ("dynamic",)
    assert flags_of(theirs, "val/average/corruption/mca") == ("collapsed",)
    assert flags_of(row, "corruption/mca") == ("collapsed",), "corruptions follow no gradient that could be hidden"
    assert flags_of(row, "test/accuracy") == ()
    assert flags_of({}, "robust/pgd20") is None


def test_a_flag_of_a_labelled_entry_counts():
    """A late `masking` with more queries has columns of its own; what it raises marks the same numbers."""
    assert flags_of({"flags/square_wins": 0.0, "flags/square_wins@queries=1000": 1.0}) == ("square_wins",)


# A network that answers as if it saw nothing


def degenerates(answers, labels) -> set[str]:
    found = degenerate(np.array(answers), np.array(labels))
    assert found.keys() == DEGENERATE.keys()
    return {name for name, up in found.items() if up}


TEN = np.arange(500) % 10


@pytest.mark.parametrize("classes", [1, 2])
def test_one_or_two_answers_of_ten_are_a_collapse(classes):
    """The network that looked robust: accuracy 10 or 20, robust/pgd5 100.0."""
    assert "collapsed" in degenerates(TEN % classes, TEN)
    assert degenerates(np.zeros(500, int), TEN) == {"collapsed", "near_chance"}


def test_answers_that_hardly_ever_come_do_not_hide_a_collapse():
    answers = np.zeros(500, int)
    answers[:36] = TEN[:36]  # 4 of each class, where 50 belong: accuracy 16.4, robust/pgd10 96.7
    assert "collapsed" in degenerates(answers, TEN)


def test_an_honest_network_of_little_training_has_not_collapsed():
    draw = np.random.default_rng(0)
    for accuracy in (0.2, 0.5, 0.9):
        answers = np.where(draw.random(500) < accuracy, TEN, draw.integers(0, 10, 500))
        assert degenerates(answers, TEN) == set()
    assert degenerates(np.minimum(TEN, 4), TEN) == set(), "half of the classes are never answered"


def test_guesses_over_all_classes_are_near_chance_alone():
    draw = np.random.default_rng(0)
    called = [degenerates(draw.integers(0, 10, 500), TEN) for _ in range(200)]
    assert sum(found == {"near_chance"} for found in called) > 190 and {"collapsed"} not in called


def test_chance_is_the_share_of_the_largest_class():
    labels = (np.arange(1000) >= 900).astype(int)  # 90 % are of one class
    assert degenerates(np.zeros(1000, int), labels) == {"collapsed", "near_chance"}
    half = labels * (np.arange(1000) < 950)
    assert degenerates(half, labels) == set(), "95 % right, and both classes are answered"


def test_two_classes_and_twenty_images():
    labels = np.arange(20) % 2
    assert degenerates(labels, labels) == set()
    assert degenerates(np.ones(20, int), labels) == {"collapsed", "near_chance"}
    assert degenerates(np.where(np.arange(20) < 4, 1 - labels, labels), labels) == set(), "16 of 20 right"
    assert degenerates(np.where(np.arange(20) < 8, 1 - labels, labels), labels) == {"near_chance"}, "12 may be luck"


def test_labels_of_one_class_cannot_tell():
    assert degenerates([3] * 20, [3] * 20) == {"near_chance"}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60), st.permutations(range(10)))
def test_names_of_classes_and_order_of_images_do_not_count(pairs, names):
    answers, labels = np.array(pairs).T
    other = np.array(names)
    assert degenerate(answers, labels) == degenerate(other[answers][::-1], other[labels][::-1])
