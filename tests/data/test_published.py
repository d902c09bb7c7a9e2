from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import sklearn.datasets
from torchvision import datasets

from kdtune.data import fetch
from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.data.sets import published
from kdtune.data.sets.published import Published, content_digest

REAL = Path(__file__).parents[3] / "shared" / "data"
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def named(kind: str) -> Published:
    one = Dataset.model_validate(kind)
    assert isinstance(one, Published)
    return one


def real_files(kind: str) -> Path:
    folder = REAL / kind.replace("_", "-") / FOLDERS[kind] / "raw"
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}")
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", refused)


# --- constants


@pytest.mark.parametrize(("kind", "source"), [("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)])
def test_cifar_is_known_by_its_archive(kind: str, source: type[datasets.CIFAR10], tmp_path: Path) -> None:
    assert named(kind).digest(tmp_path) == source.tgz_md5
    assert named(kind).checked


def test_titles() -> None:
    titles = ["CIFAR-10", "CIFAR-100", "MNIST", "Fashion-MNIST", "digits (8 x 8, scikit-learn)"]
    kinds = [kind for kind in Dataset.kinds().values() if issubclass(kind, Published)]
    assert [kind.title for kind in kinds] == titles
    assert [named(kind.key).title for kind in kinds] == titles


# --- digits


def test_digits_as_documented(tmp_path: Path) -> None:
    bunch = sklearn.datasets.load_digits()
    arrays = named("digits").read(tmp_path)
    places = {
        "train": [index for index in range(1400) if index % 3 != 2],
        "test": list(range(2, 1400, 3)),
        "writers": list(range(1400, 1797)),
    }
    assert list(arrays.splits) == list(places) and len(places["writers"]) == 397
    for name, (images, labels) in arrays.splits.items():
        assert labels.tolist() == bunch.target[places[name]].tolist()
        for image, index in zip(images, places[name], strict=True):
            assert image.tolist() == [[[int(v * 255 / 16 + 0.5) for v in row] for row in bunch.images[index]]]
    assert len(arrays.splits["train"][1]) == named("digits").counts()[0]
    assert arrays.splits["train"][0].shape[1:] == named("digits").shape()
    assert arrays.splits["train"][0].max() == 255 and list(arrays.class_names) == [str(n) for n in bunch.target_names]


def test_other_digits_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = published.read_digits()
    table[1500, -1] += 1
    monkeypatch.setattr(published, "read_digits", lambda: table)
    with pytest.raises(DataError, match=r"digits .* not the published ones .*0b9464ec3276aea2"):
        named("digits").read(tmp_path)


CUT = gzip.compress(b"1,2\n" * 99, mtime=0)[:20]  # without a time: it would be part of the names of tests


@pytest.mark.parametrize("content", [None, b"1,2", gzip.compress(b"1,x\n", mtime=0), CUT])
def test_digits_that_cannot_be_read(content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "datasets/data/digits.csv.gz"
    if content is not None:
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    package = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(published, "find_spec", lambda name: package)
    with pytest.raises(DataError, match=r"digits.csv.gz: .*install scikit-learn"):
        named("digits").read(tmp_path)


def test_digits_need_no_import_of_scikit_learn() -> None:
    code = (
        "import sys; from kdtune.data.sets.published import read_digits; read_digits();print('sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# --- MNIST and Fashion-MNIST


@pytest.mark.parametrize("kind", FOLDERS)
def test_real_files_gzipped_or_not(kind: str, tmp_path: Path) -> None:
    raw = tmp_path / FOLDERS[kind] / "raw"
    raw.mkdir(parents=True)
    for file in real_files(kind).glob("*.gz"):
        (raw / file.name).symlink_to(file)
    zipped = named(kind).read(tmp_path)
    for file in list(raw.iterdir()):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    arrays = named(kind).read(tmp_path)
    assert content_digest(arrays) == content_digest(zipped) == named(kind).digest(tmp_path)
    for name, (images, labels) in arrays.splits.items():  # torchvision reads the same
        theirs = getattr(datasets, FOLDERS[kind])(tmp_path, train=name == "train")
        assert numpy.array_equal(theirs.data.numpy()[:, None], images)
        assert numpy.array_equal(theirs.targets.numpy(), labels)
        assert list(arrays.class_names) == [each.split(" - ")[0] for each in theirs.classes]
        assert images.flags.writeable and images.shape[1:] == named(kind).shape()
    assert len(arrays.splits["train"][1]) == named(kind).counts()[0]


@pytest.mark.parametrize("damage", ["cut", "a byte of an image", "a label", "empty", "bad gzip"])
def test_damaged_files_are_refused(damage: str, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(real_files("mnist"), tmp_path / "MNIST" / "raw"))
    name = "t10k-labels-idx1-ubyte" if damage == "a label" else "t10k-images-idx3-ubyte"
    content = bytearray(gzip.decompress((raw / f"{name}.gz").read_bytes()))
    if damage == "bad gzip":
        (raw / f"{name}.gz").chmod(0o644)
        (raw / f"{name}.gz").write_bytes((raw / f"{name}.gz").read_bytes()[:-2000])
    elif damage in ("cut", "empty"):
        (raw / name).write_bytes(content[:-5] if damage == "cut" else b"")
    else:
        content[100] ^= 1
        (raw / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: damaged" if damage in ("cut", "empty", "bad gzip") else "published"):
        named("mnist").read(tmp_path)


# --- CIFAR, on small files of its format


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """torchvision's CIFAR10 made to expect an archive of six batches of four images, which a local server holds."""
    random, kind = numpy.random.default_rng(0), datasets.CIFAR10
    archive, images, labels = tmp_path / "made" / kind.filename, [], []
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:

        def add(name: str, entry: dict[str, object]) -> str:
            content = pickle.dumps(entry)
            member = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            return hashlib.md5(content).hexdigest()

        batches = []
        for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
            images.append(random.integers(0, 256, (4, 3, 32, 32), dtype=numpy.uint8))
            labels.append(random.integers(0, 10, 4).tolist())
            batches.append([name, add(name, {"data": images[-1].reshape(4, -1), "labels": labels[-1]})])
        meta = add("batches.meta", {"label_names": [f"class {n}" for n in range(10)]})
    monkeypatch.setattr(kind, "train_list", batches[:5])
    monkeypatch.setattr(kind, "test_list", batches[5:])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": meta})
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.command)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(archive.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        yield SimpleNamespace(archive=archive, images=images, labels=labels, folder=kind.base_folder, asked=asked)
        server.shutdown()


def check_small_cifar(made: SimpleNamespace, data_dir: Path) -> None:
    arrays = named("cifar10").read(data_dir)
    assert numpy.array_equal(arrays.splits["train"][0], numpy.concatenate(made.images[:5]))
    assert numpy.array_equal(arrays.splits["test"][0], made.images[5])
    assert arrays.splits["train"][1].tolist() == list(chain(*made.labels[:5]))
    assert arrays.splits["test"][1].tolist() == made.labels[5] and arrays.splits["test"][1].dtype == numpy.int64
    assert arrays.class_names == tuple(f"class {n}" for n in range(10))


def test_cifar_is_downloaded_once_and_put_in_place(
    small_cifar: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "data"
    check_small_cifar(small_cifar, data_dir)
    assert len(list((data_dir / small_cifar.folder).iterdir())) == 7
    assert [path.name for path in data_dir.iterdir() if path.suffix != ".lock"] == [small_cifar.folder]
    assert capfd.readouterr().out == ""  # standard output may be read by a program
    asked = len(small_cifar.asked)
    check_small_cifar(small_cifar, data_dir)
    assert len(small_cifar.asked) == asked > 0


def test_two_at_once_download_once(small_cifar: SimpleNamespace, tmp_path: Path) -> None:
    check_small_cifar(small_cifar, tmp_path / "alone")
    alone = len(small_cifar.asked)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: check_small_cifar(small_cifar, tmp_path / "shared"), range(2)))
    assert len(small_cifar.asked) == 2 * alone


@pytest.mark.usefixtures("offline")
def test_an_archive_put_there_by_hand_is_unpacked(small_cifar: SimpleNamespace, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    small_cifar.archive.rename(data_dir / small_cifar.archive.name)
    check_small_cifar(small_cifar, data_dir)


def test_a_damaged_batch_is_never_unpickled_but_fetched_again(small_cifar: SimpleNamespace, tmp_path: Path) -> None:
    check_small_cifar(small_cifar, tmp_path)
    batch = tmp_path / small_cifar.folder / "data_batch_2"
    batch.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(tmp_path / "planted"))
    check_small_cifar(small_cifar, tmp_path)
    batch.write_bytes(batch.read_bytes()[:-1])
    small_cifar.archive.unlink()
    with pytest.raises(DataError, match="CIFAR10 is missing or damaged"):
        named("cifar10").read(tmp_path)
    assert not (tmp_path / "planted").exists()


# --- downloads that fail


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("kind", "put"),
    [
        ("cifar10", "cifar-10-batches-py or the archive cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python or the archive cifar-100-python.tar.gz"),
        ("mnist", "MNIST/raw/ with train-images-idx3-ubyte, "),
        ("fashion_mnist", "FashionMNIST/raw/ with train-images-idx3-ubyte, "),
    ],
)
def test_without_a_network_one_error_says_what_to_put_where(kind: str, put: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        named(kind).read(tmp_path)
    message = str(caught.value)
    assert put in message and str(tmp_path) in message and "unreachable" in message and "\n" not in message
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    assert socket.getdefaulttimeout() is None


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """Promises 1000 bytes to everyone, sends 10, and then either hangs up or says nothing more."""
    listening = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            connection.recv(65536)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789")
            held.append(connection)
            if request.param == "hangs up":
                connection.shutdown(socket.SHUT_RDWR)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for connection in held:
        connection.close()
    thread.join(5)


@pytest.mark.parametrize("server", ["hangs up", "falls silent"], indirect=True)
def test_a_download_that_breaks_leaves_nothing(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [server])
    with pytest.raises(DataError, match=r"MNIST is missing or damaged .* cannot be downloaded"):
        named("mnist").read(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == []


FETCH = """
import sys, time
from pathlib import Path
from torchvision import datasets
from kdtune.data.dataset import Dataset
url, md5, lists, gate, data = sys.argv[1:]
kind = datasets.CIFAR10
kind.url, kind.tgz_md5 = url, md5
kind.train_list, kind.test_list, kind.meta = eval(lists)
print("ready", flush=True)
while not Path(gate).exists():
    time.sleep(0.001)
print(len(Dataset.model_validate("cifar10").read(Path(data)).splits["train"][1]))
"""


def test_two_processes_download_once(small_cifar: SimpleNamespace, tmp_path: Path) -> None:
    """faults 16."""
    check_small_cifar(small_cifar, tmp_path / "alone")
    alone, kind = len(small_cifar.asked), datasets.CIFAR10
    lists = repr((kind.train_list, kind.test_list, kind.meta))
    words = [kind.url, kind.tgz_md5, lists, str(tmp_path / "gate"), str(tmp_path / "shared")]
    both = [subprocess.Popen([sys.executable, "-c", FETCH, *words], stdout=subprocess.PIPE, text=True) for _ in "12"]
    assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
    (tmp_path / "gate").touch()
    assert [process.communicate(timeout=60)[0] for process in both] == ["20\n"] * 2
    assert len(small_cifar.asked) == 2 * alone
