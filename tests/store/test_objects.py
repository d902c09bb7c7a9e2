"""Objects by key: one contract for folders and buckets, and what a folder adds to it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from kdtune.settings import place_name
from kdtune.store import backend
from kdtune.store.objects import Objects, StorageError, check_key


@pytest.fixture(params=["local", "memory", "s3"])
def objects(request, tmp_path) -> Objects:
    if request.param == "local":
        return Objects(tmp_path / "results")
    return (
        Objects(request.getfixturevalue("s3").bucket()) if request.param == "s3" else Objects("memory", MemoryStore())
    )


@pytest.fixture
def local(tmp_path) -> Objects:
    return Objects(tmp_path / "results")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


# The contract of every place


def test_an_object_is_read_as_it_was_written(objects):
    for data in (b"", b"one", bytes(range(256)) * 1000):
        objects.put("a/b/c.bin", data)
        assert objects.get("a/b/c.bin") == data
        assert objects.exists("a/b/c.bin")


def test_a_name_that_promises_compression_changes_no_byte(objects):
    objects.put("a.gz", b"not gzip at all")
    assert objects.get("a.gz") == b"not gzip at all"


def test_nothing_there_is_no_error(objects):
    assert objects.get("a/b") is None
    assert not objects.exists("a/b")
    assert objects.list() == objects.list("a") == []
    objects.delete("a/b")
    assert objects.set_aside("a/b") is None


def test_a_folder_is_not_an_object(objects):
    objects.put("a/b", b"x")
    assert not objects.exists("a")
    assert objects.list("a/b") == []


def test_create_writes_only_the_first(objects):
    assert objects.create("done/x", b"first")
    assert not objects.create("done/x", b"second")
    assert objects.get("done/x") == b"first"


def test_replace_touches_only_what_was_seen(objects):
    assert objects.versioned("claims/x") is None
    objects.create("claims/x", b"1")
    data, first = objects.versioned("claims/x")
    assert data == b"1" and objects.replace("claims/x", b"2", first)
    assert not objects.replace("claims/x", b"3", first) and objects.versioned("claims/x")[0] == b"2"
    objects.delete("claims/x")
    assert not objects.replace("claims/x", b"3", first) and objects.get("claims/x") is None


def test_list_is_recursive_sorted_and_of_one_folder(objects):
    for key in ("a/2", "a/b/1", "a/10", "ab/1", "c"):
        objects.put(key, b"")
    assert objects.list("a") == ["a/10", "a/2", "a/b/1"]
    assert objects.list() == ["a/10", "a/2", "a/b/1", "ab/1", "c"]


def test_delete_removes_one(objects):
    objects.put("a/1", b"1")
    objects.put("a/2", b"2")
    objects.delete("a/1")
    assert objects.list() == ["a/2"]


def test_move_takes_an_object_or_all_of_a_folder(objects):
    for key in ("a/1", "a/b/2", "ab/3", "c"):
        objects.put(key, key.encode())
    objects.move("a", "trash/a")
    objects.move("c", "trash/d/c")
    objects.move("nothing", "trash/nothing")
    assert objects.list() == ["ab/3", "trash/a/1", "trash/a/b/2", "trash/d/c"]
    assert (objects.get("trash/a/b/2"), objects.get("trash/d/c")) == (b"a/b/2", b"c")


def test_set_aside_never_loses_bytes(objects):
    for data in (b"bad", b"worse", b"bad"):
        objects.put("x", data)
        objects.set_aside("x")
        assert not objects.exists("x")
    assert [objects.get(key) for key in ("x.damaged", "x.damaged-2", "x.damaged-3")] == [b"bad", b"worse", b"bad"]


def test_set_aside_leaves_alone_what_has_been_repaired(objects):
    objects.put("x", b"good")
    assert objects.set_aside("x", seen=b"bad") is None
    assert objects.get("x") == b"good"
    assert objects.list() == ["x"]


def test_what_is_published_has_any_name_but_one_that_leads_out(objects):
    objects.publish("small/paper", "student rate=0.2/events (1)", b"x")
    assert objects._backend.read("small/paper/student rate=0.2/events (1)") == b"x"
    for name in ("../x", "/x", "a//b", "a/../../b", "a\0b"):
        with pytest.raises(ValueError, match="could lead out"):
            objects.publish("small/paper", name, b"x")


def test_reject_names_the_object_and_where_it_is_kept(objects, caplog):
    objects.put("a/x", b"bad")
    objects.reject("a/x", b"bad", "cut short")
    assert "a/x is damaged (cut short)" in caplog.text
    assert "a/x.damaged" in caplog.text
    assert objects.get("a/x.damaged") == b"bad"


def test_probe_lists_its_own_folder_alone_and_leaves_nothing_behind(objects, monkeypatch):
    objects.put("runs/done/x", b"")
    place, listed = type(objects._backend), []
    names = place.names
    monkeypatch.setattr(place, "names", lambda self, folder: listed.append(folder) or names(self, folder))
    objects.probe()
    (folder,) = listed
    with pytest.raises(ValueError, match="cannot name a folder"):
        place_name(folder)  # of a sweep
    assert objects.list() == ["runs/done/x"]
    if objects.local:
        assert os.listdir(objects.local) == ["runs"]


def test_a_probe_that_fails_leaves_no_folder(local, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("kdtune.store.folder.os.replace", refuse)
    with pytest.raises(StorageError, match="No space left"):
        local.probe()
    assert os.listdir(local.local) == []


BAD_KEYS = [
    "",
    "/etc/x",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "a//b",
    "a/",
    "a\0b",
    "a\\b",
    "..%2fx",
    "a\nb",
    ".hidden",
    "~/x",
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_could_lead_out_is_refused(objects, key):
    for operation in (objects.get, objects.exists, objects.delete, objects.set_aside, objects.remove_leftovers):
        with pytest.raises(ValueError, match="cannot be the name"):
            operation(key)
    for operation in (objects.put, objects.create):
        with pytest.raises(ValueError, match="cannot be the name"):
            operation(key, b"x")
    if key:  # the empty key is the root, which may be listed
        with pytest.raises(ValueError, match="cannot be the name"):
            objects.list(key)


@given(st.text(max_size=30))
def test_every_key_that_is_taken_stays_inside(key):
    try:
        check_key(key)
    except ValueError:
        return
    assert os.path.normpath(f"/root/{key}") == f"/root/{key}"


# A local folder


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_link_that_leads_out_is_refused(tmp_path, local, what):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    local.put("a/x", b"x")
    (tmp_path / "results/a/link").symlink_to(outside if what == "folder" else outside / "secret")
    key = "a/link/secret" if what == "folder" else "a/link"
    for operation in (lambda: local.get(key), lambda: local.put(key, b"y"), lambda: local.delete(key)):
        with pytest.raises(StorageError, match=r"a/link is a link \(to .*; only the results folder itself and `runs`"):
            operation()
    assert local.list() == ["a/x"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    Objects(tmp_path / "results").put("a", b"x")
    assert (tmp_path / "disk/a").read_bytes() == b"x"


def test_a_link_inside_the_root_is_refused_too(tmp_path, local):
    """What one sweep clears away, another had written."""
    local.put("a/x", b"x")
    (tmp_path / "results/b").symlink_to(tmp_path / "results/a")
    with pytest.raises(StorageError, match="results/b is a link"):
        local.put("b/y", b"y")
    assert local.list() == ["a/x"]


def test_runs_may_lie_on_another_disk(tmp_path, local):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results/runs").symlink_to(tmp_path / "scratch")
    local.put("runs/a/x", b"x")
    assert local.create("runs/done/a", b"done")
    assert (tmp_path / "scratch/a/x").read_bytes() == local.get("runs/a/x") == b"x"
    assert local.list("runs") == ["runs/a/x", "runs/done/a"]
    local.move("runs/a", "runs/trash/1/a")
    assert local.list("runs") == ["runs/done/a", "runs/trash/1/a/x"]
    (tmp_path / "scratch/b").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="runs/b is a link"):
        local.put("runs/b/x", b"y")


def test_a_link_to_a_disk_that_is_not_mounted_is_no_empty_folder(tmp_path, local):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/runs").symlink_to(tmp_path / "gone")
    for operation in (lambda: local.list("runs"), lambda: local.get("runs/x"), lambda: local.put("runs/x", b"")):
        with pytest.raises(StorageError, match=r"runs is a link to .*gone, which is not there"):
            operation()


def test_a_link_is_found_before_anybody_writes_there(tmp_path, local):
    local.put("a/b/x", b"x")
    local.refuse_link("a/b")
    local.refuse_link("nowhere/at/all")
    (tmp_path / "results/c").symlink_to(tmp_path)
    for key in ("c", "c/d"):
        with pytest.raises(StorageError, match="results/c is a link"):
            local.refuse_link(key)


def test_a_file_uri_is_a_local_folder(tmp_path):
    objects = Objects(f"file://{tmp_path}/results")
    assert objects.local == tmp_path / "results"
    objects.put("a", b"x")
    assert (tmp_path / "results/a").read_bytes() == b"x"


def test_reading_makes_no_folder(tmp_path, local):
    local.get("a")
    local.list()
    assert list(tmp_path.iterdir()) == []


class Full:
    """Stands in for `open`: a file whose disk is full after a few bytes."""

    def __init__(self, descriptor: int, mode: str) -> None:
        self.file = os.fdopen(descriptor, mode)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_object_and_says_how_much_is_needed(tmp_path, local, monkeypatch):
    local.put("a/x", b"old")
    monkeypatch.setattr("kdtune.store.folder.open", Full, raising=False)
    for operation in (local.put, local.create):
        with pytest.raises(
            StorageError, match=r"a/[xy]: No space left .*\(1,000 bytes needed, .* free\); free some space"
        ):
            operation("a/x" if operation == local.put else "a/y", b"n" * 1000)
    monkeypatch.undo()
    assert local.get("a/x") == b"old"
    assert local.list() == ["a/x"]
    assert hidden(tmp_path) == []


def test_a_limit_on_file_sizes_leaves_the_old_object(tmp_path, local):
    local.put("x", b"old")
    script = (
        "import resource, sys; from kdtune.store.objects import Objects, StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))\n"
        "try: Objects(sys.argv[1]).put('x', b'n' * 1_000_000)\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "results")], capture_output=True, text=True, timeout=60
    )
    assert "File too large" in done.stdout and "ulimit" in done.stdout, done.stderr
    assert local.get("x") == b"old"
    assert hidden(tmp_path) == []


def test_a_file_in_the_way_is_explained(tmp_path):
    (tmp_path / "results").write_text("not a folder")
    objects = Objects(tmp_path / "results")
    assert objects.get("a/x") is None
    for operation in (lambda: objects.put("a/x", b""), objects.probe):
        with pytest.raises(StorageError, match="a file stands where a folder should be"):
            operation()


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_no_permission_is_explained(local, monkeypatch, number):
    def refuse(*_args, **_more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("kdtune.store.folder.os.makedirs", refuse)
    with pytest.raises(StorageError, match=f"{os.strerror(number)}; .*writable.* --results"):
        local.probe()


@pytest.mark.parametrize("times", [3, 1000])
def test_a_network_file_system_that_is_away_is_asked_again(local, monkeypatch, times):
    """faults 11: for a while. After that it is an error that says so."""
    local.put("x", b"1")
    real, left = os.replace, [times]

    def away(*args):
        left[0] -= 1
        if left[0] >= 0:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        real(*args)

    monkeypatch.setattr("kdtune.store.folder.os.replace", away)
    monkeypatch.setattr(backend, "PAUSE_S", (0.01, 0.05))
    monkeypatch.setattr(backend, "PATIENCE_S", 0.5)
    if times == 3:
        local.put("x", b"2")
        assert local.get("x") == b"2"
    else:
        with pytest.raises(StorageError, match="Stale file handle") as caught:
            local.put("x", b"2")
        assert caught.value.gone and local.get("x") == b"1"


def test_without_hard_links_create_and_set_aside_still_work(local, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("kdtune.store.folder.os.link", refuse)
    assert local.create("x", b"first")
    assert not local.create("x", b"second")
    assert local.set_aside("x") == "x.damaged"
    assert local.get("x.damaged") == b"first"


def test_leftovers_of_killed_writers_are_hidden_and_removed_once_old(tmp_path, local):
    local.put("a/x", b"x")
    old, fresh = tmp_path / "results/a/.x.123.tmp", tmp_path / "results/a/.y.456.tmp"
    old.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    assert local.list() == ["a/x"]
    local.remove_leftovers("a")
    assert hidden(tmp_path) == [fresh.name]


def test_a_reader_sees_old_or_new_never_a_mixture(local):
    blocks = [bytes([value]) * 200_000 for value in range(20)]
    local.put("x", blocks[0])
    seen: list[bytes | None] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(local.get("x"))

    reader = threading.Thread(target=read)
    reader.start()
    for block in blocks:
        local.put("x", block)
    stop.set()
    reader.join()
    assert len(seen) > 1
    assert all(data in blocks for data in seen)


def create_in_process(root, barrier, queue, number) -> None:
    objects = Objects(root)
    for key in range(20):
        barrier.wait()
        if objects.create(f"done/{key}", b"%d" % number):
            queue.put((key, number))
    queue.put(None)


def test_of_four_processes_exactly_one_creates(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(4), context.Queue()
    processes = [context.Process(target=create_in_process, args=(tmp_path, barrier, queue, n)) for n in range(4)]
    for process in processes:
        process.start()
    wins, ended = [], 0
    while ended < 4:
        item = queue.get(timeout=60)
        ended += item is None
        wins += [item] if item else []
    for process in processes:
        process.join()
    assert sorted(key for key, _ in wins) == list(range(20))
    assert all(Objects(tmp_path).get(f"done/{key}") == b"%d" % number for key, number in wins)


def test_bytes_are_on_the_disk_before_they_get_their_name(local, monkeypatch):
    calls = []
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    local.put("x", b"1")
    local.create("y", b"1")
    assert calls == ["fsync", "replace", "fsync", "fsync", "link", "fsync"]  # the second fsync is the folder's
    calls.clear()
    local.create("z", b"2", durable=False)
    assert calls == ["link"]
    assert local.get("z") == b"2"


def test_listing_thousands_is_quick(local):
    folder = local.local / "runs/done"
    folder.mkdir(parents=True)
    for number in range(3000):
        (folder / f"{number:012x}").touch()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert len(local.list("runs/done")) == 3000
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


def test_objects_travel_to_other_processes(local):
    local.put("x", b"1")
    assert pickle.loads(pickle.dumps(local)).get("x") == b"1"


# URIs


@pytest.mark.parametrize("uri", ["nothing://bucket/x", "s3://bucket?nonsense=1", "s3:///x", "az://container/x"])
def test_a_uri_that_cannot_be_used_is_explained(uri):
    with pytest.raises(StorageError, match=r"cannot use .*name a folder, or a bucket as s3://bucket/prefix"):
        Objects(uri)


@pytest.mark.parametrize(
    "uri", ["s3://key:secret@bucket/x", "s3://key:sec/secret@bucket", "s3://bucket?secret_access_key=a"]
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(StorageError, match="cannot use") as caught:
        Objects(uri)
    assert not {"secret@", "key:", "=a"} & set(re.findall(r"secret@|key:|=a\b", str(caught.value)))


def test_endpoint_and_region_are_in_no_address_of_an_object():
    objects = Objects("s3://bucket/prefix?region=eu-west-1&endpoint=http://localhost:1")
    assert objects.path("a/b") == "s3://bucket/prefix/a/b"


def test_importing_loads_no_library_of_buckets():
    script = (
        "import sys, kdtune.store\n"
        "print([name for name in ('torch', 'ray', 'pandas', 'pyarrow', 'numpy', 'obstore') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


ASKED = {
    "list": lambda objects: objects.list("a") == ["a/x"],
    "exists": lambda objects: objects.exists("a/x"),
    "get": lambda objects: objects.get("a/x") == b"1",
    "put": lambda objects: objects.put("a/y", b"2") is None,
    "create": lambda objects: objects.create("a/y", b"2"),
    "replace": lambda objects: objects.replace("a/x", b"2", b"1"),
    "delete": lambda objects: objects.delete("a/x") is None,
    "set aside": lambda objects: objects.set_aside("a/x") == "a/x.damaged",
    "move": lambda objects: objects.move("a", "b") is None,
}


@pytest.mark.parametrize("asked", ASKED)
def test_whatever_is_asked_of_a_network_file_system_that_is_away_is_asked_again(local, monkeypatch, asked):
    """faults 11: of each system call the first three say ESTALE."""
    local.put("a/x", b"1")
    monkeypatch.setattr(backend, "PAUSE_S", (0.001, 0.005))
    for name in ("open", "stat", "scandir", "replace", "link", "unlink", "rename", "mkdir"):
        real, left = getattr(os, name), [3]

        def away(path, *rest, real=real, left=left, **more):
            if str(local.local) in str(path) and left[0]:
                left[0] -= 1
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return real(path, *rest, **more)

        monkeypatch.setattr(os, name, away)
    assert ASKED[asked](local)


def test_a_folder_may_have_a_question_mark_in_its_name(tmp_path):
    objects = Objects(tmp_path / "r what?" / "x")
    assert objects.path("a/b") == objects.uri("a/b") == str(tmp_path / "r what?" / "x" / "a" / "b")
