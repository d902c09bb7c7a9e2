"""Bundles: what one holds, that it is the same each time, and everything that is refused in one of somebody else's."""

from __future__ import annotations

import errno
import gzip
import io
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import bundles
import pytest
from bundles import FOLDER, HASH, OTHER_HASH, PROFILE, SWEEP
from click.testing import CliRunner

from kdtune.__main__ import main
from kdtune.store.bundle import Bundle
from kdtune.store.bundling import contents, write
from kdtune.store.encoding import digest, seal
from kdtune.store.objects import Objects
from kdtune.store.tar import BundleError


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Results and the bundle of them, not to be changed."""
    return bundles.bundled(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def results(filled: SimpleNamespace, tmp_path: Path) -> Path:
    """A copy of them."""
    return shutil.copytree(filled.root, tmp_path / "results")


def bundled(results: Path, path: Path, ids: list[str]) -> str:
    objects = Objects(results)
    return write(objects, contents(objects, SWEEP, PROFILE, ids), path)


# Writing


def test_a_bundle_holds_finished_runs_and_the_sweeps_folder_and_nothing_else(filled: SimpleNamespace) -> None:
    store = filled.store
    expected = {f"{FOLDER}/{name}" for name in ("sweep.yaml", "plan.json", "results.csv", "results.parquet")}
    expected |= {f"{FOLDER}/report.html", f"{FOLDER}/figures/figure1.png"}
    for id in filled.ids:
        done = store.done(id)
        expected |= {f"runs/done/{id}", *(f"runs/{id}/{done.attempt}/{name}" for name in done.files)}
    first, second = (f"runs/{id}/{store.done(id).attempt}/evaluations" for id in filled.ids[:2])
    expected |= {f"{first}/{HASH}.json", f"{first}/{HASH}.npz", f"{first}/{OTHER_HASH}.json"}
    expected |= {f"{second}/{HASH}.json", f"{second}/{HASH}.npz"}
    assert set(filled.files) == expected and any(name.endswith("labels.npz") for name in expected)
    assert all(data == (filled.root / name).read_bytes() for name, data in filled.files.items())
    about = bundles.about_of(filled.bundle)
    assert about["members"] == {name: digest(data) for name, data in filled.files.items()}
    assert (about["format"], about["sweep"], about["profile"]) == (1, SWEEP, PROFILE)
    held = contents(store.objects, SWEEP, PROFILE, filled.all)
    assert (held.runs, held.left) == (filled.ids, [filled.failed])


def test_its_headers_say_nothing_of_who_wrote_it_and_when(filled: SimpleNamespace) -> None:
    with tarfile.open(fileobj=io.BytesIO(filled.bundle)) as archive:
        members = archive.getmembers()
    assert {(each.uid, each.gid, each.uname, each.gname, each.mtime, each.mode) for each in members} == {
        (0, 0, "", "", 0, 0o644)
    }
    names = [each.name for each in members]
    assert names == ["manifest.json", *sorted(names[1:])]


def test_the_same_results_give_the_same_bytes(filled: SimpleNamespace, results: Path, tmp_path: Path) -> None:
    for path in results.rglob("*"):
        os.utime(path, (time.time() - 1e6,) * 2)
    bundled(results, tmp_path / "one.tar", filled.all)
    bundled(results, tmp_path / "two.tar", filled.all[::-1])
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes() == filled.bundle


def test_tarfile_writes_the_same(filled: SimpleNamespace) -> None:
    """So the tests below differ from a good bundle by what they are about, and by nothing else."""
    assert bundles.packed(dict(sorted(filled.files.items()))) == filled.bundle


def test_what_is_there_is_never_overwritten(filled: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "small.tar"
    path.symlink_to("nowhere")
    with pytest.raises(BundleError, match="is there already"):
        bundled(filled.root, path, filled.ids)
    path.unlink()
    path.write_text("mine")
    with pytest.raises(BundleError, match="is there already"):
        bundled(filled.root, path, filled.ids)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_nor_what_comes_to_be_there_meanwhile(
    filled: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path, link = tmp_path / "small.tar", os.link

    def another(source: str | Path, target: str | Path) -> None:
        Path(target).write_text("mine")
        if not links:
            raise PermissionError(errno.EPERM, "no links here")
        link(source, target)

    monkeypatch.setattr(os, "link", another)
    with pytest.raises(BundleError, match="is there already"):
        bundled(filled.root, path, filled.ids)
    assert path.read_text() == "mine" and list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_links_will_do(
    filled: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: str | Path, target: str | Path) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refused)
    bundled(filled.root, tmp_path / "small.tar", filled.ids)
    assert (tmp_path / "small.tar").read_bytes() == filled.bundle and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "history.jsonl", "provenance.json", "labels.npz", "run.yaml", f"{HASH}.json", f"{HASH}.npz"],
)
@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_damaged_file_is_named_and_nothing_is_left_behind(
    filled: SimpleNamespace, results: Path, tmp_path: Path, name: str, harm: str
) -> None:
    harmed = max(path for path in results.glob(f"runs/{filled.ids[1]}/*/**/*") if path.name.endswith(name))
    if harm == "missing":
        harmed.unlink()
    else:
        harmed.write_bytes(harmed.read_bytes()[:-1] + b"x")
    path = tmp_path / "small.tar"
    if (name, harm) == (f"{HASH}.json", "missing"):  # it was never measured
        bundled(results, path, filled.ids)
        assert f"{HASH}.npz" not in " ".join(
            each for each in bundles.opened(path.read_bytes()) if filled.ids[1] in each
        )
        return
    with pytest.raises(BundleError, match=f"{harmed} is {harm}"):
        bundled(results, path, filled.ids)
    assert sorted(tmp_path.iterdir()) == [results]


def test_a_full_disk_leaves_nothing_behind(
    filled: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BundleError, match=r"cannot write .*small\.tar: No space left on device"):
        bundled(filled.root, tmp_path / "small.tar", filled.ids)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BundleError, match="No such file or directory"):
        bundled(filled.root, tmp_path / "nowhere/small.tar", filled.ids)


def test_names_that_a_tar_or_a_store_cannot_hold(filled: SimpleNamespace, results: Path, tmp_path: Path) -> None:
    figures = results / FOLDER / "figures"
    for odd in ("with blanks.png", ".hidden", "ü.png"):
        (figures / odd).write_text("odd")
    bundled(results, tmp_path / "small.tar", filled.ids)
    assert (tmp_path / "small.tar").read_bytes() == filled.bundle, "odd ones are no objects, and left out"
    (figures / ("long" * 30 + ".png")).write_text("long")
    with pytest.raises(BundleError, match=r"long\.png cannot stand in a tar archive"):
        bundled(results, tmp_path / "long.tar", filled.ids)
    with pytest.raises(BundleError, match="'runs/done' is no folder that a sweep has"):
        contents(filled.store.objects, "runs", "done", filled.ids)


def test_a_run_that_is_not_what_it_is_called_is_not_handed_on(filled: SimpleNamespace, results: Path) -> None:
    id, other = filled.ids[0], "0123456789ab"
    shutil.copytree(results / "runs" / id, results / "runs" / other)
    shutil.copy(results / "runs/done" / id, results / "runs/done" / other)
    with pytest.raises(BundleError, match=f"run {other} is not what its run.yaml describes: that is run {id}"):
        contents(Objects(results), SWEEP, PROFILE, [other])


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same of a search. Not to be changed."""
    root = tmp_path_factory.mktemp("searched")
    return bundles.with_search(bundles.fill(root / "results"), root)


