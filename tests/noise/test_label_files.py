"""`dataset.labels.file`: labels that people gave, from a file; and what is refused of it before anything is trained."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
import torch
import yaml
from pydantic import ValidationError

from kdtune.cli.sweep import Options, run
from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.data.loading import Data, load
from kdtune.noise.labelfile import read_labels
from kdtune.noise.labels import File
from kdtune.planning.plan import build_plan
from kdtune.run import Run
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep

ROOT = Path(__file__).parents[2]
TOTAL = 934  # training images of the digits


def digits(data_dir: Path, labels: Any = None, **asked: Any) -> Data:
    return load(Dataset.model_validate({"digits": {}, **({"labels": labels} if labels else {}), **asked}), data_dir)


@pytest.fixture
def clean(tmp_path: Path) -> np.ndarray:
    return digits(tmp_path).train.labels.numpy()


@pytest.fixture
def worse(clean: np.ndarray) -> np.ndarray:
    """Wrong in every fourth place."""
    return np.where(np.arange(TOTAL) % 4 == 0, (clean + 3) % 10, clean)


def as_pt(folder: Path, columns: dict[str, np.ndarray], **how: Any) -> dict[str, Any]:
    torch.save(columns, folder / "human.pt", **how)
    return {"path": str(folder / "human.pt"), "key": "worse_label"}


def as_numpy_1(folder: Path, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """NumPy 1 pickled arrays under other names, and torch before 1.6 made no archive: so is what was published."""
    file = io.BytesIO()
    torch.save(columns, file, _use_new_zipfile_serialization=False)
    (folder / "human.pt").write_bytes(file.getvalue().replace(b"numpy._core", b"numpy.core"))
    return {"path": str(folder / "human.pt"), "key": "worse_label"}


def as_npz(folder: Path, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    np.savez(folder / "labels.npz", **columns)
    return {"path": str(folder / "labels.npz"), "key": "worse_label"}


def as_npy(folder: Path, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    np.save(folder / "labels.npy", columns["worse_label"].astype(np.uint8))
    return {"path": str(folder / "labels.npy")}


def as_csv(folder: Path, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    rows = zip(*columns.values(), (f"image {i}" for i in range(TOTAL)), strict=True)
    lines = [",".join([*columns, "file"]), *(",".join(map(str, row)) for row in rows)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n\n")
    return {"path": str(folder / "labels.csv"), "key": "worse_label"}


def as_column(folder: Path, columns: dict[str, np.ndarray]) -> dict[str, Any]:
    (folder / "one.csv").write_text("\n".join(map(str, columns["worse_label"])))
    return {"path": str(folder / "one.csv")}


FORMATS = [as_pt, as_numpy_1, as_npz, as_npy, as_csv, as_column]
Written = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("written", FORMATS)
def test_a_files_labels_take_the_place_of_the_datasets(
    written: Written, tmp_path: Path, clean: np.ndarray, worse: np.ndarray
) -> None:
    stated = written(tmp_path, {"clean_label": clean, "worse_label": worse})
    data = digits(tmp_path, {"file": stated})
    assert data.train.labels.dtype == torch.int64 and data.train.labels.tolist() == worse.tolist()
    assert data.corrupted is not None and data.corrupted.tolist() == (worse != clean).tolist()
    assert data.noise == {"labels.file": pytest.approx(float((worse != clean).mean()))}
    assert torch.equal(data.test.labels, digits(tmp_path).test.labels), "test labels stay clean"


def test_lists_and_tensors_of_a_pt(tmp_path: Path, clean: np.ndarray, worse: np.ndarray) -> None:
    for content in (worse.tolist(), torch.from_numpy(worse), {"only": worse}, {"only": [*worse]}):
        torch.save(content, tmp_path / "labels.pt")
        assert read_labels(str(tmp_path / "labels.pt"), None).labels.tolist() == worse.tolist()


def test_which_images_are_kept_and_held_out_does_not_hang_on_it(tmp_path: Path, worse: np.ndarray) -> None:
    np.save(tmp_path / "labels.npy", worse)
    labels = {"file": {"path": str(tmp_path / "labels.npy")}}
    plain, wrong = (digits(tmp_path, each, train_size=300, validation=0.2) for each in (None, labels))
    assert torch.equal(plain.train.images, wrong.train.images)
    whole = dict(zip((image.numpy().tobytes() for image in digits(tmp_path).train.images), worse, strict=True))
    for part in (wrong.train, wrong.validation):
        assert part is not None
        assert part.labels.tolist() == [whole[image.numpy().tobytes()] for image in part.images]


def test_it_composes_with_corruption_in_written_order(tmp_path: Path, clean: np.ndarray, worse: np.ndarray) -> None:
    np.save(tmp_path / "labels.npy", worse)
    file, corruption = {"file": {"path": str(tmp_path / "labels.npy")}}, {"corruption": {"rate": 0.5}}
    both = digits(tmp_path, {**file, **corruption})
    redrawn = digits(tmp_path, corruption)
    assert redrawn.corrupted is not None
    hit = redrawn.train.labels.numpy() != clean
    assert (both.train.labels.numpy()[hit] == redrawn.train.labels.numpy()[hit]).all()
    assert list(both.noise) == ["labels.file", "labels.corruption"]
    assert both.noise["labels.file"] == pytest.approx(0.25, abs=0.01)


# What a run's id knows of it


def described(data_dir: Path, labels: Any) -> dict[str, Any]:
    return Dataset.model_validate({"digits": {}, "labels": labels}).description(data_dir)


def test_an_id_knows_the_labels_and_neither_path_nor_format(tmp_path: Path, clean: Any, worse: Any) -> None:
    columns = {"clean_label": clean, "worse_label": worse}
    found = {json.dumps(described(tmp_path, {"file": written(tmp_path, columns)})) for written in FORMATS}
    (only,) = found
    assert str(tmp_path) not in only and re.search(r'"labels": {"file": {"digest": "[0-9a-f]{16}"}}', only)
    other = as_npy(tmp_path, {"worse_label": np.roll(worse, 1)})
    assert json.dumps(described(tmp_path, {"file": other})) != only


def test_a_run_with_a_label_file_travels_to_other_processes(tmp_path: Path, worse: np.ndarray) -> None:
    stated = as_pt(tmp_path, {"worse_label": worse})
    dataset = Dataset.model_validate({"digits": {}, "labels": {"file": stated}})
    assert dataset.dumped()["labels"] == {"file": stated}
    for again in (
        Dataset.model_validate(json.loads(json.dumps(dataset.dumped()))),
        pickle.loads(pickle.dumps(dataset)),
    ):
        assert again == dataset and hash(again) == hash(dataset)
    given = Run(dataset=dataset, content=dataset.description(tmp_path), model={"mlp": {"hidden": [4]}})  # type: ignore[arg-type]
    assert Run.model_validate(json.loads(given.model_dump_json())).id == given.id


def test_labels_that_changed_since_they_were_planned(tmp_path: Path, worse: np.ndarray) -> None:
    dataset = Dataset.model_validate({"digits": {}, "labels": {"file": as_npy(tmp_path, {"worse_label": worse})}})
    planned = dataset.description(tmp_path)["labels"]
    load(dataset, tmp_path, planned={"labels": planned})
    as_npy(tmp_path, {"worse_label": np.roll(worse, 1)})
    with pytest.raises(DataError, match="its labels have changed since the sweep was planned"):
        load(dataset, tmp_path, planned={"labels": planned})


# What is refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda worse: worse[:-1], "holds 933 labels, and there are 934 training images"),
        (lambda worse: np.append(worse, 0), "holds 935 labels"),
        (
            lambda worse: np.where(np.arange(TOTAL) == 7, 10, worse),
            "1 labels are none of 0 to 9, the first 10 at place 7",
        ),
        (lambda worse: np.where(np.arange(TOTAL) > 931, -1, worse), "2 labels are none of 0 to 9, the first -1 at"),
        (lambda worse: worse.astype(float), "holds float64; labels are integers from 0"),
        (lambda worse: worse[:, None], r"holds an array of shape \[934, 1\]"),
        (lambda worse: worse.astype(object), "allow_pickle=False"),
    ],
)
def test_labels_that_are_not_of_these_images(change: Any, said: str, tmp_path: Path, worse: np.ndarray) -> None:
    np.save(tmp_path / "labels.npy", change(worse))
    with pytest.raises(DataError, match=rf"^dataset\.labels\.file.*labels\.npy: .*{said}"):
        digits(tmp_path, {"file": {"path": str(tmp_path / "labels.npy")}})


@pytest.mark.parametrize("written", [as_pt, as_npz, as_csv])
def test_a_file_whose_clean_labels_are_not_the_datasets(
    written: Written, tmp_path: Path, clean: np.ndarray, worse: np.ndarray
) -> None:
    """CIFAR-10N says for which labels it was made: in another order it would be noise of another kind."""
    shuffled = np.roll(clean, 1)
    stated = written(tmp_path, {"clean_label": shuffled, "worse_label": worse})
    with pytest.raises(DataError, match=rf"clean_label .* for {(shuffled != clean).sum()} of 934 .* in another order"):
        digits(tmp_path, {"file": stated, "corruption": {"rate": 0.5}})


def test_keys(tmp_path: Path, clean: np.ndarray, worse: np.ndarray) -> None:
    columns = {"clean_label": clean, "worse_label": worse}
    for written in (as_pt, as_npz, as_csv):
        path = written(tmp_path, columns)["path"]
        with pytest.raises(
            DataError, match=r"unknown key 'worst_label'; did you mean worse_label\?; it holds clean_la"
        ):
            described(tmp_path, {"file": {"path": path, "key": "worst_label"}})
        with pytest.raises(DataError, match=r"holds clean_label, worse_label.*; say which with key"):
            described(tmp_path, {"file": {"path": path}})
    for written in (as_npy, as_column):
        with pytest.raises(DataError, match="holds one array, which has no name; remove key"):
            described(tmp_path, {"file": {**written(tmp_path, columns), "key": "worse_label"}})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, content in {
        "a.pt": b"junk",
        "a.npy": b"junk",
        "a.npz": b"junk",
        "a.csv": b"\xff\xfe",
        "b.csv": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=re.escape(name)):
            described(tmp_path, {"file": {"path": str(tmp_path / name)}})
    with pytest.raises(DataError, match=r"gone\.npy: cannot be read as labels \(No such file or directory\)"):
        described(tmp_path, {"file": {"path": str(tmp_path / "gone.npy")}})
    (tmp_path / "words.csv").write_text("label\ncat\n")
    with pytest.raises(DataError, match=r"words\.csv: .*'cat'"):
        described(tmp_path, {"file": {"path": str(tmp_path / "words.csv")}})
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match="a row has 1 columns, '3', and the first 2"):
        described(tmp_path, {"file": {"path": str(tmp_path / "ragged.csv"), "key": "a"}})


class Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _archive(data: bytes) -> bytes:
    """The same archive with a bit of its largest member turned; its checksum stays."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    at = data.index(np.arange(50, dtype=np.int64).tobytes())
    assert largest.file_size >= 400
    return data[: at + 80] + bytes([data[at + 80] ^ 1]) + data[at + 81 :]


