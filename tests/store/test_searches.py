"""What a search has proposed: the first wins, in a folder and in a bucket; what is damaged makes room."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdtune.store.layout import proposal_key
from kdtune.store.objects import Objects
from kdtune.store.searches import Record, Searches

ID = "0123456789ab"
POINT = {"sigma": 0.0345, "width": 7, "kd": {"alpha": 0.9}, "rate": None}
MINE, THEIRS = Record(POINT, "ab" * 32, "optuna 5.0.0"), Record({"sigma": 0.2}, "", "optuna 5.0.1")


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects(tmp_path if request.param == "folder" else request.getfixturevalue("s3").bucket())


def test_it_is_read_as_it_was_kept(objects: Objects) -> None:
    searches = Searches(objects, ID)
    assert searches.known() == {}
    assert searches.keep(12, MINE) == MINE and searches.keep(3, THEIRS) == THEIRS
    assert Searches(objects, ID).known() == {3: THEIRS, 12: MINE}
    assert Searches(objects, "ba9876543210").known() == {}, "every search has its own"


def test_the_first_wins(objects: Objects) -> None:
    assert Searches(objects, ID).keep(0, MINE) == MINE
    assert Searches(objects, ID).keep(0, THEIRS) == MINE
    assert Searches(objects, ID).known() == {0: MINE}


def test_of_many_at_once_all_hear_of_one(objects: Objects) -> None:
    records = [Record({"sigma": float(number)}, "", "optuna") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(lambda record: Searches(objects, ID).keep(5, record), records))
    assert len({str(record) for record in heard}) == 1 and Searches(objects, ID).known() == {5: heard[0]}


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"point": {}, "sha256": "0"}'])
def test_a_damaged_one_is_set_aside_and_kept_anew(objects: Objects, damage: bytes, caplog) -> None:
    objects.put(proposal_key(ID, 0), damage)
    searches = Searches(objects, ID)
    assert searches.known() == {} and "is damaged" in caplog.text
    objects.put(proposal_key(ID, 1), damage)
    assert searches.keep(1, MINE) == MINE == Searches(objects, ID).known()[1]


def test_what_is_no_record_is_passed_over(objects: Objects) -> None:
    objects.put(f"searches/{ID}/notes.txt", b"mine")
    assert Searches(objects, ID).known() == {}
    with pytest.raises(ValueError, match="12 hex digits"):
        Searches(objects, "../x").keep(0, MINE)
