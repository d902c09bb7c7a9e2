"""What evaluators say of their metrics before anything is measured, held against what they then measure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from stand_ins import subject
from torch import nn

from kdtune.data.dataset import Dataset
from kdtune.data.loading import Data, Split, load
from kdtune.data.sets.folder import Folder
from kdtune.data.sets.published import Published
from kdtune.evaluation.accuracy import Accuracy
from kdtune.evaluation.agreement import Agreement
from kdtune.evaluation.autoattack import Autoattack
from kdtune.evaluation.calibration import Calibration
from kdtune.evaluation.corruptions import Corruptions
from kdtune.evaluation.distance import Distance
from kdtune.evaluation.evaluation import Evaluation, declared, told_apart, written_twice
from kdtune.evaluation.evaluator import EvaluationError, Evaluator, Measurement
from kdtune.evaluation.fit import Fit
from kdtune.evaluation.fooled import Fooled
from kdtune.evaluation.masking import Masking
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.oracle import Oracle
from kdtune.evaluation.pgd import PGD
from kdtune.evaluation.planted import Planted
from kdtune.evaluation.shift import Shift
from kdtune.evaluation.softness import Softness
from kdtune.evaluation.specialization import Specialization
from kdtune.evaluation.subspace import Principal
from kdtune.models.networks.network import Network

DIGITS = TypeAdapter(Dataset).validate_python({"digits": {}, "train_size": 100, "validation": 0.2})
WHOLE = TypeAdapter(Dataset).validate_python("digits")
ENTRIES: list[Evaluator] = [
    Accuracy(),
    Fooled(eps=0.1, step=0.05, steps=3, images=30),
    Agreement(),
    Shift(),
    PGD(eps=(0.05, 0.1), step=(0.02, 0.05), steps=(2, 3), restarts=2, images=20, loss=("cross_entropy", "margin")),
    PGD(eps=(0.1,), step=(0.05,), steps=(2,), restarts=2, images=20, loss=("scaled",), report="worst"),
    Masking(eps=0.1, step=0.05, images=10, queries=5),
    Planted(eps=0.1, step=0.05, steps=2, restarts=1, images=25, points=50, queries=5),
    Corruptions(images=20),
    Corruptions(images=20, families=("fog", "saturate", "brightness"), severities=(1,)),
    Autoattack(eps=(0.5,), images=10),
    Distance(steps=10, restarts=2, images=20),
    Fit(),
    Softness(temperature=4.0),
    Calibration(eps=0.05, step=0.02, steps=3),
    Specialization(),
    Specialization(subspace=Principal(pca=5), every=2),
    Oracle(steps=2, images=20),
    Oracle(steps=2, images=20, subspace=Principal(pca=5)),
]
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda each: each.key)


class Fixed(nn.Module):
    """Answers one class whatever it sees, through weights that a gradient reaches."""

    def __init__(self, answer: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        nn.init.zeros_(self.layer.weight)
        self.layer.bias.data = 5 * nn.functional.one_hot(torch.tensor(answer), 10).float()
        self.features = nn.Flatten()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(self.features(images))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return load(DIGITS, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(digits: Data) -> nn.Module:
    """A linear classifier that is right on most digits."""
    torch.manual_seed(0)
    network = Network(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(digits.train.images / 255), digits.train.labels).backward()
        optimizer.step()
    return network.eval()


def measured(entry: Evaluator, network: nn.Module, data: Data) -> dict[str, float]:
    try:
        return entry.measured(subject(network, data, teacher=network)).metrics
    except EvaluationError as missing:
        pytest.skip(str(missing))


# The contract


def test_every_kind_is_held_to_it() -> None:
    assert {entry.key for entry in ENTRIES} | {"plane"} == set(Evaluator.kinds()), "which has arrays alone"


WHERE: list[dict[str, str]] = [{}, {"on": "val"}, {"label": "strong=1"}, {"on": "val", "label": "a"}]


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        pytest.param(entry, where, id=f"{entry.key}-{'-'.join(where.values())}")
        for entry in ENTRIES
        for where in WHERE
        if "on" not in where or entry.also_held_out
    ],
)
def test_what_is_measured_was_declared_and_what_is_always_there_is_there(
    entry: Evaluator, where: dict[str, str], trained: nn.Module, digits: Data
) -> None:
    entry = type(entry)(**{**dict(entry), **where})
    for network in (trained, Fixed()):
        found = measured(entry, network, digits).keys()
        says = entry.declared(DIGITS)
        assert found <= says.keys(), found - says.keys()
        lacking = {name for name, metric in says.items() if metric.always} - found
        assert not lacking
        assert all(name == metric.name for name, metric in says.items())


@each_entry
def test_where_none_is_right_when_clean_too(entry: Evaluator, digits: Data) -> None:
    """Ratios of nothing are absent, and were declared as such."""
    wrong = digits.test.labels != 3
    data = Data(
        digits.title, digits.class_names, digits.shape, digits.train, digits.validation,
        Split(digits.test.images[wrong], digits.test.labels[wrong]), digits.shifted,
    )  # fmt: skip
    found = measured(entry, Fixed(3), data).keys()
    says = entry.declared(DIGITS)
    assert found <= says.keys() and {name for name, metric in says.items() if metric.always} <= found


@each_entry
def test_a_declared_metric_has_a_unit_and_rates_rank(entry: Evaluator) -> None:
    for name, metric in entry.declared(DIGITS).items():
        assert metric.unit
        missed = name.startswith("planted/missed")
        begins = ("planted/chance", "distance/unbroken", "teacher/fooled", "oracle/mismatch")
        unranked = "zero_gradient" in name or name.startswith(begins)
        if metric.unit == "%" and not missed and not unranked:
            assert metric.better == "higher", name
        assert (metric.better == "lower") == (missed or name.endswith(("nll", "ece")) or "/gap" in name)


@each_entry
def test_headlines_are_of_test_images_and_of_the_entry_without_a_label(entry: Evaluator) -> None:
    for where in ({"on": "val"}, {"label": "x"}):
        if "label" in where or entry.also_held_out:
            other = type(entry)(**{**dict(entry), **where})
            assert not any(metric.headline for metric in other.declared(DIGITS).values())


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        (Accuracy(), ["test/accuracy"]),
        (Shift(), ["shift/writers"]),
        (Shift(folder={"path": "x", "name": "away"}), ["shift/away"]),
        (PGD(steps=(20, 50)), ["robust/pgd50", "robust/pgd50/unconditional"]),
        (PGD(steps=(50, 20), eps=(0.1, 0.2)), ["robust/pgd50", "robust/pgd50/unconditional"]),
        (PGD(report="worst"), ["robust/pgd20/worst", "robust/pgd20/worst_unconditional"]),
        (PGD(loss=("margin",)), ["robust/pgd20@margin", "robust/pgd20@margin/unconditional"]),
        (PGD(loss=("margin", "cross_entropy")), ["robust/pgd20", "robust/pgd20/unconditional"]),
        (Autoattack(eps=(0.1, 0.2)), ["robust/autoattack", "robust/autoattack/unconditional"]),
        (Corruptions(), ["corruption/mca", "corruption/mca/unconditional"]),
        (Distance(), ["distance/median", "distance/median/unconditional"]),
        (Masking(), []),
        (Planted(), []),
        (Specialization(subspace="data"), ["specialization/best"]),
        (Oracle(subspace="data"), ["oracle/pgd20"]),
    ],
)
def test_the_headline_is_what_the_evaluator_says(entry: Evaluator, names: list[str]) -> None:
    """PGD's is the largest number of steps, for the table and for the figure (row A12)."""
    assert [name for name, metric in entry.declared(WHOLE).items() if metric.headline] == names


