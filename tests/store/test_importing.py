"""Runs of a bundle in another store: whole, `done` last, the first `done` wins, nothing before all was looked at."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bundles
import pytest
from bundles import FOLDER, HASH, OTHER_HASH, PROFILE, SWEEP, train

from kdtune.cli.bundle import told
from kdtune.store import importing
from kdtune.store.bundle import Bundle
from kdtune.store.bundling import contents, write
from kdtune.store.done import DamagedError
from kdtune.store.importing import Folder, Lacking, imported, lacking, take_in
from kdtune.store.objects import Objects, StorageError
from kdtune.store.searches import Searches
from kdtune.store.standing import Standing
from kdtune.store.state import State
from kdtune.store.store import Store
from kdtune.store.tar import BundleError


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Results and the bundle of them, not to be changed."""
    return bundles.bundled(tmp_path_factory.mktemp("importing"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return Store(tmp_path / "there")


def take(made: SimpleNamespace, store: Store, data: bytes | None = None) -> tuple[Lacking, Folder]:
    bundle = Bundle(io.BytesIO(made.bundle if data is None else data))
    lacks = lacking(bundle, store)
    return lacks, take_in(bundle, store, lacks, "small.tar")


def there(store: Store) -> dict[str, bytes]:
    """All that lies in a folder of results, but for the record of imports."""
    root = store.objects.local
    assert root is not None
    return {name: data for name, data in bundles.tree(root).items() if not name.startswith("runs/imports/")}


def test_an_empty_store_has_all_of_it_afterwards_to_the_byte(filled: SimpleNamespace, store: Store) -> None:
    lacks, became = take(filled, store)
    assert sorted(lacks.runs) == sorted(filled.ids) and not lacks.evaluations and became is Folder.WRITTEN
    assert there(store) == filled.files
    states = Standing(store, [HASH]).states(filled.all)
    assert [*states.values()] == [State.DONE, State.DONE, State.DIVERGED, State.NEW]
    assert store.evaluation_arrays(filled.ids[0], HASH)["logits"].tolist() == [0, 1, 2]


def test_a_second_time_everything_is_there_and_nothing_changes(filled: SimpleNamespace, store: Store) -> None:
    take(filled, store)
    root = store.objects.local
    assert root is not None
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*") if path.is_file()}
    lacks, became = take(filled, store)
    assert (lacks, became) == (Lacking([], {}), Folder.THE_SAME)
    after = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in root.rglob("*") if path.is_file()}
    assert {path for path in before if path.name != ".lock"} == {path for path in after if path.name != ".lock"}
    assert all(before[path] == after[path] for path in before if path.name != ".lock")


def writes(monkeypatch: pytest.MonkeyPatch, at: int | None) -> list[str]:
    """Keys of what is written, as it comes; the write of this number fails, and what should follow it does not."""
    keys: list[str] = []

    def spied(write: Callable[..., Any]) -> Callable[..., Any]:
        def counted(objects: Objects, key: str, *more: Any, **flags: Any) -> Any:
            if not key.startswith("runs/claims/"):
                keys.append(key)
                if len(keys) - 1 == at:
                    raise KeyboardInterrupt
            return write(objects, key, *more, **flags)

        return counted

    for name in ("put", "create"):
        monkeypatch.setattr(Objects, name, spied(getattr(Objects, name)))
    return keys


def test_a_run_is_written_before_its_record_and_the_record_of_the_import_first_of_all(
    filled: SimpleNamespace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = writes(monkeypatch, None)
    take(filled, store)
    assert keys[0].startswith("runs/imports/")
    for id in filled.ids:
        of = [number for number, key in enumerate(keys) if id in key]
        assert keys[of[-1]] == f"runs/done/{id}" and of == [*range(of[0], of[-1] + 1)]
    last = max(number for number, key in enumerate(keys) if key.startswith("runs/"))
    assert all(key.startswith(FOLDER) for key in keys[last + 1 :]) and len(keys) == len(filled.files) + 1


def test_killed_in_any_write_it_is_completed_by_the_same_again(
    filled: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(len(filled.files) + 1):
        store = Store(tmp_path / f"at {at}")
        with monkeypatch.context() as patch:
            writes(patch, at)
            with pytest.raises(KeyboardInterrupt):
                take(filled, store)
        assert imported(store.objects) == (set(filled.ids) if at else set()), "what is there is never anybody's"
        Standing(store, [HASH]).states(filled.all)  # whatever is done is whole, or this would warn
        _, became = take(filled, store)
        assert became is Folder.WRITTEN
        assert there(store) == filled.files, f"cut at write {at}"
        assert take(filled, store) == (Lacking([], {}), Folder.THE_SAME)


# Runs that are there


def test_other_weights_are_refused_with_both_digests_and_all_of_them_are_named(
    filled: SimpleNamespace, store: Store
) -> None:
    train(store, 0, b"others")
    train(store, 1, outcome="diverged")
    train(store, 2, b"others")
    before = bundles.tree(store.objects.local)  # type: ignore[arg-type]
    with pytest.raises(BundleError) as refused:
        take(filled, store)
    told = str(refused.value)
    first, second, third = filled.ids
    theirs, ours = (each.done(first).files["model.safetensors"] for each in (store, filled.store))  # type: ignore[union-attr]
    assert f"run {first} has weights {theirs} there and weights {ours} in the bundle" in told
    assert f"run {second} has none, for it diverged there and weights" in told
    assert f"run {third} has weights" in told and "there and none, for it diverged in the bundle" in told
    assert "nothing was written" in told
    assert bundles.tree(store.objects.local) == before  # type: ignore[arg-type]


def test_the_same_weights_stay_and_get_the_evaluations_that_they_lack(filled: SimpleNamespace, store: Store) -> None:
    """Trained here too, in another attempt: what was measured of the same bytes is true of them."""
    first = train(store, 0, hashes=())
    second = train(store, 1)
    before = bundles.tree(store.objects.local)  # type: ignore[arg-type]
    lacks, _ = take(filled, store)
    assert lacks.runs == [filled.ids[2]] and lacks.evaluations.keys() == {first}
    assert set(lacks.evaluations[first]) == {HASH, OTHER_HASH}
    after = there(store)
    assert before.items() <= after.items()
    new = {name for name in after.keys() - before.keys() if name.startswith(f"runs/{first}")}
    own = f"runs/{first}/{store.done(first).attempt}/evaluations"  # type: ignore[union-attr]
    assert new == {f"{own}/{HASH}.json", f"{own}/{HASH}.npz", f"{own}/{OTHER_HASH}.json"}
    assert not {name for name in after.keys() - before.keys() if name.startswith(f"runs/{second}")}
    assert store.evaluation_arrays(first, HASH)["logits"].tolist() == [0, 1, 2]
    assert Standing(store, [HASH, OTHER_HASH]).state(first) is State.DONE
    assert take(filled, store)[0] == Lacking([], {})


def test_what_was_measured_there_is_not_replaced(filled: SimpleNamespace, store: Store) -> None:
    id = train(store, 0, hashes=())
    kept = store.evaluations(id, store.done(id))  # type: ignore[arg-type]
    kept.write(HASH, {"name": "accuracy"}, {"test/accuracy": 99.0}, {})
    lacks, _ = take(filled, store)
    assert lacks.evaluations == {id: [OTHER_HASH]} and store.evaluation(id, HASH) == {"test/accuracy": 99.0}


def test_a_run_that_was_begun_there_is_done_and_its_checkpoints_go(filled: SimpleNamespace, store: Store) -> None:
    id = filled.ids[0]
    attempt = store.attempt(id)
    attempt.write_description(bundles.describe(0))
    attempt.save_checkpoint(1, b"half of it")
    assert Standing(store).state(id) is State.PARTIAL
    take(filled, store)
    assert Standing(store).state(id) is State.DONE
    assert not [name for name in there(store) if "checkpoints" in name]


@pytest.mark.parametrize("number", [0, 2])
def test_a_run_that_a_live_process_works_on_is_refused(filled: SimpleNamespace, store: Store, number: int) -> None:
    claim = store.claim(filled.ids[number])
    assert claim is not None
    with claim, pytest.raises(BundleError, match=f"run {filled.ids[number]} is being worked on"):
        take(filled, store)
    assert not store.objects.list("runs/done") and not store.objects.list("runs/imports")
    take(filled, store)


def test_so_is_one_whose_evaluations_a_live_process_fills_in(filled: SimpleNamespace, store: Store) -> None:
    id = train(store, 0, hashes=())
    claim = store.claim(id)
    assert claim is not None
    with claim, pytest.raises(BundleError, match=f"run {id} is being worked on"):
        take(filled, store)
    take(filled, store)
    claim = store.claim(id)
    assert claim is not None
    with claim:
        assert take(filled, store)[0] == Lacking([], {}), "it lacks nothing, and is not touched"


def test_a_run_whose_file_is_gone_there_is_refused_with_what_would_do(filled: SimpleNamespace, store: Store) -> None:
    id = train(store, 0)
    lost = next(store.objects.local.glob(f"runs/{id}/*/model.safetensors"))  # type: ignore[union-attr]
    lost.rename(lost.with_name("elsewhere"))
    with pytest.raises(BundleError, match=rf"run {id} is done there, but for {lost}, .*`kdtune forget` the run"):
        take(filled, store)


@pytest.mark.parametrize("weights", [b"weights", b"others"])
def test_the_first_record_wins_also_while_the_import_writes(
    filled: SimpleNamespace, store: Store, monkeypatch: pytest.MonkeyPatch, weights: bytes
) -> None:
    real, id = Objects.create, filled.ids[0]

    def beaten(objects: Objects, key: str, data: bytes, durable: bool = True) -> bool:
        if key == f"runs/done/{id}":
            monkeypatch.setattr(Objects, "create", real)
            train(store, 0, weights)
        return real(objects, key, data, durable)

    monkeypatch.setattr(Objects, "create", beaten)
    if weights == b"others":
        with pytest.raises(BundleError, match=f"run {id} has weights .* another command has finished it just now"):
            take(filled, store)
    else:
        take(filled, store)
    own = store.done(id)
    assert own is not None and own.attempt != filled.store.done(id).attempt, "what was first stays"
    assert store.file(id, own, "model.safetensors") == weights + b" of seed 0"


# The sweep's folder


def test_another_folder_is_left_and_runs_are_taken_in(filled: SimpleNamespace, store: Store) -> None:
    store.objects.put(f"{FOLDER}/plan.json", b"mine")
    lacks, became = take(filled, store)
    assert became is Folder.LEFT and len(lacks.runs) == 3
    assert store.objects.list(FOLDER) == [f"{FOLDER}/plan.json"] and store.objects.get(f"{FOLDER}/plan.json") == b"mine"


@pytest.mark.parametrize("name", ["report.html", "tensorboard/events with blanks", "log"])
def test_so_is_one_of_which_a_file_is_another_or_beyond(filled: SimpleNamespace, store: Store, name: str) -> None:
    take(filled, store)
    path = store.objects.local / FOLDER / name  # type: ignore[operator]
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    (store.objects.local / FOLDER / "results.csv").unlink()  # type: ignore[operator]
    assert take(filled, store)[1] is Folder.LEFT
    assert not store.objects.exists(f"{FOLDER}/results.csv") and path.read_text() == "mine"


def test_a_folder_that_a_live_command_has_is_left_to_it(filled: SimpleNamespace, store: Store) -> None:
    claim = store.claim(f"sweep/{FOLDER}")
    assert claim is not None
    with claim:
        assert take(filled, store)[1] is Folder.CLAIMED
    assert not store.objects.list(FOLDER)
    assert take(filled, store)[1] is Folder.WRITTEN


@pytest.mark.parametrize("place", [SWEEP, FOLDER, "runs/imports"])
def test_a_file_where_a_folder_should_be_is_told_before_anything_is_written(
    filled: SimpleNamespace, store: Store, place: str
) -> None:
    store.objects.put(place, b"a file")
    with pytest.raises(BundleError, match="is a file, and a folder should be there"):
        take(filled, store)
    assert there(store) == {place: b"a file"}


@pytest.mark.parametrize("place", [SWEEP, FOLDER, "runs/imports", "runs/done"])
def test_no_link_leads_what_is_written_elsewhere(
    filled: SimpleNamespace, store: Store, tmp_path: Path, place: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = store.objects.local / place  # type: ignore[operator]
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a link"):
        take(filled, store)
    assert not list((tmp_path / "elsewhere").iterdir()) and not there(store)


# What a search has proposed


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Results of a search and the bundle of them, not to be changed."""
    root = tmp_path_factory.mktemp("searched")
    return bundles.with_search(bundles.fill(root / "results"), root)


def test_proposals_come_in_before_their_runs_and_a_second_time_nothing_changes(
    searched: SimpleNamespace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = writes(monkeypatch, None)
    lacks, became = take(searched, store)
    assert sorted(lacks.proposals) == [2, 10] and not lacks.others and became is Folder.WRITTEN
    assert there(store) == searched.files and sorted(keys[1:3]) == sorted(searched.proposals)
    assert Searches(store.objects, bundles.SEARCH).known() == bundles.PROPOSALS
    assert take(searched, store) == (Lacking([], {}), Folder.THE_SAME)


def test_a_proposal_that_is_there_stays_and_another_one_is_named(searched: SimpleNamespace, store: Store) -> None:
    ours, theirs = Searches(store.objects, bundles.SEARCH), bundles.PROPOSALS[2]
    other = replace(theirs, point={"sigma": 0.4})
    ours.keep(2, other)
    lacks, _ = take(searched, store)
    assert (lacks.proposals, lacks.others) == ([10], [2]) and ours.known() == {2: other, 10: bundles.PROPOSALS[10]}
    bundle = Bundle(io.BytesIO(searched.bundle))
    (line,) = (line for line in told(bundle, lacks, Folder.LEFT, store) if "others" in line)
    assert f"others are there as proposals 2 of search {bundles.SEARCH}, and stay as they are" in line


def test_the_same_proposal_by_another_version_is_no_other(searched: SimpleNamespace, store: Store) -> None:
    Searches(store.objects, bundles.SEARCH).keep(2, replace(bundles.PROPOSALS[2], by="optuna 9"))
    assert (take(searched, store)[0].proposals, take(searched, store)[0].others) == ([10], [])


def test_a_damaged_proposal_there_makes_room(searched: SimpleNamespace, store: Store) -> None:
    store.objects.put(searched.proposals[0], b"{}")
    lacks, _ = take(searched, store)
    assert sorted(lacks.proposals) == [2, 10]
    assert there(store).items() >= searched.files.items() and f"{searched.proposals[0]}.damaged" in there(store)


@pytest.mark.parametrize("place", ["searches", f"searches/{bundles.SEARCH}"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_no_link_and_no_file_stands_where_proposals_go(
    searched: SimpleNamespace, store: Store, tmp_path: Path, place: str, kind: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = store.objects.local / place  # type: ignore[operator]
    path.parent.mkdir(parents=True)
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text("a file")
    with pytest.raises((BundleError, StorageError), match=r"is a link|is a file, and a folder should be"):
        take(searched, store)
    assert not list((tmp_path / "elsewhere").iterdir()) and not store.objects.list("runs")


# What was imported


def test_the_store_knows_which_runs_were_imported_and_from_where(filled: SimpleNamespace, store: Store) -> None:
    assert imported(store.objects) == set()
    own = train(store, 7)
    take(filled, store)
    assert imported(store.objects) == set(filled.ids) and own not in imported(store.objects)
    (key,) = store.objects.list("runs/imports")
    bundle = Bundle(io.BytesIO(filled.bundle))
    assert key == f"runs/imports/{bundle.digest[:12]}" and b'"small.tar"' in (store.objects.get(key) or b"")
    some = {name: data for name, data in filled.files.items() if filled.ids[2] not in name}
    take(filled, store, bundles.packed(some))
    assert len(store.objects.list("runs/imports")) == 2 and imported(store.objects) == set(filled.ids)


@pytest.mark.parametrize("data", [b"", b"{}", b"text", b"cut"])
def test_a_damaged_record_is_told_and_made_anew_by_the_import(
    filled: SimpleNamespace, store: Store, data: bytes
) -> None:
    take(filled, store)
    (key,) = store.objects.list("runs/imports")
    good = store.objects.get(key) or b""
    store.objects.put(key, good[:-5] if data == b"cut" else data)
    with pytest.raises(DamagedError, match=f"{key} is damaged .*Import that bundle again"):
        imported(store.objects)
    take(filled, store)
    assert store.objects.get(key) == good and imported(store.objects) == set(filled.ids)


def test_a_record_of_what_is_no_run_is_damaged(store: Store) -> None:
    from kdtune.store.encoding import seal

    for runs in (["../x"], "text", [3], None):
        store.objects.put("runs/imports/0123456789ab", seal({"runs": runs}))
        with pytest.raises(DamagedError, match="its runs are no ids"):
            imported(store.objects)


def test_many_reasons_are_counted(filled: SimpleNamespace, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "SHOWN", 1)
    train(store, 0, b"others")
    train(store, 1, b"others")
    with pytest.raises(BundleError, match=r"\n  and 1 more$"):
        take(filled, store)


def test_a_store_that_was_moved_to_is_a_copy_of_the_first(filled: SimpleNamespace, store: Store) -> None:
    """A bundle of what was imported is the same bundle."""
    take(filled, store)
    root = store.objects.local
    assert root is not None
    write(store.objects, contents(store.objects, SWEEP, PROFILE, filled.all), root / "again.tar")
    assert (root / "again.tar").read_bytes() == filled.bundle
    shutil.rmtree(root)
