"""The store: nothing partial or damaged is ever read, the first `done` wins, what was there stays there."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from kdtune.store import claims
from kdtune.store.claims import identity
from kdtune.store.encoding import digest, seal, to_json
from kdtune.store.evaluations import Evaluations
from kdtune.store.objects import Objects, StorageError
from kdtune.store.standing import Look, Standing
from kdtune.store.store import Attempt, DamagedError, Store

RUN, OTHER = "0123456789ab", "ba9876543210"
HASH = "deadbeef"
WEIGHTS = digest(b"weights")
HISTORY = [{"epoch": 1, "train/loss": 2.302585092994046}, {"epoch": 2, "train/loss": 0.1, "lr": 5e-4}]
PROVENANCE = {"commit": "abc", "seconds": 1.5, "versions": {"torch": "2.11"}}
BUCKETS: dict[Path, MemoryStore] = {}  # by the folder of the test


def place(kind: str, folder: Path, make: Callable[..., Objects] = Objects) -> Objects:
    if kind == "local":
        return make(folder / "results")
    return make("memory", BUCKETS.setdefault(folder, MemoryStore()))


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> Store:
    return Store(place(request.param, tmp_path))


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    """No power is cut here; test_objects.py checks that bytes are flushed, and when."""
    monkeypatch.setattr("kdtune.store.folder.os.fsync", lambda descriptor: None)


@pytest.fixture
def local(tmp_path) -> Store:
    return Store(tmp_path / "results")


def finish(store: Store, run: str = RUN, weights: bytes | None = b"weights", outcome: str = "done") -> Attempt:
    attempt = store.attempt(run)
    attempt.write_description({"student": {"model": "wrn-16-2"}, "seed": 1})
    assert attempt.finish(outcome, weights, HISTORY, PROVENANCE)
    return attempt


def state_bytes(epoch: int) -> bytes:
    return b"state after epoch %d " % epoch * 50


def damage(store: Store, key: str, how: str) -> None:
    data = bytearray(store.objects.get(key))
    if how == "flip":
        data[len(data) // 2] ^= 4
    elif how == "cut":
        data = data[: len(data) // 2]
    elif how == "empty":
        data = bytearray()
    store.objects.delete(key)
    if how != "missing":
        store.objects.put(key, bytes(data))


def now(store: Store, run: str = RUN) -> Look:
    """What a new look at the run shows."""
    standing = Standing(store)
    standing.refresh(run)
    return standing.look(run)


# The life of a run


def test_a_store_that_does_not_exist_can_be_read(store):
    assert now(store).state(()) == "new"
    assert stored.finished(store) == set()
    assert store.evaluation_arrays(RUN, HASH) == {}
    assert store.evaluation(RUN, HASH) is store.done(RUN) is store.owner(RUN) is now(store).failure is None
    assert [*store.checkpoints(RUN)] == now(store).history == []
    assert store.objects.list() == []


def test_a_run_from_new_to_done(store):
    attempt = store.attempt(RUN)
    attempt.write_description({"seed": 1})
    assert now(store).state(()) == "new"
    attempt.save_checkpoint(1, state_bytes(1))
    assert now(store).state(()) == "partial"
    with store.claim(RUN):
        assert now(store).state(()) == "elsewhere"
    attempt.write_failure(ValueError("no"))
    assert now(store).state(()) == "failed"
    again = store.attempt(RUN)
    again.write_description({"seed": 1})
    assert now(store).state(()) == "partial"
    assert now(store).failure is None
    assert again.finish("done", b"weights", HISTORY, PROVENANCE)
    assert now(store).state(()) == "done"
    assert stored.finished(store) == {RUN}
    assert store.done(RUN).attempt == again.name
    look = now(store)
    assert (stored.weights(store, RUN), look.history, look.provenance) == (b"weights", HISTORY, PROVENANCE)
    assert stored.description(store, RUN) == {"seed": 1}
    assert now(store).untried == "new" and stored.checkpoint(store, RUN) is None


def test_a_diverged_run_is_a_result_without_weights(store):
    finish(store, weights=None, outcome="diverged")
    assert now(store).state(()) == "diverged"
    assert stored.finished(store) == {RUN}
    with pytest.raises(DamagedError, match=r"model\.safetensors is missing"):
        stored.weights(store, RUN)


def test_the_first_done_wins(store):
    first, second = store.attempt(RUN), store.attempt(RUN)
    assert first.finish("done", b"first", HISTORY, PROVENANCE)
    assert not second.finish("diverged", None, [], {})
    assert first.finish("done", b"changed", [], {})  # still the one that counts, and not written again
    assert (stored.weights(store, RUN), now(store).state(()), stored.history(store, RUN)) == (b"first", "done", HISTORY)


def test_a_failure_tells_what_where_and_when(store):
    attempt = store.attempt(RUN)
    try:
        raise KeyError("wrn-40-3 \udcff")
    except KeyError as error:
        attempt.write_failure(error)
    failure = now(store).failure
    assert failure["type"] == "KeyError" and "wrn-40-3" in failure["message"]
    assert "test_a_failure_tells_what_where_and_when" in failure["traceback"]
    assert failure["time"].endswith("+00:00")
    finish(store)
    assert now(store).failure is None


def test_the_claim_can_name_the_attempt(store):
    with store.claim(RUN) as claim:
        assert store.attempt(RUN, claim.attempt).name == claim.attempt
        assert store.owner(RUN)["attempt"] == claim.attempt


@pytest.mark.parametrize(
    "bad", ["../../etc/pas", "/abs", "0123456789AB", "0123456789abc", "", "done", "claims\0", "..%2f12345678"]
)
def test_only_ids_name_runs(store, bad):
    for operation in (store.done, lambda run: now(store, run), store.attempt, lambda run: [*store.checkpoints(run)]):
        with pytest.raises(ValueError, match="12 hex digits"):
            operation(bad)
    with pytest.raises(ValueError, match="6 to 64 hex"):
        store.attempt(RUN).evaluations(WEIGHTS).metrics(bad.upper().replace("C", "x"))
    with pytest.raises(ValueError, match="attempt's name"):
        store.attempt(RUN, bad or "x")


def test_a_planted_done_leads_nowhere(store):
    store.objects.put(f"runs/done/{RUN}", seal({"attempt": "../../..", "outcome": "done", "files": {}}))
    assert store.done(RUN) is None
    with pytest.raises(ValueError, match="outcome"):
        store.attempt(RUN).finish("finished", b"", [], {})


# Checkpoints


def test_the_newest_checkpoints_of_all_attempts_are_kept(store):
    for epoch in (1, 2, 3):
        store.attempt(RUN).save_checkpoint(epoch, state_bytes(epoch))
    assert stored.checkpoint(store, RUN) == (3, state_bytes(3))
    kept = [key for key in store.objects.list(f"runs/{RUN}") if key.endswith(".pt")]
    assert sorted(Path(key).stem for key in kept) == ["2", "3"]
    store.attempt(RUN).save_checkpoint(10, state_bytes(10))
    kept = [key for key in store.objects.list(f"runs/{RUN}") if key.endswith(".pt")]
    assert sorted(Path(key).stem for key in kept) == ["10", "3"], "by number, not by text"


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
@pytest.mark.parametrize("kind", ["pt", "json"])
def test_a_bad_checkpoint_is_set_aside_and_the_one_before_used(store, caplog, how, kind):
    attempt = store.attempt(RUN)
    for epoch in (1, 2):
        attempt.save_checkpoint(epoch, state_bytes(epoch))
    key = f"runs/{RUN}/{attempt.name}/checkpoints/2.{kind}"
    damage(store, key, how)
    bad = store.objects.get(key)
    assert stored.checkpoint(store, RUN) == (1, state_bytes(1))
    assert f"{key} is damaged" in caplog.text
    assert store.objects.get(f"{key}.damaged") == bad
    caplog.clear()
    assert stored.checkpoint(store, RUN) == (1, state_bytes(1))
    assert caplog.text == ""
    attempt.save_checkpoint(2, state_bytes(2))
    assert stored.checkpoint(store, RUN) == (2, state_bytes(2))


def test_all_checkpoints_bad_means_from_the_start(store):
    store.attempt(RUN).save_checkpoint(1, state_bytes(1))
    damage(store, next(key for key in store.objects.list() if key.endswith(".pt")), "flip")
    assert now(store).state(()) == "partial"  # looks good: nothing was read yet
    assert stored.checkpoint(store, RUN) is None
    assert now(store).state(()) == "new"


class Crash(BaseException):
    """The process ends here; BaseException, so that nothing handles it."""


def crashing(after: int, torn: bool, error: Callable[[], BaseException] = Crash) -> type[Objects]:
    """Objects whose writes and deletions stop after the first `after`; the next write is left half done if `torn`."""

    class Crashing(Objects):
        left = after

        def count(self, key: str, data: bytes | None) -> None:
            if self.left == 0:
                if torn and data is not None and not self.exists(key):
                    Objects.put(self, key, data[: len(data) // 2])
                raise error()
            self.left -= 1

        def put(self, key: str, data: bytes) -> None:
            self.count(key, data)
            super().put(key, data)

        def create(self, key: str, data: bytes) -> bool:
            self.count(key, data)
            return super().create(key, data)

        def delete(self, key: str) -> None:
            self.count(key, None)
            super().delete(key)

    return Crashing


def train(store: Store, epochs: int = 4) -> None:
    """A run that goes on from its checkpoint; its weights are the states of all epochs."""
    resumed = stored.checkpoint(store, RUN)
    first = 1 if resumed is None else resumed[0] + 1
    if resumed is not None:
        assert resumed[1] == state_bytes(resumed[0])
    attempt = store.attempt(RUN)
    attempt.write_description({"seed": 1})
    for epoch in range(first, epochs + 1):
        attempt.save_checkpoint(epoch, state_bytes(epoch))
    attempt.finish("done", state_bytes(epochs), HISTORY, PROVENANCE)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_crash_at_any_write_loses_one_checkpoint_at_most(tmp_path, kind, torn):
    crashes = 0
    for after in range(100):
        folder = tmp_path / str(after)
        folder.mkdir()
        try:
            train(Store(place(kind, folder, crashing(after, torn))))
        except Crash:
            crashes += 1
        else:
            break
        store = Store(place(kind, folder))
        # What was written: description, then per epoch .pt, .json and (from the third) two deletions of the oldest.
        complete = max((epoch for epoch, end in enumerate((3, 5, 7, 11), 1) if end <= after), default=None)
        done = store.done(RUN)
        if done is None:
            assert (stored.checkpoint(store, RUN) or (None,))[0] in (complete, (complete or 0) + 1)
        train(store)
        assert (stored.weights(store, RUN), stored.history(store, RUN)) == (state_bytes(4), HISTORY)
        assert now(store).state(()) == "done" and now(store).untried == "new"
    assert crashes > 15


def test_a_checkpoint_cut_off_in_its_bytes_is_no_damage(tmp_path, caplog):
    """The digest comes last: what has none was never finished, and is passed over without a word."""
    with pytest.raises(Crash):
        Store(place("local", tmp_path, crashing(0, True))).attempt(RUN).save_checkpoint(1, state_bytes(1))
    store = Store(place("local", tmp_path))
    assert [Path(key).suffix for key in store.objects.list()] == [".pt"]
    assert stored.checkpoint(store, RUN) is None and now(store).untried == "new"
    assert caplog.text == "" and len(store.objects.list()) == 1


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_a_full_disk_at_any_write_leaves_what_was_there(tmp_path, kind):
    def full() -> StorageError:
        return StorageError(os.strerror(errno.ENOSPC))

    for after in range(1, 12):
        folder = tmp_path / str(after)
        folder.mkdir()
        good = Store(place(kind, folder))
        finish(good, OTHER)
        good.attempt(RUN).save_checkpoint(1, state_bytes(1))
        with pytest.raises(StorageError):
            limited = Store(place(kind, folder, crashing(after, False, full)))
            attempt = limited.attempt(RUN)
            for epoch in range(2, 30):
                attempt.save_checkpoint(epoch, state_bytes(epoch))
        epoch, data = stored.checkpoint(good, RUN)
        assert data == state_bytes(epoch)
        assert stored.weights(good, OTHER) == b"weights"


SAVER = """
import sys
from kdtune.store.store import Store
attempt = Store(sys.argv[1]).attempt(sys.argv[2])
for epoch in range(1, 100_000):
    attempt.save_checkpoint(epoch, (b"%d " % epoch) * 200_000)
    print(epoch, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011])