def test_what_hangs_on_the_data_set() -> None:
    mnist = TypeAdapter(Dataset).validate_python("mnist")
    assert Shift().declared(mnist).keys() == {"flags/randomised", "flags/zero_gradient"}, "no set, no number"
    held_out = {"val/accuracy", "val/nll", "val/ece"}
    assert Accuracy().declared(DIGITS).keys() - Accuracy().declared(WHOLE).keys() == held_out
    colour = TypeAdapter(Dataset).validate_python("cifar10")
    assert Corruptions().declared(colour).keys() - Corruptions().declared(WHOLE).keys() == {
        "corruption/saturate", "corruption/saturate/unconditional",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [kind for kind in Dataset.kinds().values() if issubclass(kind, Published)])
def test_shifted_sets_are_known_before_the_files(kind: type[Published], shared_data: Path, tmp_path: Path) -> None:
    from kdtune.data.error import DataError

    try:
        splits = kind().read(shared_data if kind.key != "digits" else tmp_path).splits
    except DataError as missing:
        pytest.skip(str(missing))
    assert set(splits) == {"train", "test", *kind.shifted}


def test_a_folder_of_ones_own_holds_no_shifted_set() -> None:
    assert Folder.shifted == () and Folder.image_shape is None
    own = Folder(path="nowhere", name="own")
    assert "shift/writers" not in Shift().declared(own) and "corruption/saturate" in Corruptions().declared(own)