def _of_pt(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _of_npz(**columns: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **columns)
    return file.getvalue()


FIFTY = np.arange(50)
ODD_FILES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "bit.pt": ("", lambda: _archive(_of_pt(torch.arange(50))), "checksum"),
    "bit.npz": ("", lambda: _archive(_of_npz(labels=FIFTY)), "checksum"),
    "numbered.pt": ("0", lambda: _of_pt({0: torch.zeros(50, dtype=torch.int64)}), ""),  # as it always was of names
    "gradient.pt": ("", lambda: _of_pt(torch.zeros(50, requires_grad=True)), "Tensor"),
    "bfloat.pt": ("", lambda: _of_pt(torch.zeros(50, dtype=torch.bfloat16)), "Tensor"),
    "sparse.pt": ("", lambda: _of_pt(torch.zeros(50).to_sparse()), "Tensor"),
    "big.csv": ("", lambda: b"1\n99999999999999999999\n", "99999999999999999999"),
    "underscore.csv": ("", lambda: b"label\n1\n1_0\n", "1_0"),
    "twice.csv": ("label", lambda: b"label,label\n1,2\n3,4\n", "several columns 'label'"),
    "index.csv": ("label", lambda: b"index,label\n2,5\n0,6\n1,7\n", "not in the order of the images: 'index'"),
    "pandas.csv": ("label", lambda: b",label\n1,5\n2,6\n0,7\n", "the column without a name"),
    "index.npz": ("labels", lambda: _of_npz(labels=FIFTY * 0, id=FIFTY[::-1]), "not in the order"),
    "in_order.csv": ("label", lambda: b"index,label,name\n1,5,a\n2,6,b\n3,7,c\n", ""),
    "text.npy": ("", lambda: _npy(np.array(["1", "2"])), "<U1"),
    "cut.npz": ("labels", lambda: _of_npz(labels=FIFTY)[:-30], "cannot be read"),
    "huge.npy": ("", lambda: _npy(FIFTY).replace(b"(50,)", b"(50000000000000,)"), ""),
}


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_are_one_sentence_or_right(name: str, tmp_path: Path) -> None:
    key, content, said = ODD_FILES[name]
    path = tmp_path / name
    path.write_bytes(content())
    if name in ("numbered.pt", "in_order.csv"):
        assert len(read_labels(str(path), key).labels) == {"numbered.pt": 50, "in_order.csv": 3}[name]
        return
    with pytest.raises(ValueError, match=re.escape(name)) as refused:
        read_labels(str(path), key or None)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_no_byte_of_a_file_ends_in_another_error(suffix: str, tmp_path: Path) -> None:
    """Any turned bit: the labels themselves (.npy alone, which has no checksum), or a ValueError with the path."""
    make = {".npy": lambda: _npy(FIFTY), ".npz": lambda: _of_npz(labels=FIFTY), ".pt": lambda: _of_pt(torch.arange(50))}
    data, path, draw = make[suffix](), tmp_path / f"x{suffix}", np.random.default_rng(0)
    for place in sorted(draw.choice(len(data), 150, replace=False)):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << int(draw.integers(8)))]) + data[place + 1 :])
        try:
            labels = read_labels(str(path), None).labels
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert suffix == ".npy" or labels.tolist() == FIFTY.tolist()


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "labels.npy")
    with pytest.raises(ValueError, match="is no file"):
        read_labels(str(tmp_path / "labels.npy"), None)