def test_what_its_search_has_proposed_is_in_it_and_of_no_other_search(searched: SimpleNamespace) -> None:
    assert sorted(name for name in searched.files if name.startswith("searches/")) == sorted(searched.proposals)
    assert all(searched.files[name] == searched.store.objects.get(name) for name in searched.proposals)
    bundle = Bundle(io.BytesIO(searched.bundle))
    assert bundle.search == bundles.SEARCH and [*bundle.proposals] == [10, 2]


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_damaged_proposal_is_named_and_not_handed_on(tmp_path: Path, harm: str) -> None:
    made = bundles.with_search(bundles.fill(tmp_path / "results"), tmp_path)
    path = tmp_path / "results" / made.proposals[0]
    held = contents(made.store.objects, SWEEP, PROFILE, made.all)
    path.write_bytes(path.read_bytes().replace(b"345", b"346"))
    with pytest.raises(BundleError, match=rf"{path}, which the sweep's own command makes anew, is damaged"):
        contents(made.store.objects, SWEEP, PROFILE, made.all)
    if harm == "missing":  # since it was looked at
        path.unlink()
    with pytest.raises(BundleError, match=f"{path} is {harm}"):
        write(made.store.objects, held, tmp_path / "other.tar")
    assert not (tmp_path / "other.tar").exists()