def test_declarations_need_neither_torch_nor_files() -> None:
    script = (
        "import sys; from pydantic import TypeAdapter; from kdtune.data.dataset import Dataset; "
        "from kdtune.evaluation.evaluator import Evaluator; "
        "digits = TypeAdapter(Dataset).validate_python('digits'); "
        "assert sum(len(kind().declared(digits)) for kind in Evaluator.kinds().values()) > 50; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "pandas", "sklearn"} & set(loaded)


def test_an_evaluator_that_declares_nothing_measures_all_the_same(digits: Data) -> None:
    class Silent(Evaluator):
        version: ClassVar[int] = 1

        def measure(self, subject: Any) -> Measurement:
            return Measurement({"silent": 1.0})

    assert all(name.startswith("flags/") for name in Silent().declared(DIGITS))
    assert Silent(on="val", label="x").measured(subject(Fixed(), digits)).metrics == {"val/silent@x": 1.0}


# Networks that answer one class


@each_entry
def test_beside_every_conditional_number_stands_whether_the_network_answers_one_class(
    entry: Evaluator, trained: nn.Module, digits: Data
) -> None:
    """Whatever else is evaluated (row A8): each says so by itself, of the same images, so that all say the same."""
    for network, up in ((Fixed(), 1.0), (trained, 0.0)):
        found = measured(entry, network, digits)
        flags = {name: found.get(f"flags/{name}") for name in ("collapsed", "near_chance")}
        says_so = isinstance(entry, Accuracy | PGD | Corruptions | Autoattack | Distance)
        assert flags == dict.fromkeys(flags, up if says_so else None)
        if any(name.startswith(("robust/", "corruption/", "distance/")) for name in found):
            assert says_so


def test_on_held_out_images_it_says_so_of_those(digits: Data) -> None:
    found = PGD(steps=(2,), restarts=1, images=20, on="val").measured(subject(Fixed(), digits)).metrics
    assert found["val/flags/collapsed"] == found["val/flags/near_chance"] == 1.0
    assert "flags/collapsed" not in found


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("robust/pgd20", "robust/pgd20@few"),
        ("robust/pgd20/worst", "robust/pgd20@few/worst"),
        ("robust/pgd20@0.06,margin/worst", "robust/pgd20@0.06,margin,few/worst"),
        ("corruption/fog/unconditional", "corruption/fog@few/unconditional"),
        ("masking/ladder/eps/standing", "masking/ladder@few/eps/standing"),
        ("margin", "margin@few"),
    ],
)
def test_a_label_stands_behind_an_at(name: str, expected: str) -> None:
    assert PGD(label="few").column(name) == expected
    assert PGD(label="few", on="val").column(name) == f"val/{expected}"
    assert PGD().column(name) == name


