"""What a bucket adds: conditions that it decides itself, requests that are counted, a service that is away at times."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import stored
from s3 import S3

from kdtune.cli.options import Options
from kdtune.cli.sweep import run
from kdtune.store import backend, bucket
from kdtune.store.claims import Claim, Claims
from kdtune.store.objects import Objects, StorageError
from kdtune.store.store import Store

RUN = "0123456789ab"
PROVENANCE = {"commit": "abc", "seconds": 1.0}


def at_once(*tasks) -> list:
    """What each gives, begun one tenth of a second after the other."""
    answers: list = [None] * len(tasks)
    threads = []
    for number, task in enumerate(tasks):

        def run(number=number, task=task) -> None:
            answers[number] = task()

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    return answers


def claiming(uri: str, **options: Any) -> Callable[[], Claim | None]:
    """A writer whose connection is open, ready to claim the run."""
    claims = Claims(Objects(uri), **options)
    return lambda: claims.claim(RUN)


class OneIsLate:
    """A service in which of two writers one's request arrives long after the other's: the first one's, or the second
    one's. `seen` counts such writes as they are begun."""

    def __init__(self, late: int, folder: str = "") -> None:
        self.late, self.folder, self.seen = late, folder, 0

    def __call__(self, method: str, path: str) -> float:
        if method != "PUT" or self.folder not in path:
            return 0.0
        self.seen += 1
        return 3.0 if self.seen == self.late else 1.0

    def race(self, first: Callable[[], Any], second: Callable[[], Any]) -> tuple[Any, Any]:
        """What each gives. The second looks around while the first one's write is on its way."""

        def after_the_first() -> Any:
            while not self.seen:
                time.sleep(0.01)
            return second()

        answers = at_once(first, after_the_first)
        return answers[0], answers[1]


@pytest.mark.parametrize("late", [1, 2])
def test_of_two_who_claim_one_wins_whoevers_write_is_slow(s3: S3, late: int) -> None:
    uri = s3.bucket()
    s3.door.slow = slow = OneIsLate(late)
    first, second = slow.race(claiming(uri), claiming(uri))
    assert (first is None) != (second is None)
    winner = first or second
    assert (winner is second) == (late == 1), "the one whose request arrived"
    assert Claims(Objects(uri)).owner(RUN)["attempt"] == winner.attempt
    winner.release()


@pytest.mark.parametrize("late", [1, 2])
def test_of_two_who_take_over_a_stale_claim_one_wins(s3: S3, late: int) -> None:
    uri = s3.bucket()
    dead = Claims(Objects(uri), clock=lambda: time.time() - 1000).claim(RUN)
    dead._stop.set()
    s3.door.slow = slow = OneIsLate(late)
    first, second = slow.race(claiming(uri), claiming(uri))
    assert (first is None) != (second is None)
    (first or second).release()


@pytest.mark.parametrize("late", [1, 2])
def test_the_first_done_counts_whoevers_write_is_slow(s3: S3, late: int) -> None:
    uri = s3.bucket()
    s3.door.slow = slow = OneIsLate(late, "/done/")
    attempts = [Store(uri).attempt(RUN) for _ in range(2)]
    for attempt in attempts:
        attempt.write_description({"model": {"mlp": {}}})
    counts = slow.race(*(lambda a=a: a.finish("done", b"weights", [{"epoch": 1}], PROVENANCE) for a in attempts))
    assert sorted(counts) == [False, True]
    counted = Store(uri).done(RUN).attempt
    assert counted == attempts[counts.index(True)].name
    assert stored.weights(Store(uri), RUN) == b"weights"


def test_an_object_is_one_request(s3: S3) -> None:
    objects = Objects(s3.bucket())
    for task, expected in (
        (lambda: objects.put("runs/a", b"x"), {"PUT": 1}),
        (lambda: objects.create("runs/b", b"x"), {"PUT": 1}),
        (lambda: objects.get("runs/a"), {"GET": 1}),
        (lambda: objects.get("runs/none"), {"GET": 1}),
        (lambda: objects.exists("runs/a"), {"HEAD": 1}),
        (lambda: objects.list("runs"), {"GET": 1}),
        (lambda: objects.versioned("runs/a"), {"GET": 1}),
    ):
        s3.door.passed.clear()
        task()
        assert dict(s3.door.passed) == expected
    assert objects.list() == ["runs/a", "runs/b"], "no markers of folders"


def test_a_claim_is_two_requests_and_a_heartbeat_two(s3: S3) -> None:
    claims = Claims(Objects(s3.bucket()))
    s3.door.passed.clear()
    claim = claims.claim(RUN)
    assert sum(s3.door.passed.values()) <= 3
    s3.door.passed.clear()
    assert claims.renew(claim)
    assert s3.door.passed == {"GET": 1, "PUT": 1}
    claim.release()


def test_every_fifth_request_fails_and_answers_are_lost_and_nothing_is(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "PAUSE_S", (0.005, 0.05))
    objects = Objects(s3.bucket())
    s3.door.failing = s3.door.unheard = 0.2
    created = [objects.create(f"runs/done/{number}", b"%d" % number) for number in range(30)]
    assert all(created), "one whose answer was lost is ours all the same"
    assert not any(objects.create(f"runs/done/{number}", b"other") for number in range(0, 30, 7))
    assert all(
        objects.replace("runs/done/0", b"%d again" % number, objects.versioned("runs/done/0")[1])
        for number in range(10)
    )
    assert objects.list("runs/done") == sorted(f"runs/done/{number}" for number in range(30))
    assert [objects.get(f"runs/done/{number}") for number in range(1, 30)] == [b"%d" % n for n in range(1, 30)]
    assert s3.door.refused > 15