def test_a_killed_process_leaves_its_last_checkpoint(tmp_path, delay):
    process = subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path), RUN], stdout=subprocess.PIPE, text=True)
    for _ in range(4):
        process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    reported = [4, *map(int, process.stdout.read().split())]
    process.wait()
    process.stdout.close()
    epoch, data = stored.checkpoint(Store(tmp_path), RUN)
    assert epoch in (max(reported), max(reported) + 1)
    assert data == (b"%d " % epoch) * 200_000


# Damage


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "missing"])
@pytest.mark.parametrize("name", ["model.safetensors", "history.jsonl", "provenance.json", "run.yaml"])
def test_a_damaged_file_of_a_finished_run_is_named_and_not_used(store, name, how):
    attempt = finish(store)
    damage(store, f"runs/{RUN}/{attempt.name}/{name}", how)
    done, word = store.done(RUN), "missing" if how == "missing" else "damaged"
    with pytest.raises(DamagedError, match=rf"{attempt.name}/{name} is {word}.*runs/done/{RUN}.*train the run again"):
        store.file(RUN, done, name)
    assert all(store.file(RUN, done, other) for other in done.files if other != name)


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_a_damaged_done_counts_as_none(store, caplog, how):
    finish(store)
    key = f"runs/done/{RUN}"
    damage(store, key, how)
    bad = store.objects.get(key)
    assert now(store).state(()) == "new"
    assert f"{key} is damaged" in caplog.text
    assert store.objects.get(f"{key}.damaged") == bad
    assert stored.finished(store) == set()
    assert store.attempt(RUN).finish("done", b"again", HISTORY, PROVENANCE)
    assert stored.weights(store, RUN) == b"again"