PROPOSAL = f"searches/{bundles.SEARCH}/2.json"
ODD = {
    "of no search of its": {f"searches/{bundles.OTHER_SEARCH}/2.json": seal({"point": {}, "drew_from": "", "by": ""})},
    "climbing": {f"searches/{bundles.SEARCH}/../2.json": b"x"},
    "below": {f"searches/{bundles.SEARCH}/x/2.json": b"x"},
    "two names of one": {f"searches/{bundles.SEARCH}/02.json": b"x"},
    "of no number": {f"searches/{bundles.SEARCH}/-2.json": b"x"},
    "unsealed": {PROPOSAL: b'{"point": {}, "drew_from": "", "by": ""}'},
    "no record": {PROPOSAL: seal({"point": [], "drew_from": "", "by": ""})},
    "without a field": {PROPOSAL: seal({"point": {}, "by": ""})},
    "text": {PROPOSAL: b"\xff"},
    "of two megabytes": {PROPOSAL: seal({"point": {"x": "1" * 2_000_000}, "drew_from": "", "by": ""})},
}


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_proposal_is_refused_before_anything_is_written(
    searched: SimpleNamespace, tmp_path: Path, odd: str
) -> None:
    path, results = tmp_path / "bad.tar", tmp_path / "results"
    path.write_bytes(bundles.packed({**searched.files, **ODD[odd]}))
    done = CliRunner().invoke(main, ["import", str(path), "--results", str(results)])
    assert done.exit_code == 4 and re.search("no place in a bundle|is damaged|make sense", done.stderr), done.output
    assert "nothing was written" in done.stderr and not results.exists()


def test_of_a_sweep_without_a_search_a_proposal_has_no_place(filled: SimpleNamespace) -> None:
    with pytest.raises(BundleError, match=f"'{PROPOSAL}' has no place in a bundle"):
        Bundle(io.BytesIO(bundles.packed({**filled.files, PROPOSAL: seal({"point": {}, "drew_from": "", "by": ""})})))


# Reading


def test_a_bundle_is_read_as_it_was_written(filled: SimpleNamespace) -> None:
    bundle = Bundle(io.BytesIO(filled.bundle))
    assert list(bundle.runs) == sorted(filled.ids) and bundle.folder == FOLDER
    assert {name: bundle.read(name) for name in filled.files} == filled.files
    assert sorted(bundle.view) == sorted(name for name in filled.files if name.startswith(FOLDER))
    assert bundle.runs[filled.ids[0]].evaluations == {HASH: True, OTHER_HASH: False}
    assert bundle.runs[filled.ids[2]].weights is None, "it diverged"


Bad = Callable[[SimpleNamespace], bytes]
BAD: dict[str, tuple[Bad, str]] = {}


def bad(name: str, said: str, make: Bad) -> None:
    assert name not in BAD
    BAD[name] = (make, said)


def linked(kind: bytes, to: str = "") -> Bad:
    """A good bundle and a member of another kind behind it."""

    def make(made: SimpleNamespace) -> bytes:
        info = bundles.plain(f"{FOLDER}/figures/x.png")
        info.type, info.linkname = kind, to
        return bundles.packed(made.files, more=((info, b""),))

    return make


def named(name: str, data: bytes = b"x", in_manifest: bool = True) -> Bad:
    """A good bundle and a member of this name, which its manifest has too, or has not."""

    def make(made: SimpleNamespace) -> bytes:
        files = {**made.files, name: data}
        manifest = None if in_manifest else bundles.manifest_of(made.files)
        return bundles.packed(files, manifest)

    return make