def test_a_label_lets_two_entries_stand_together_and_names_arrays_too(digits: Data) -> None:
    strong = {"pgd": {"steps": 2, "restarts": 1, "images": 20, "eps": 0.3}, "label": "strong"}
    both = TypeAdapter(Evaluation).validate_python([{"pgd": {"steps": 2}}, strong])
    assert not written_twice(both, DIGITS)
    found = both[1].measured(subject(Fixed(), digits))
    assert "robust/pgd2@strong" in found.metrics and set(found.arrays) == {
        "robust/clean@strong", "robust/images@strong", "robust/pgd2@strong",
    }  # fmt: skip
    assert both[0].hash != both[1].hash == TypeAdapter(Evaluation).validate_python([strong])[0].hash
    for label in ("a/b", "a@b", "", " "):
        with pytest.raises(ValidationError):
            PGD(label=label)


def test_names_that_two_entries_write_are_found_whatever_the_entries_are_called() -> None:
    own = Shift(folder={"path": "x", "name": "writers"})
    assert written_twice((Accuracy(), Shift(), own), WHOLE) == ["shift/writers"]
    assert written_twice((Accuracy(), PGD(), Corruptions(), Masking(), Planted(), Shift()), DIGITS) == []


def test_which_evaluator_measures_a_metric() -> None:
    on_val = PGD(steps=(10,), on="val")
    found = declared((Accuracy(), PGD(), on_val), DIGITS)
    assert found["val/robust/pgd10"][0] == on_val and found["robust/pgd10"][0] == PGD()
    assert found["val/accuracy"] == (Accuracy(), Metric("val/accuracy", better="higher"))
    assert found["flags/collapsed"][0] == Accuracy()


def test_a_late_entry_says_in_what_it_differs() -> None:
    own = PGD(eps=(0.08, 0.12), steps=(10, 20), images=150)
    assert told_apart(PGD(images=20), [Accuracy()]) == PGD(images=20)
    assert told_apart(own.model_copy(), [own]) is own
    few = told_apart(PGD(eps=(0.08, 0.12), steps=(10, 20), images=None, restarts=1), [Accuracy(), own])
    assert few.label == "restarts=1,images=null" and few.restarts == 1
    assert told_apart(PGD(eps=(0.08, 0.12), steps=(10, 20), restarts=1), [own, few]) is few, "asked for again"
    other = told_apart(PGD(eps=(0.1,), steps=(5, 6), images=150), [own, few])
    assert other.label == "eps=0.1,steps=5+6"
    assert told_apart(PGD(on="val"), [own, few]).label is None, "another name, under val/"
    assert told_apart(PGD(label="mine"), [own]).label == "mine"


def test_what_differs_in_a_folder_is_named_by_hand(tmp_path: Path) -> None:
    one, other = (Shift(folder={"path": str(tmp_path / name), "name": "away"}) for name in "ab")
    assert told_apart(other, [one]) == other
    with pytest.raises(ValidationError, match=r"2 entries write the metrics 'shift/away'; .*a `label`"):
        TypeAdapter(Evaluation).validate_python([one, other])


def test_arrays_of_a_labelled_entry_are_those_of_the_bare_one(digits: Data) -> None:
    given = subject(Fixed(), digits)
    bare, labelled = (PGD(steps=(2,), restarts=1, images=20, label=label).measured(given) for label in (None, "x"))
    assert np.array_equal(bare.arrays["robust/pgd2"], labelled.arrays["robust/pgd2@x"])
    assert bare.metrics["robust/pgd2"] == labelled.metrics["robust/pgd2@x"]