def test_finishing_over_a_damaged_done(store):
    finish(store)
    damage(store, f"runs/done/{RUN}", "cut")
    assert store.attempt(RUN).finish("done", b"again", HISTORY, PROVENANCE)
    assert stored.weights(store, RUN) == b"again"


def test_every_bit_of_done_is_guarded(local):
    attempt = finish(local)
    key = f"runs/done/{RUN}"
    good = local.objects.get(key)
    logging.disable(logging.WARNING)
    try:
        for position in range(0, len(good) * 8, 37):
            data = bytearray(good)
            data[position // 8] ^= 1 << position % 8
            local.objects.put(key, bytes(data))
            done = local.done(RUN)
            assert done is None or (done.attempt, done.outcome) == (attempt.name, "done")
    finally:
        logging.disable(logging.NOTSET)


def test_damage_on_a_read_only_storage_is_still_not_used(local, caplog, monkeypatch):
    finish(local)
    damage(local, f"runs/done/{RUN}", "flip")

    def refuse(*_args, **_more):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("kdtune.store.folder.os.makedirs", refuse)
    assert local.done(RUN) is None
    assert "could not be set aside" in caplog.text and "Read-only" in caplog.text


# Evaluations


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"softmax": rng.random((20, 10), dtype=np.float32), "correct": np.packbits(rng.integers(0, 2, 20))}