def sized(size: int, form: int = tarfile.USTAR_FORMAT) -> Bad:
    """A manifest, and a file that says to be of this size."""

    def make(made: SimpleNamespace) -> bytes:
        manifest = bundles.manifest_of(made.files)
        behind = 512 + len(manifest) + -len(manifest) % 512
        head = bundles.plain("small/paper/plan.json", size).tobuf(form)
        return bundles.packed({}, manifest)[:behind] + head + bytes(20 * 512)

    return make


for cut in (0, 1, 511, 512, 1024, 5000, 20_000, -10_240, -1024, -513, -1):
    said = "it is no tar archive" if 0 <= cut < 512 else "cut short|more than are there"
    bad(f"cut at {cut}", said, lambda made, cut=cut: made.bundle[: cut if cut >= 0 else len(made.bundle) + cut])
bad("text", "it is no tar archive", lambda made: b"hello\n" * 1000)
bad("gzip", "it is no tar archive", lambda made: gzip.compress(made.bundle))
bad("zeros", "does not begin with a manifest.json", lambda made: bytes(10_240))
bad("twice", "something follows behind its end", lambda made: made.bundle * 2)
bad("tail", "something follows behind its end", lambda made: made.bundle[:-1] + b"x")

bad("no manifest", "does not begin with a manifest.json", lambda made: bundles.packed(made.files, b""))
bad(
    "manifest last",
    "does not begin with a manifest.json",
    lambda made: bundles.packed({**made.files, "manifest.json": bundles.manifest_of(made.files)}, b""),
)
bad(
    "newer",
    "it is of format 2, and this kdtune knows none above 1: get a newer one",
    lambda made: bundles.packed(made.files, bundles.manifest_of(made.files, format=2, sweep=["new"])),
)
for name, manifest in {
    "is text": b"hello",
    "is a list": b"[]",
    "is deep": b"[" * 100_000,
    "has no format": seal({"members": {}}),
    "of format 0": seal({"format": 0, "sweep": SWEEP, "profile": PROFILE, "members": {}}),
    "is unsealed": b'{"format": 1, "members": {}}',
}.items():
    bad(f"manifest {name}", "manifest.json is damaged", lambda made, data=manifest: bundles.packed(made.files, data))
for about in (
    {"sweep": "../x"},
    {"sweep": "runs"},
    {"sweep": "RUNS"},
    {"sweep": "searches"},
    {"profile": "/x"},
    {"profile": ".."},
    {"profile": None},
    {"members": {"x": "y"}},
    {"members": ["x"]},
):
    bad(
        f"manifest says {about}",
        "manifest.json is damaged: it is not as",
        lambda made, about=about: bundles.packed(made.files, bundles.manifest_of(made.files, **about)),
    )

CLIMBING = (
    "../x",
    "runs/../../x",
    "runs/done/../../x",
    "/x",
    "//x",
    "./x",
    "small/paper/../../x",
    "small//x",
    "..%2fx",
)
for climbing in (*CLIMBING, "small\\paper", "..\\x", "runs/done/..", "runs", "small/paper/figures/.x", "x y", "a\nb"):
    bad(f"name {climbing!r}", "has no place in a bundle|cannot be used", named(climbing))
    bad(f"name {climbing!r} beyond", "is in it and its manifest does not name it", named(climbing, in_manifest=False))
bad("name with NUL", "'small/paper/figures/a' is a file of a kind", named("small/paper/figures/a\0b"))
bad(
    "no ASCII",
    "has no place|does not write",
    lambda made: bundles.packed(made.files, more=((bundles.plain("ü"), b""),)),
)
for beyond in (
    "other/paper/plan.json",
    "small/laptop/plan.json",
    "small/paper/figures/deep/x.png",
    "small/paper/tensorboard/x",
    "runs/claims/0123456789ab",
    "runs/trash/x",
    "runs/imports/0123456789ab",
    "runs/0123456789ab/20261120T101500123456-9f03ab/run.yaml",
    ".lock",
):
    bad(f"beyond: {beyond}", "has no place in a bundle", named(beyond))