def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    torch.save({"worse_label": Touch(tmp_path / "touched")}, tmp_path / "human.pt")
    with pytest.raises(DataError, match=r"human\.pt: .* is not opened: it might run code; save the labels as \.npy"):
        described(tmp_path, {"file": {"path": str(tmp_path / "human.pt"), "key": "worse_label"}})
    assert not (tmp_path / "touched").exists()
    with pytest.raises(pickle.UnpicklingError):  # what was allowed for a label file is not allowed for weights
        torch.save(np.arange(3), tmp_path / "array.pt")
        torch.load(tmp_path / "array.pt", weights_only=True)


def test_what_a_sweep_file_gets_wrong_is_an_error_of_the_file(write_sweep, small_sweep: str) -> None:
    for wrong, said in (
        ("{path: labels.txt}", "labels are read from .pt"),
        ("{key: x}", "path"),
        ("{path: 3}", "path"),
    ):
        with pytest.raises(Exception, match=re.escape(said)) as error:
            load_sweep(write_sweep(small_sweep.replace("validation: 0.2", f"labels: {{file: {wrong}}}")))
        assert "labels.file" in str(error.value)
    with pytest.raises(
        ValidationError, match=r"unknown key 'array'; did you mean|unknown key 'array'; known here: path, key"
    ):
        File.model_validate({"path": "x.npy", "array": "y"})