def evaluations(store: Store, run: str = RUN) -> Evaluations:
    """Those of a finished run."""
    return store.evaluations(run, store.done(run) or store.done(finish(store, run).run_id))


def test_an_evaluation_is_kept_whole_and_the_first_wins(store):
    kept = evaluations(store)
    kept.write(HASH, {"kind": "accuracy"}, {"test/accuracy": 0.1 + 0.2, "test/ece": math.nan}, arrays(0))
    kept.write(HASH, {"kind": "accuracy"}, {"test/accuracy": 0.9}, arrays(1))
    assert store.evaluation(RUN, HASH) == {"test/accuracy": 0.1 + 0.2, "test/ece": None}
    read = store.evaluation_arrays(RUN, HASH)
    assert read.keys() == arrays(0).keys()
    for name, array in arrays(0).items():
        np.testing.assert_array_equal(read[name], array)
    assert store.evaluation(RUN, "cafecafe") is None


def test_an_evaluation_without_arrays(store):
    evaluations(store).write(HASH, {}, {"a": 1.0}, {})
    assert store.evaluation(RUN, HASH) == {"a": 1.0}
    assert store.evaluation_arrays(RUN, HASH) == {}


def test_results_lie_under_the_attempt_that_they_measured(store):
    attempt = store.attempt(RUN)
    attempt.evaluations(WEIGHTS).write(HASH, {}, {"a": 1.0}, {})
    assert now(store).state(()) == "new"
    assert store.evaluation(RUN, HASH) is None, "no run, no number"
    attempt.finish("done", b"weights", HISTORY, PROVENANCE)
    assert store.objects.exists(f"runs/{RUN}/{attempt.name}/evaluations/{HASH}.json")
    assert now(store).evaluation(HASH) == store.evaluation(RUN, HASH) == {"a": 1.0}


def test_another_attempt_with_other_weights_has_no_number_of_the_first(store):
    evaluations(store).write(HASH, {}, {"a": 1.0}, {})
    store.objects.delete(f"runs/done/{RUN}")
    again = store.attempt(RUN)
    again.finish("done", b"other weights", HISTORY, PROVENANCE)
    assert store.evaluation(RUN, HASH) is None
    assert now(store).state([HASH]) == "partial"