bad("beyond: checkpoint", "has no place", lambda made: named(f"{attempt(made)}/checkpoints/00001.json")(made))
bad("beyond: failure", "has no place", lambda made: named(f"{attempt(made)}/failure.json")(made))
bad("beyond: arrays", "has no place", lambda made: named(f"{attempt(made)}/evaluations/{OTHER_HASH}00.npz")(made))
for rows in (b'{"train/loss": 1.0}\n', b'{"epoch": "1"}\n', b"[1]\n", b"{"):
    bad(
        f"history {rows!r}",
        "the history.jsonl of run [0-9a-f]{12} cannot be used",
        lambda made, rows=rows: bundles.packed(bundles.with_file(made.files, made.ids[0], "history.jsonl", rows)),
    )
bad("no id", "is not a run's id: 12 hex digits", named("runs/done/zzzzzzzzzzzz"))
bad("empty record", "cannot be used", named("runs/done/0123456789ab"))

for word, kind in {
    "a symbolic link": tarfile.SYMTYPE,
    "a hard link": tarfile.LNKTYPE,
    "a device": tarfile.CHRTYPE,
    "a device that": tarfile.BLKTYPE,
    "a device that `kdtune": tarfile.FIFOTYPE,
    "a folder": tarfile.DIRTYPE,
    "a file of a kind": tarfile.CONTTYPE,
    "a file of a kind,": tarfile.GNUTYPE_SPARSE,
    "a file of a kind, an": tarfile.GNUTYPE_LONGNAME,
    "a file of a kind, an owner": tarfile.XHDTYPE,
    "a file of a kind, an owner,": tarfile.XGLTYPE,
}.items():
    bad(f"kind {kind!r}", f"figures/x.png' is {word}", linked(kind, "../../../x"))
bad("link instead", "plan.json' is a symbolic link", lambda made: symlinked(made, f"{FOLDER}/plan.json"))
bad(
    "stands twice",
    "stands in it twice",
    lambda made: bundles.packed(made.files, more=((bundles.plain("runs"), b""),) * 2),
)
bad("huge", "says that it has 8,000,000,000 bytes, more than are there", sized(8_000_000_000))
bad("of a terabyte", "that `kdtune bundle` does not write", sized(1 << 40, tarfile.GNU_FORMAT))
bad("an owner", "a file of a kind, an owner", lambda made: with_owner(made))


def attempt(made: SimpleNamespace, number: int = 0) -> str:
    return f"runs/{made.ids[number]}/{made.store.done(made.ids[number]).attempt}"


