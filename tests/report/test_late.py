"""The order of what was measured late."""

from __future__ import annotations

from kdtune.evaluation.evaluator import Evaluator
from kdtune.report.late import Late, together


def late(hash: str, label: str) -> Late:
    """Measured under this label; the hash may be another, as of a folder whose images were others by then."""
    return Late(hash, Evaluator.model_validate({"accuracy": {}, "label": label}), 1)


A, B, OTHER_A = late("aaaa", "a"), late("bbbb", "b"), late("cccc", "a")


def test_what_is_asked_for_again_keeps_its_place_so_that_the_table_is_the_same():
    assert together([A, B], [A]) == [A, B]
    assert together([A], [B]) == [A, B]


def test_of_two_of_one_name_the_one_that_was_asked_for_last_is_the_last():
    assert together([A, B], [OTHER_A]) == [A, B, OTHER_A]
    assert together([A, B, OTHER_A], [A]) == [B, OTHER_A, A]
    assert together([A, B, OTHER_A], [OTHER_A]) == [A, B, OTHER_A]