@pytest.mark.parametrize("whose", ["weights", "run"])
def test_results_of_other_weights_or_another_run_are_set_aside(store, caplog, whose):
    """However they came there: a folder that was copied by hand, a `done` of another attempt."""
    other = evaluations(store, OTHER) if whose == "run" else store.attempt(OTHER).evaluations(digest(b"other"))
    other.write(HASH, {}, {"a": 1.0}, {})
    (key,) = (key for key in store.objects.list(f"runs/{OTHER}") if HASH in key)
    attempt = finish(store)
    planted = f"runs/{RUN}/{attempt.name}/evaluations/{HASH}.json"
    store.objects.put(planted, store.objects.get(key))
    assert now(store).evaluation(HASH) is None
    assert f"measured on other weights, {digest(b'weights' if whose == 'run' else b'other')[:12]}" in caplog.text
    assert store.objects.exists(f"{planted}.damaged")
    evaluations(store).write(HASH, {}, {"a": 2.0}, {})
    assert now(store).evaluation(HASH) == {"a": 2.0}


CODE = {"sources": "0" * 64, "commit": "abc"}


def test_what_an_earlier_attempt_measured_of_the_same_weights_is_taken_over(store):
    """A run that was cut off while it was attacked for hours does not begin that anew."""
    store.attempt(RUN).evaluations(WEIGHTS).write(HASH, {"name": "pgd"}, {"a": 0.5}, arrays(0), CODE)
    again = store.attempt(RUN)
    kept = again.evaluations(WEIGHTS)
    assert kept.take_over(HASH, CODE) and not kept.take_over("cafecafe", CODE)
    again.finish("done", b"weights", HISTORY, PROVENANCE)
    assert store.evaluation(RUN, HASH) == {"a": 0.5}
    np.testing.assert_array_equal(store.evaluation_arrays(RUN, HASH)["softmax"], arrays(0)["softmax"])


@pytest.mark.parametrize("what", ["weights", "code", "metrics", "arrays"])
def test_nothing_else_is_taken_over(store, what):
    first = store.attempt(RUN)
    first.evaluations(WEIGHTS).write(HASH, {}, {"a": 0.5}, arrays(0), CODE)
    if what in ("metrics", "arrays"):
        damage(store, f"runs/{RUN}/{first.name}/evaluations/{HASH}.{'npz' if what == 'arrays' else 'json'}", "flip")
    kept = store.attempt(RUN).evaluations(digest(b"other") if what == "weights" else WEIGHTS)
    assert not kept.take_over(HASH, {"sources": "1" * 64} if what == "code" else CODE)
    assert kept.metrics(HASH) is None


def key_of(store: Store, kind: str) -> str:
    return f"runs/{RUN}/{store.done(RUN).attempt}/evaluations/{HASH}.{kind}"


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_damaged_metrics_are_measured_anew(store, caplog, how):
    evaluations(store).write(HASH, {}, {"a": 0.5}, arrays(0))
    damage(store, key_of(store, "json"), how)
    assert store.evaluation(RUN, HASH) is None
    assert f"{HASH}.json is damaged" in caplog.text
    evaluations(store).write(HASH, {}, {"a": 0.25}, arrays(1))
    assert store.evaluation(RUN, HASH) == {"a": 0.25}
    np.testing.assert_array_equal(store.evaluation_arrays(RUN, HASH)["softmax"], arrays(1)["softmax"])


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "missing"])
def test_damaged_arrays_are_named_and_measured_anew(store, how):
    evaluations(store).write(HASH, {}, {"a": 0.5}, arrays(0))
    damage(store, key_of(store, "npz"), how)
    with pytest.raises(DamagedError, match=rf"{HASH}\.npz is {'missing' if how == 'missing' else 'damaged'}"):
        store.evaluation_arrays(RUN, HASH)
    assert store.evaluation(RUN, HASH) is None
    evaluations(store).write(HASH, {}, {"a": 0.5}, arrays(0))
    assert store.evaluation_arrays(RUN, HASH)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("after", [0, 1])
def test_a_crash_inside_an_evaluation_leaves_none(tmp_path, after, torn):
    finish(Store(place("local", tmp_path)))
    with pytest.raises(Crash):
        evaluations(Store(place("local", tmp_path, crashing(after, torn)))).write(HASH, {}, {"a": 1.0}, arrays(0))
    store = Store(place("local", tmp_path))
    assert store.evaluation(RUN, HASH) is None
    evaluations(store).write(HASH, {}, {"a": 0.25}, arrays(1))
    assert store.evaluation(RUN, HASH) == {"a": 0.25}
    np.testing.assert_array_equal(store.evaluation_arrays(RUN, HASH)["softmax"], arrays(1)["softmax"])