# A sweep with one


def test_the_readmes_example_trains(tmp_path: Path, small_sweep: str, clean: Any, worse: Any, capsys: Any) -> None:
    """As it stands, on the digits and a file made as CIFAR-10N's is, beside the sweep file."""
    using = (ROOT / "docs" / "using.md").read_text()
    (stated,) = re.findall(r"^dataset: {cifar10: {}, labels: {file: .*$", using, re.M)
    name = yaml.safe_load(stated)["dataset"]["labels"]["file"]["path"]
    torch.save({"clean_label": clean, "worse_label": worse, "random_label1": worse}, tmp_path / name)
    text = re.sub(r"^dataset:.*$", stated.replace("cifar10", "digits"), small_sweep, flags=re.M)
    text = text.replace("rate: [0.0, 0.2]", "rate: [0.2]").replace("val/accuracy", "test/accuracy")
    text = text.replace("seeds: 3", "seeds: 1").replace("seeds: 2", "seeds: 1").replace("epochs: 3", "epochs: 1")
    (tmp_path / "human.yaml").write_text(text)
    options = Options(tmp_path / "human.yaml", results=str(tmp_path / "results"), data=str(tmp_path), here=True)
    assert run(options) == 0, capsys.readouterr()
    store = Store(tmp_path / "results")
    for id in build_plan(load_sweep(tmp_path / "human.yaml"), tmp_path).runs:
        assert stored.history(store, id)[0]["noise/labels.file"] == pytest.approx(float((worse != clean).mean()))
    header = (tmp_path / "results/small/paper/results.csv").read_text().splitlines()[0]
    assert "dataset.labels.file.digest" in header and "path" not in header


def test_labels_that_do_not_fit_are_refused_before_anything_is_trained(
    write_sweep, small_sweep: str, tmp_path: Path, worse: np.ndarray, capsys: Any
) -> None:
    np.save(tmp_path / "labels.npy", worse[:-1])
    text = small_sweep.replace("train_size: 100", "train_size: 100, labels: {file: {path: labels.npy}}")
    options = Options(write_sweep(text), results=str(tmp_path / "results"), data=str(tmp_path), here=True)
    assert run(options) == 4
    assert "holds 933 labels, and there are 934 training images" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "results/runs").iterdir()} <= {"claims", ".lock"}


def test_a_file_stands_before_other_label_knobs(tmp_path: Path) -> None:
    """It replaces every label: what was corrupted before would count, and change nothing."""
    np.save(tmp_path / "labels.npy", np.zeros(1347, dtype=np.int64))
    file, corruption = {"path": str(tmp_path / "labels.npy")}, {"rate": 0.5}
    with pytest.raises(ValidationError, match="file stands after corruption, and replaces every label"):
        Dataset.model_validate({"digits": {}, "labels": {"corruption": corruption, "file": file}})
    Dataset.model_validate({"digits": {}, "labels": {"file": file, "corruption": corruption}})
    Dataset.model_validate({"digits": {}, "labels": {"corruption": {"rate": 0.0}, "file": file}})