def test_a_service_that_is_away_is_waited_for(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "PAUSE_S", (0.05, 0.5))
    objects = Objects(s3.bucket())
    objects.put("a", b"1")
    s3.door.shut = True
    threading.Timer(3.0, lambda: setattr(s3.door, "shut", False)).start()
    assert at_once(
        lambda: objects.get("a"),
        lambda: objects.put("b", b"2"),
        lambda: objects.create("c", b"3"),
        lambda: objects.list(),
    )[:3] == [b"1", None, True]
    assert {"a", "b", "c"} <= set(objects.list())


def test_one_that_stays_away_is_an_error_after_a_while(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "PATIENCE_S", 1.0)
    monkeypatch.setattr(backend, "PAUSE_S", (0.05, 0.2))
    objects = Objects(s3.bucket())
    s3.door.shut = True
    for task in (lambda: objects.get("a"), lambda: objects.put("a", b"x"), lambda: objects.create("a", b"x")):
        with pytest.raises(StorageError, match="503"):
            task()


def test_before_the_start_nobody_waits_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setattr(bucket, "IMPATIENCE_S", 1.0)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"cannot use s3://bucket/x: .*check that it can be reached"):
        Objects("s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1").probe()
    assert time.monotonic() - began < 10


def test_a_sweep_whose_bucket_does_not_answer_is_refused_in_seconds(write_sweep, monkeypatch, capsys) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setattr(bucket, "IMPATIENCE_S", 1.0)
    began = time.monotonic()
    uri = "s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1"
    assert run(Options(write_sweep(), results=uri, here=True, profile="paper")) == 4
    assert time.monotonic() - began < 10 and "refused: cannot use s3://bucket/x: " in capsys.readouterr().err


def test_a_bucket_that_may_only_be_read_is_refused_in_seconds(s3: S3, write_sweep, capsys) -> None:
    uri, began = s3.bucket(), time.monotonic()
    s3.door.answers = lambda method, path: "403 Forbidden" * (method == "PUT")
    assert run(Options(write_sweep(), results=uri, here=True, profile="paper")) == 4
    said = capsys.readouterr().err
    assert time.monotonic() - began < 10 and said.startswith("refused: cannot ") and "s3://bucket-" in said
    assert "403" in said or "privileges" in said


def test_a_request_that_is_wrong_is_not_asked_again_for_minutes(s3: S3) -> None:
    objects = Objects(s3.bucket())
    s3.door.answers = lambda method, path: "400 Bad Request"
    began = time.monotonic()
    with pytest.raises(StorageError, match="400") as caught:
        objects.get("a")
    assert time.monotonic() - began < 5 and not caught.value.gone


def test_a_bucket_that_is_not_there_is_named(s3: S3) -> None:
    uri = s3.bucket().replace("bucket-", "no-such-bucket-")
    with pytest.raises(StorageError, match=r"cannot use s3://no-such-bucket-.*NoSuchBucket"):
        Objects(uri).probe()


def test_a_folder_behind_the_options_is_told_where_it_belongs() -> None:
    with pytest.raises(StorageError, match=r"its region us-east-1/small has a /: folders stand before the '\?'"):
        Objects("s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1/small")


def test_a_place_without_conditions_is_refused(s3: S3) -> None:
    objects = Objects(s3.bucket())
    objects.probe()
    s3.door.conditions = False
    with pytest.raises(StorageError, match="does not write under a condition"):
        objects.probe()
    s3.door.conditions = True
    assert objects.list() == []


def test_credentials_of_aws_configure_are_taken(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.bucket()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = any\naws_secret_access_key = thing\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    Objects(uri).probe()


def test_a_claim_whose_release_arrives_late_is_not_taken_from_who_has_it_now(s3: S3) -> None:
    uri = s3.bucket()
    mine = Claims(Objects(uri), stale=1.0).claim(RUN)
    time.sleep(1.5)
    s3.door.slow = slow = OneIsLate(1)  # the write of the release; the takeover's comes first
    _, second = slow.race(mine.release, claiming(uri, stale=1.0))
    assert Claims(Objects(uri)).owner(RUN)["attempt"] == second.attempt
    second.release()


@pytest.mark.parametrize("uri", ["memory:///x", f"s3://b/p?endpoint=http:{2 * '/'}KEY:SECRET@127.0.0.1:9000"])
def test_what_is_no_bucket_or_tells_a_secret_is_refused(uri: str) -> None:
    with pytest.raises(StorageError, match="cannot use") as caught:
        Objects(uri)
    assert "SECRET" not in str(caught.value)


def test_google_is_asked_by_version_and_others_by_tag() -> None:
    class Google:
        def get(self, key: str) -> Any:
            return SimpleNamespace(bytes=lambda: b"x", meta={"e_tag": "abc", "version": "7"})

    assert bucket.Bucket("gs://b", Google()).versioned("a") == (b"x", {"e_tag": "abc", "version": "7"})


@pytest.mark.parametrize(
    "uri",
    [
        "s3://[b/p",
        f"s3://b/p?endpoint=http:{2 * '/'}[::1",
        "s3://b/p?endpoint=127.0.0.1:9000",
        f"s3://b/p?endpoint=http:{2 * '/'}a b",
    ],
)
def test_what_is_no_uri_is_one_line(uri: str) -> None:
    with pytest.raises(StorageError, match="cannot use s3://"):
        Objects(uri)