# Numbers, bytes, speed

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)
ROWS = st.lists(st.dictionaries(st.text(max_size=8), NUMBERS | st.integers() | st.none(), max_size=4), max_size=4)


def finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=ROWS, metrics=st.dictionaries(st.text(max_size=8), NUMBERS, max_size=4))
def test_history_and_metrics_come_back_exactly(rows, metrics):
    store = Store(Objects("memory", MemoryStore()))
    attempt = store.attempt(RUN)
    attempt.write_description({"seed": 1})
    attempt.finish("done", b"weights", rows, {})
    expected = [{key: finite(value) for key, value in row.items()} for row in rows]
    read = now(store).history
    assert read == expected
    assert [sorted(map(repr, row.items())) for row in read] == [sorted(map(repr, row.items())) for row in expected]
    evaluations(store).write(HASH, {}, metrics, {})
    assert store.evaluation(RUN, HASH) == {key: finite(value) for key, value in metrics.items()}


def test_the_same_contents_give_the_same_bytes(tmp_path):
    def written(store: Store, flip: int) -> dict[str, bytes]:
        attempt = store.attempt(RUN, "20261120T101500000000-9f03ab")
        attempt.write_description({"b": 1, "a": 2})
        pairs = list(PROVENANCE.items())[::flip]
        attempt.finish("done", b"weights", [dict(list(row.items())[::flip]) for row in HISTORY], dict(pairs))
        named = dict(list(arrays(0).items())[::flip])
        evaluations(store).write(
            HASH, dict([("x", 1), ("y", 2)][::flip]), dict([("m", 0.1), ("n", None)][::flip]), named
        )
        return {key: store.objects.get(key) for key in store.objects.list()}

    one, two = (written(Store(tmp_path / name), flip) for name, flip in (("one", 1), ("two", -1)))
    assert one == two
    assert len(one) == 7


def test_the_state_of_a_hundred_runs_is_quick(local):
    runs = [f"{number:012x}" for number in range(100)]
    for run in runs:
        local.attempt(run).finish("done", b"w", HISTORY, PROVENANCE)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert set(Standing(local).states(runs).values()) == {"done"}
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def test_a_run_of_a_dead_driver_is_not_elsewhere(local):
    dead = {**identity(), "pid": 2**22 + 1, "attempt": "x", "heartbeat": time.time()}
    local.objects.put(f"runs/claims/{RUN}", to_json(dead))
    assert now(local).state(()) == "new"


def test_the_newest_attempt_is_the_last_one_whatever_the_clock_says(store, monkeypatch):
    """faults 23: the clock goes back an hour between two attempts."""
    first = store.attempt(RUN)
    first.write_failure(ValueError("of the first"))

    class Earlier(claims.datetime):
        @classmethod
        def now(cls, zone=None):
            return super().now(zone) - timedelta(hours=1)

    monkeypatch.setattr(claims, "datetime", Earlier)
    with store.claim(RUN) as claim:
        second = store.attempt(RUN, claim.attempt)
        second.write_description({"seed": 1})
        second.save_checkpoint(1, state_bytes(1))
    assert now(store).failure is None and now(store).state(()) == "partial"
    second.write_failure(ValueError("of the second"))
    assert now(store).failure["message"] == "of the second"


@pytest.mark.parametrize("value", ["9.5", [1.0], {}])
def test_a_metric_that_is_no_number_is_refused_and_set_aside_where_it_is_there(store, value, caplog):
    """A sealed record that an import brought fits its digest, and a table of it would stop a whole command."""
    kept = evaluations(store)
    with pytest.raises(ValueError, match="its metric 'b' is no number"):
        kept.write(HASH, {}, {"a": 1.0, "b": value}, {})
    weights = store.done(RUN).files["model.safetensors"]
    record = {"run": RUN, "weights": weights, "evaluator": {}, "code": {}, "metrics": {"b": value}}
    kept.add(HASH, seal(record | {"arrays_sha256": None}), None)
    assert kept.metrics(HASH) is None and "its metric 'b' is no number" in caplog.text
    kept.write(HASH, {}, {"a": 1.0, "b": None, "c": True}, {})
    assert kept.metrics(HASH) == {"a": 1.0, "b": None, "c": 1.0}