def symlinked(made: SimpleNamespace, name: str) -> bytes:
    info = bundles.plain(name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    files = {key: data for key, data in made.files.items() if key != name}
    return bundles.packed(files, bundles.manifest_of(made.files), more=((info, b""),))


def with_owner(made: SimpleNamespace) -> bytes:
    info = bundles.plain(f"{FOLDER}/figures/x.png")
    info.uname = "somebody"
    return bundles.packed(made.files, more=((info, b""),))


def without(made: SimpleNamespace, ending: str) -> dict[str, bytes]:
    kept = {name: data for name, data in made.files.items() if not name.endswith(ending)}
    assert len(kept) < len(made.files)
    return kept


def flipped(made: SimpleNamespace, ending: str) -> bytes:
    """One bit of a file is another, and neither its manifest nor its size."""
    (data,) = {data for name, data in made.files.items() if name.endswith(ending)}
    at = made.bundle.index(data)
    return made.bundle[:at] + bytes([made.bundle[at] ^ 1]) + made.bundle[at + 1 :]


for ending in ("results.parquet", "report.html", "figure1.png"):
    bad(
        f"flipped {ending}", f"{ending} is damaged: it does not fit its digest", lambda made, e=ending: flipped(made, e)
    )
bad("flipped weights", "safetensors is damaged", lambda made: flipped(made, f"{attempt(made)}/model.safetensors"))
bad("flipped record", "is damaged", lambda made: flipped(made, f"runs/done/{made.ids[0]}"))
for name in ("plan.json", "results.csv", "model.safetensors", "labels.npz", f"{OTHER_HASH}.json"):
    bad(
        f"lacks {name}",
        f"{name}' is in its manifest alone",
        lambda made, name=name: bundles.packed(without(made, name), bundles.manifest_of(made.files)),
    )
for name in ("plan.json", "sweep.yaml", "model.safetensors", "labels.npz", "history.jsonl"):
    bad(f"never had {name}", f"{name} is missing", lambda made, name=name: bundles.packed(without(made, name)))
bad("never had run.yaml", "run.yaml is missing", lambda made: bundles.packed(without(made, "run.yaml")))
bad("never had arrays", "arrays beside it do not fit", lambda made: bundles.packed(without(made, ".npz")))
bad(
    "other weights than its record's",
    "model.safetensors is not the file that its run's record vouches for",
    lambda made: bundles.packed({**made.files, f"{attempt(made)}/model.safetensors": b"others"}),
)
bad(
    "numbers of other weights",
    "it was measured on other weights",
    lambda made: bundles.packed(bundles.with_file(made.files, made.ids[1], "model.safetensors", b"others")),
)
bad(
    "a record of odd files",
    "it vouches for '../../x'",
    lambda made: bundles.packed(bundles.with_file(made.files, made.ids[1], "../../x", b"others")),
)
for why, description in {
    "of another": {**bundles.describe(0), "seed": 7},
    "without a seed": {},
}.items():
    bad(
        f"description {why}",
        r"run \w{12} is not what its run.yaml describes: that is run \w{12}",
        lambda made, described=description: bundles.packed(bundles.described_as(made.files, made.ids[0], described)),
    )
for why, text in {
    "deep": b"a: " + b"[" * 500_000,
    "with aliases": b"a: &a [1]\nb: [*a]\n",
    "with a tag": b"!!python/object/apply:os.system ['echo no']",
    "with a date": b"seed: 2001-01-01\n",
    "with keys of two kinds": b"1: a\nb: c\n",
    "of no text": b"\xff\xfe",
}.items():
    bad(
        f"description {why}",
        "cannot be read",
        lambda made, text=text: bundles.packed(bundles.described_as(made.files, made.ids[0], text)),
    )
bad(
    "description too large",
    "run.yaml has 1,500,006 bytes; at most 1,048,576 make sense",
    lambda made: bundles.packed(bundles.described_as(made.files, made.ids[0], b"seed: " + b"1" * 1_500_000)),
)


@pytest.mark.parametrize("case", BAD)
def test_everything_else_is_refused_before_anything_is_written(
    filled: SimpleNamespace, tmp_path: Path, case: str
) -> None:
    make, said = BAD[case]
    path, results = tmp_path / "bad.tar", tmp_path / "below" / "results"
    path.write_bytes(make(filled))
    assert path.read_bytes() != filled.bundle
    with path.open("rb") as file, pytest.raises(BundleError, match=said):
        Bundle(file)
    done = CliRunner().invoke(main, ["import", str(path), "--results", str(results)])
    assert done.exit_code == 4, done.output
    assert done.stderr.startswith(f"refused: {path} is not taken in: ") and "nothing was written" in done.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_changes_after_it_was_looked_at_is_noticed(filled: SimpleNamespace) -> None:
    file = io.BytesIO(filled.bundle)
    bundle = Bundle(file)
    file.seek(0)
    file.write(flipped(filled, "results.parquet"))
    with pytest.raises(BundleError, match=r"results\.parquet is damaged"):
        bundle.read(f"{FOLDER}/results.parquet")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, status in (("pipe", 2), ("nothing", 2), (".", 2)):
        done = CliRunner().invoke(main, ["import", str(tmp_path / name), "--results", str(tmp_path / "results")])
        assert done.exit_code == status, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_memory_holds_a_piece_of_what_is_only_looked_at(filled: SimpleNamespace, tmp_path: Path) -> None:
    """Weights are large: of 40 MiB of a figure no more than a piece is held at a time."""
    import tracemalloc

    files = {**filled.files, f"{FOLDER}/figures/large.png": bytes(40 << 20)}
    path = tmp_path / "large.tar"
    path.write_bytes(bundles.packed(files))

    def peak() -> Iterator[int]:
        tracemalloc.start()
        with path.open("rb") as file:
            Bundle(file)
        yield tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

    (most,) = peak()
    assert most < 8 << 20
