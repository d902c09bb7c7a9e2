"""Objects by key: one contract for a folder and for a pyarrow filesystem, and what a folder adds to it."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from kdtune.store.objects import Objects, StorageError, check_key

KINDS = ("local", "subtree", "mock")


@pytest.fixture(params=KINDS)
def objects(request, tmp_path) -> Objects:
    return make_objects(request.param, tmp_path)


@pytest.fixture
def local(tmp_path) -> Objects:
    return Objects(tmp_path / "results")


def make_objects(kind: str, folder: Path) -> Objects:
    if kind == "local":
        return Objects(folder / "results")
    if kind == "subtree":
        (folder / "bucket").mkdir()
        return Objects("prefix", fs.SubTreeFileSystem(str(folder / "bucket"), fs.LocalFileSystem()))
    return Objects("mock:///bucket/prefix")


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


def test_reject_names_the_object_and_where_it_is_kept(objects, caplog):
    objects.put("a/x", b"bad")
    objects.reject("a/x", b"bad", "cut short")
    assert "a/x is damaged (cut short)" in caplog.text
    assert "a/x.damaged" in caplog.text
    assert objects.get("a/x.damaged") == b"bad"


def test_probe_leaves_nothing_behind(objects):
    objects.probe()
    assert objects.list() == []


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
        with pytest.raises(ValueError, match="leads out of"):
            operation()
    assert local.list() == ["a/x"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_the_root_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    Objects(tmp_path / "results").put("a", b"x")
    assert (tmp_path / "disk/a").read_bytes() == b"x"


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
    monkeypatch.setattr("kdtune.store.backends.open", Full, raising=False)
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

    monkeypatch.setattr("kdtune.store.backends.os.makedirs", refuse)
    with pytest.raises(StorageError, match=f"{os.strerror(number)}; .*writable.* --results"):
        local.probe()


def test_without_hard_links_create_and_set_aside_still_work(local, monkeypatch):
    def refuse(*_args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("kdtune.store.backends.os.link", refuse)
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
    local.put("x", b"2", durable=False)
    assert calls == ["replace"]
    assert local.get("x") == b"2"


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


@pytest.mark.parametrize(
    "uri", ["nothing://bucket/x", "s3://key:secret@bucket?nonsense=1", "s3://key:sec/secret@bucket", "mock://[bad"]
)
def test_a_uri_that_cannot_be_used_is_explained_without_its_secret(uri):
    with pytest.raises(StorageError, match=r"cannot use .*name a folder, or a bucket as s3://bucket/prefix") as caught:
        Objects(uri)
    assert "secret" not in str(caught.value)


def test_secrets_of_a_uri_are_in_no_message(tmp_path):
    objects = Objects("s3://key:secret@bucket/prefix?region=eu-west-1&endpoint_override=localhost%3A1")
    assert objects.path("a/b") == "s3://bucket/prefix/a/b"


def test_importing_loads_no_pyarrow():
    script = (
        "import sys, kdtune.store\n"
        "print([name for name in ('torch', 'ray', 'pandas', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
