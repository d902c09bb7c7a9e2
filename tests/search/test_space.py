"""Distributions: their bounds are Tune's, their draws Optuna's, their values such as a person would type."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray import tune

from kdtune.search.space import Choice, Distribution, LogUniform, QUniform, RandInt, Uniform

EACH = [
    Uniform(lower=-1.0, upper=3.0),
    Uniform(lower=0.99, upper=1.0),
    LogUniform(lower=0.01, upper=0.5),
    QUniform(lower=0.1, upper=0.9, q=0.1),
    QUniform(lower=1.0, upper=10.0, q=0.5),
    RandInt(lower=4, upper=17),
    Choice(values=(None, 0.5, "a", {"alpha": 0.9})),
]


def test_every_distribution_is_here():
    assert {type(each) for each in EACH} == set(Distribution.kinds().values())
    assert list(Distribution.kinds()) == ["uniform", "loguniform", "quniform", "randint", "choice"]


@pytest.mark.parametrize("each", EACH, ids=lambda each: str(each.dumped()))
def test_what_optuna_draws_is_rounded_within_the_bounds_and_can_be_told_again(each):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    built = each.build()
    for _ in range(200):
        drawn = study.ask({"x": built}).params["x"]
        value = each.value(drawn)
        back = each.told(value)
        assert back is not None and built._contains(built.to_internal_repr(back))
        assert each.value(back) == value, "the value of a file is what it says"
        if isinstance(each, Uniform | LogUniform):
            assert each.lower <= value <= each.upper and abs(value - drawn) <= 1e-3 * (each.upper - each.lower)
            assert len(f"{value!r}".strip("-0.")) <= 6


@given(share=st.floats(0, 1, exclude_max=True), place=st.integers(0, len(EACH) - 1))
def test_shares_are_values_of_the_distribution(share, place):
    each = EACH[place]
    assert each.told(each.at(share)) is not None


@pytest.mark.parametrize("each", EACH, ids=lambda each: str(each.dumped()))
def test_both_ends_are_values(each):
    assert all(each.told(end) is not None for end in each.ends)
    assert each.at(0.0) == each.ends[0]


def test_bounds_are_tunes():
    """randint without its upper one, quniform with it; what Tune refuses of quniform is refused."""
    drawn = {tune.randint(4, 6).sample() for _ in range(100)}
    assert drawn == set(range(*RandInt(lower=4, upper=6).ends)) | {5}
    steps = {round(tune.quniform(1.0, 2.0, 0.5).sample(), 6) for _ in range(200)}
    of_ours = QUniform(lower=1.0, upper=2.0, q=0.5)
    assert steps == {1.0, 1.5, 2.0} == {of_ours.at(share) for share in (0.0, 0.5, 0.99)}
    for lower, upper, q in ((1.2, 2.0, 0.5), (1.0, 2.2, 0.5)):
        with pytest.raises(ValueError, match="divisible"):
            tune.quniform(lower, upper, q)
        with pytest.raises(ValueError, match="no multiple of q"):
            QUniform(lower=lower, upper=upper, q=q)


@pytest.mark.parametrize(
    ("each", "outside"),
    [
        (LogUniform(lower=0.01, upper=0.5), (0.0, 0.6, None, True, "0.1")),
        (QUniform(lower=1.0, upper=2.0, q=0.5), (1.3, 2.5)),
        (RandInt(lower=4, upper=6), (6, 4.5, 3)),
        (Choice(values=(0, 1)), (True, 2, None)),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_lies_outside_is_not_told(each, outside):
    assert [each.told(value) for value in outside] == [None] * len(outside)


def test_equal_numbers_are_one_alternative():
    assert Choice(values=(0.0, 1.0)).told(1) == 1 and RandInt(lower=4, upper=6).told(5.0) == 5
