"""Every evaluator keeps the contract of `evaluator.py`, and each measures what an independent reckoning gives."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import re
import shutil
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from sklearn.metrics import log_loss
from stand_ins import subject
from stored import unpack
from torch import Tensor, nn

from kdtune import randomness
from kdtune.attacks import pgd as attack
from kdtune.data import cifar10c
from kdtune.data.error import DataError
from kdtune.data.loading import Data, Split, inputs
from kdtune.data.sets.published import Digits
from kdtune.evaluation import pgd as pgd_module
from kdtune.evaluation.accuracy import Accuracy, accuracy, expected_calibration_error, negative_log_likelihood
from kdtune.evaluation.autoattack import Autoattack
from kdtune.evaluation.calibration import Calibration
from kdtune.evaluation.corruptions import Corruptions
from kdtune.evaluation.distance import Distance
from kdtune.evaluation.evaluation import Evaluation
from kdtune.evaluation.evaluator import EvaluationError, Evaluator, Measurement, pack, predict
from kdtune.evaluation.flags import DEGENERATE
from kdtune.evaluation.masking import Masking
from kdtune.evaluation.pgd import PGD, balanced
from kdtune.evaluation.planted import Planted
from kdtune.evaluation.shift import Shift
from kdtune.settings import Settings, Text

CLASSES = ("ant", "bee", "cow", "dog")
SMALL = {  # keys, to be quick
    "pgd": {"eps": [0.02, 0.1], "step": 0.02, "steps": [2, 4], "restarts": 2, "images": 30},
    "masking": {"eps": 0.1, "step": 0.02, "images": 30, "queries": 5},
    "distance": {"steps": 10, "restarts": 2, "images": 30},
    "planted": {"eps": 0.1, "step": 0.02, "images": 25, "steps": 4, "points": 40, "queries": 5},
    "autoattack": {"eps": [0.5], "images": 10},  # where its first attack leaves nothing to do
    "calibration": {"eps": 0.1, "step": 0.05, "steps": 3},
    "corruptions": {"severities": [1, 4], "images": 20},
    "fooled": {"eps": 0.1, "step": 0.05, "steps": 3, "images": 30},
    "specialization": {"subspace": {"pca": 5}},
    "oracle": {"steps": 3, "images": 30},
}
WITH_A_TEACHER = ("agreement", "fooled", "specialization", "oracle")  # without one these have nothing to say


def split(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    return Split(images, torch.randint(len(CLASSES), (count,), generator=generator))


def small_data(test: int = 60) -> Data:
    parts = {"train": split(20, 1), "validation": split(25, 2), "test": split(test, 3)}
    return Data("Blots", CLASSES, (1, 6, 6), **parts, shifted={"elsewhere": split(33, 4)})


class Chain(nn.Sequential):
    """Layers, the last of which is the classifier."""

    def features(self, images: Tensor) -> Tensor:
        return self[:-1](images)


def small_network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Tanh(), nn.Dropout(0.5), nn.Flatten()]
        return Chain(*layers, nn.Linear(6 * 16, len(CLASSES)))


def every_evaluator() -> list[Evaluator]:
    """But `plane`, which is for no images: tests/evaluation/test_plane.py."""
    return [kind(**SMALL.get(key, {})) for key, kind in Evaluator.kinds().items() if key != "plane"]


each_evaluator = pytest.mark.parametrize("evaluator_", every_evaluator(), ids=lambda each: each.key)


@pytest.fixture
def installed(evaluator_):
    """Skips an evaluator whose extra package this machine does not have."""
    try:
        given = subject(small_network(), small_data())
        evaluator_.preflight(given.data, given.context)
    except EvaluationError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def folder(tmp_path):
    """The shifted set as CLASS/FILE."""
    shifted = small_data().shifted["elsewhere"]
    for i, (image, label) in enumerate(zip(shifted.images, shifted.labels, strict=True)):
        path = tmp_path / "images" / CLASSES[label] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).convert("RGB").save(path)
    return tmp_path / "images"


@pytest.fixture
def folders(folder, tmp_path, monkeypatch):
    """A folder for every key that wants one: of images, CINIC-10, CIFAR-10-C."""
    shutil.copytree(folder, tmp_path / "cinic" / "test")
    for name in cifar10c.MD5:
        np.save(tmp_path / f"{name}.npy", np.zeros(3, np.uint8))
    digest = hashlib.md5((tmp_path / "labels.npy").read_bytes()).hexdigest()
    monkeypatch.setitem(cifar10c.MD5, "labels", digest)
    return [{"path": str(folder), "name": "away"}, {"path": str(tmp_path / "cinic")}, {"path": str(tmp_path)}]


# What every evaluator promises


def test_the_evaluators_of_the_folder_are_found():
    known = {"accuracy": Accuracy, "shift": Shift, "pgd": PGD, "masking": Masking, "autoattack": Autoattack}
    known["distance"] = Distance
    assert known.items() <= Evaluator.kinds().items() and Evaluator.kinds()["corruptions"] is Corruptions


def test_they_stand_in_the_order_of_their_files():
    files = [kind.__module__ for kind in Evaluator.kinds().values()]
    assert files == sorted(files)  # whichever was imported first


@each_evaluator
def test_frozen_closed_and_named(evaluator_):
    assert re.fullmatch("[a-z][a-z0-9_]*", evaluator_.key)
    assert Evaluator.kinds()[evaluator_.key] is type(evaluator_)
    assert isinstance(type(evaluator_).version, int)
    for name in type(evaluator_).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(evaluator_, name, getattr(evaluator_, name))
    with pytest.raises(ValidationError):
        type(evaluator_)(no_such_key=1)
    assert len({evaluator_, evaluator_.model_copy()}) == 1  # usable as a key


def keys_of(evaluator_: Evaluator) -> list[str]:
    """Its fields, without one that it refuses in words, and without `every`, which says when and not what."""
    left = {"every"} if evaluator_.also_held_out else {"every", "on"}
    return [name for name in type(evaluator_).model_fields if name not in left]


def other_values(evaluator_, folders):
    """(key, a valid value other than the one it has), for every key."""
    values = [3, 30, 0.7, [0.5], [3], "x", True, *folders, [], None]
    values += ["worst", "minimum", ["brightness"], "margin", "val", "last", "clean", "test", "data", "linf"]
    now = {name: getattr(evaluator_, name) for name in type(evaluator_).model_fields}
    for key in keys_of(evaluator_):
        for value in values:
            try:
                alone = {"restarts": 1} if key == "start" else {}  # without a random start all would be alike
                other = type(evaluator_)(**now | {key: value} | alone)
                _ = other.hash
            except (ValidationError, DataError):
                continue
            if other != evaluator_:
                yield key, other
                break
        else:
            pytest.fail(f"no other value known for {evaluator_.key}.{key}: add one to `values`")


@each_evaluator
def test_hash_tells_every_field_and_the_version(evaluator_, folders, monkeypatch):
    assert re.fullmatch("[0-9a-f]{12}", evaluator_.hash)
    assert type(evaluator_)(**SMALL.get(evaluator_.key, {})).hash == evaluator_.hash
    hashes = {evaluator_.hash} | {other.hash for _, other in other_values(evaluator_, folders)}
    assert len(hashes) == 1 + len(keys_of(evaluator_))
    monkeypatch.setattr(type(evaluator_), "version", 99)
    assert evaluator_.hash not in hashes


def test_no_two_evaluators_share_a_hash():
    assert len({kind().hash for kind in Evaluator.kinds().values()}) == len(Evaluator.kinds())


def test_hash_knows_no_order_of_keys_and_no_way_of_writing():
    keys = {
        "eps": [0.031],
        "step": 0.003,
        "loss": "cross_entropy",
        "steps": [10, 15, 20],
        "restarts": 5,
        "images": None,
    }
    assert PGD(**keys).hash == PGD(**dict(reversed(keys.items()))).hash == PGD().hash
    assert PGD(eps=(1,)).hash == PGD(eps=[1.0]).hash
    assert (
        PGD(steps=(10, 20)).hash != PGD(steps=(20, 10)).hash
    )  # order can have a meaning: the first eps is the headline


def test_hash_is_the_same_on_every_day():
    """Finished results lie under these. A change here needs a new `version`, and gives up the results."""
    assert Accuracy().hash == "2f68ce35de4d"
    assert PGD().hash == "c8281fd31891"
    assert PGD(images=200, report="worst").hash == "2065f65ebb9b"
    assert Shift().hash == "de95ba0eca8e"
    assert Masking().hash == "c16f4bfb8c52"
    assert Distance().hash == "ce8a0ba70a94"
    assert Planted().hash == "9f8e60c6a531"
    assert Autoattack().hash == "025d0e83e46b"
    assert Corruptions().hash == "9d60cf68360f"
    assert Calibration().hash == "eb9559c7e479"


def test_hash_of_settings_is_the_same_on_every_day(folders, tmp_path):
    """As computed when evaluators were dataclasses without `on` and `of`, which leave no trace."""
    several = {"eps": (0.01, 0.06), "step": (0.003, 0.03), "steps": (10, 20), "restarts": 2, "images": 100}
    assert PGD(**several, loss=("cross_entropy", "margin")).hash == "fa9149fafde2"
    assert PGD(eps=0, step=1, steps=5, loss="scaled", report="worst").hash == "cd77d51d2946"
    assert Masking(eps=0.1, step=0.01, images=30, queries=50).hash == "0ad9cab57a98"
    assert Autoattack(eps=(0.031, 0.06), images=200).hash == "8d5965c7c960"
    assert Autoattack(eps=1).hash == "259680f0c844"
    assert Corruptions(families=("fog", "snow"), severities=(1, 5), images=200).hash == "27e5d31b5f49"
    assert Corruptions(files={"path": str(tmp_path)}).hash == "1bb729add134"
    for part in ("here", "cinic/train", "cinic/valid", "cinic/test"):
        for index, name in enumerate(CLASSES[:2]):
            path = tmp_path / "pinned" / part / name / "n0_0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"%d" % index)  # a digest is of bytes, whatever they show
    assert Shift(folder={"path": str(tmp_path / "pinned/here"), "name": "away"}).hash == "3effa40cb51e"
    cinic = {"path": str(tmp_path / "pinned/cinic"), "part": "all", "per_class": 2, "seed": 3}
    assert Shift(cinic=cinic).hash == "4bd28ce02365"


def test_an_option_that_is_off_leaves_no_trace_in_the_hash():
    """So one that is added later does not give up the results there are."""

    class Old(Accuracy):
        pass

    class New(Accuracy):
        option: int | None = None

    New.key = Old.key
    assert New().hash == Old().hash != New(option=0).hash


@each_evaluator
def test_measures_the_same_twice_and_leaves_no_trace(evaluator_, installed):
    network, teacher, data = small_network().train(), small_network(1), small_data()
    network[4].eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    images = data.test.images.clone()
    first = evaluator_.measure(subject(network, data, teacher=teacher))
    torch.rand(3)  # its numbers come from streams of its own, not from torch's global one
    random = torch.get_rng_state()
    second = evaluator_.measure(subject(network, data, teacher=teacher, seed=0))
    assert torch.equal(torch.get_rng_state(), random)
    assert first.metrics == second.metrics and first.metrics
    assert first.arrays.keys() == second.arrays.keys()
    for name, array in first.arrays.items():
        assert array.dtype == second.arrays[name].dtype and np.array_equal(array, second.arrays[name]), name
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(data.test.images, images)


@each_evaluator
def test_metrics_are_finite_floats(evaluator_, installed):
    measured = evaluator_.measure(subject(small_network(), small_data()))
    assert isinstance(measured, Measurement)
    for name, value in measured.metrics.items():
        assert type(value) is float and np.isfinite(value), name
        assert "/" in name
    assert all(isinstance(array, np.ndarray) for array in measured.arrays.values())


@each_evaluator
@pytest.mark.parametrize("scale", [1, 1e-30])
def test_of_a_network_that_answers_at_random_there_is_a_flag_and_no_number(evaluator_, scale, installed):
    """Row D11: it was a failed run, and the flag could not rise."""

    class Fickle(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return scale * nn.functional.dropout(images.flatten(1)[:, :4], 0.1, training=True)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = evaluator_.measured(subject(Fickle(), small_data()))
    assert found.metrics["flags/randomised"] == 1 and not found.arrays
    assert all(name.startswith("flags/") for name in found.metrics)


class Beheaded(nn.Module):
    """A network whose front-end autograd does not see."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.network = way, small_network()

    def front(self, images: Tensor) -> Tensor:
        if self.way == "inference":
            with torch.inference_mode():
                return images * 0.99
        return torch.from_numpy(0.99 * images.numpy()) if self.way == "numpy" else images.detach() * 0.99

    def features(self, images: Tensor) -> Tensor:
        return self.network.features(self.front(images))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.front(images))


@each_evaluator
@pytest.mark.parametrize("way", ["detached", "inference", "numpy"])
def test_a_front_end_without_a_gradient_fails_no_run(evaluator_, way, installed):
    """Row D11: torch's RuntimeError was all that was told."""
    network, data = Beheaded(way), small_data()
    data = dataclasses.replace(data, test=labelled_by(network, data.test))
    teacher = network if evaluator_.key in WITH_A_TEACHER else None
    found = evaluator_.measured(subject(network, data, teacher=teacher)).metrics
    if evaluator_.key == "masking":
        assert found["flags/zero_gradient"] == 1
        assert found["masking/zero_gradient"] == 100 and "masking/square" in found
    elif evaluator_.key in ("pgd", "autoattack", "distance", "fooled", "calibration", "oracle"):
        assert found.keys() - {f"flags/{name}" for name in DEGENERATE} == {"flags/zero_gradient"}
        assert found["flags/zero_gradient"] == 1
    else:
        assert found and "flags/zero_gradient" not in found


def test_pgd_where_no_image_has_a_gradient_raises_the_flag_beside_its_numbers():
    class Stairs(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images.flatten(1)[:, :4] * 10).round()

    found = PGD(**SMALL["pgd"]).measured(subject(Stairs(), small_data())).metrics
    assert found["flags/zero_gradient"] == 1 and "robust/pgd4" in found
    assert "flags/zero_gradient" not in PGD(**SMALL["pgd"]).measured(subject(small_network(), small_data())).metrics


@each_evaluator
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_network_without_finite_logits_is_refused(evaluator_, broken, installed):
    network = small_network()
    network[5].bias.data[1] = broken
    with pytest.raises((EvaluationError, FloatingPointError), match="not finite"):
        evaluator_.measure(subject(network, small_data()))


def test_settings_load_no_torch():
    script = (
        "import sys; from kdtune.evaluation.evaluator import Evaluator; "
        "[kind().hash for kind in Evaluator.kinds().values()]; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "pandas"} & set(loaded)


# The value of `evaluation:` in a sweep file


class Sweep(Settings):
    evaluation: Evaluation = ()


def test_entries_become_evaluators():
    sweep = Sweep.model_validate({"evaluation": ["accuracy", "shift", {"pgd": {"images": 200}}]})
    assert sweep.evaluation == (Accuracy(), Shift(), PGD(images=200))
    assert sweep.evaluation[2].step == (0.003,)
    assert Sweep(evaluation=sweep.evaluation) == sweep
    written = sweep.model_dump(mode="json")
    assert written == {"evaluation": [{"accuracy": {}}, {"shift": {}}, {"pgd": {"images": 200}}]}
    assert Sweep.model_validate(written) == sweep
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    hash(sweep)


def test_paths_are_relative_to_the_sweep_file(folder):
    entry = {"shift": {"folder": {"path": folder.name, "name": "elsewhere"}}}
    sweep = Sweep.model_validate({"evaluation": [entry]}, context={"folder": folder.parent})
    assert sweep.evaluation[0].folder.path == str(folder)


@pytest.mark.parametrize(
    ("entry", "where", "message"),
    [
        ("acuracy", (1,), r"unknown evaluator 'acuracy'; did you mean accuracy\?"),
        ({"pdg": {}}, (1, "pdg"), r"unknown evaluator 'pdg'; did you mean pgd\?"),
        ("zzzzz", (1,), "unknown evaluator 'zzzzz'; known here: (?=.*accuracy).*pgd"),
        ({"pgd": {"stepz": 0.1}}, (1, "pgd", "stepz"), "unknown key 'stepz'; did you mean step"),
        ({"accuracy": {"bins": 3}}, (1, "accuracy", "bins"), "unknown key 'bins'; remove it"),
        ({"pgd": {"eps": "0.1"}}, (1, "pgd", "eps", 0), "number"),
        ({"pgd": {"eps": {}}}, (1, "pgd", "eps"), "tuple"),
        ({"pgd": {"eps": [0.1, -1]}}, (1, "pgd", "eps", 1), r"pixels are in \[0, 1\]"),
        ({"pgd": {"eps": [0.1, 0.1]}}, (1, "pgd", "eps"), "the same value twice"),
        ({"pgd": {"steps": []}}, (1, "pgd", "steps"), "at least 1"),
        ({"pgd": {"step": "0.003"}}, (1, "pgd", "step", 0), "number"),
        ({"pgd": {"step": [0.003, 0.003]}}, (1, "pgd", "step"), "the same value twice"),
        ({"pgd": {"loss": "marginal"}}, (1, "pgd", "loss", 0), "'cross_entropy', 'margin' or 'scaled'"),
        ({"pgd": {"loss": ["margin", "margin"]}}, (1, "pgd", "loss"), "the same value twice"),
        ({"pgd": {"report": "best"}}, (1, "pgd", "report"), "worst"),
        ({"distance": {"eps": 8}}, (1, "distance", "eps"), r"pixels are in \[0, 1\]; 8/255 is 0.0314"),
        ({"distance": {"steps": 9}}, (1, "distance", "steps"), "greater than or equal to 10"),
        ({"distance": {"eps": 0}}, (1, "distance", "eps"), "greater than 0"),
        ({"masking": {"images": 501}}, (1, "masking", "images"), "less than or equal to 500"),
        ({"autoattack": {"eps": [0.1, 0.1]}}, (1, "autoattack", "eps"), "the same value twice"),
        ({"pgd": {"restarts": 0}}, (1, "pgd", "restarts"), "greater than or equal to 1"),
        ({"shift": {"folder": {"path": "x"}}}, (1, "shift", "folder", "name"), "required"),
        ({"shift": {"folder": {"path": "x", "name": "a/b"}}}, (1, "shift", "folder", "name"), "cannot name a folder"),
        ({"pgd": {}, "shift": {}}, (1,), "exactly one"),
        (7, (1,), "names no evaluator; known here: (?=.*accuracy).*pgd"),
        ("accuracy", (), "2 entries write the metrics 'accuracy'"),
    ],
)
def test_errors_say_where_and_what_would_do(entry, where, message):
    with pytest.raises(ValidationError) as refused:
        Sweep.model_validate({"evaluation": ["accuracy", entry]})
    (error,) = refused.value.errors()
    assert error["loc"] == ("evaluation", *where)
    assert re.search(message, error["msg"])


def test_all_errors_at_once():
    with pytest.raises(ValidationError) as refused:
        Sweep.model_validate({"evaluation": ["acuracy", {"pgd": {"stepz": 1, "restarts": 0, "images": 0}}]})
    assert len(refused.value.errors()) == 4


def test_two_folders_are_two_entries(folder):
    away = [{"shift": {"folder": {"path": str(folder), "name": name}}} for name in ("here", "there")]
    assert len(Sweep.model_validate({"evaluation": ["shift", *away]}).evaluation) == 3
    with pytest.raises(ValidationError, match="shift/here"):
        Sweep.model_validate({"evaluation": [away[0], away[0]]})


# Other images, other weights

held_out = [each for each in every_evaluator() if each.also_held_out]
each_held_out = pytest.mark.parametrize("evaluator_", held_out, ids=lambda each: each.key)


@each_held_out
def test_on_val_is_the_same_on_the_images_held_out(evaluator_, installed):
    network, teacher, data = small_network(), small_network(1), small_data()
    swapped = dataclasses.replace(data, test=data.validation, validation=None)
    entry = {evaluator_.key: evaluator_.dumped()[evaluator_.key], "on": "val"}
    (on_val,) = Sweep.model_validate({"evaluation": [entry]}).evaluation
    found = on_val.measured(subject(network, data, teacher=teacher))
    expected = evaluator_.measured(subject(network, swapped, teacher=teacher))
    assert found.metrics == {f"val/{name}": value for name, value in expected.metrics.items()} and found.metrics
    assert found.arrays.keys() == {f"val/{name}" for name in expected.arrays}
    for name, array in expected.arrays.items():
        assert np.array_equal(found.arrays[f"val/{name}"], array), name
    on_test = evaluator_.measured(subject(network, data, teacher=teacher))
    by_itself = evaluator_.measure(subject(network, data, teacher=teacher)).metrics
    flags = {"flags/collapsed", "flags/near_chance"} if evaluator_.conditional else set()
    assert {name: on_test.metrics[name] for name in by_itself} == by_itself
    assert on_test.metrics.keys() - by_itself.keys() == flags
    of_test = [*(on_test.metrics[name] for name in expected.metrics), *map(bytes, on_test.arrays.values())]
    assert of_test != [*expected.metrics.values(), *map(bytes, expected.arrays.values())]


def test_which_evaluators_take_held_out_images():
    attacked = {"pgd", "masking", "planted", "autoattack", "corruptions", "distance"}
    assert {each.key for each in held_out} == attacked | {*WITH_A_TEACHER}


def test_which_evaluators_say_nothing_without_a_teacher():
    """Those that say so are refused before the start where a network learns alone."""
    assert {key for key, kind in Evaluator.kinds().items() if kind.needs_teacher} == {"specialization", "oracle"}


@pytest.mark.parametrize("entry", [{"accuracy": {}}, {"shift": {}}])
def test_on_val_is_refused_where_it_means_nothing(entry):
    (name,) = entry
    with pytest.raises(ValidationError, match=f"on: val: {name} is not measured on held-out images by itself"):
        Sweep.model_validate({"evaluation": [entry | {"on": "val"}]})


def test_on_val_is_refused_for_files_of_corruptions(tmp_path):
    with pytest.raises(ValidationError, match="on: val: CIFAR-10-C's files are made from test images"):
        Corruptions(files={"path": str(tmp_path)}, on="val")


def test_on_val_without_images_held_out_says_what_to_set():
    given = subject(small_network(), dataclasses.replace(small_data(), validation=None))
    with pytest.raises(ValueError, match=r"nothing is held out to measure on; set dataset\.validation"):
        PGD(**SMALL["pgd"], on="val").measured(given)


@pytest.mark.parametrize("of", ["last", "average"])
@each_evaluator
def test_of_other_weights_is_the_same_of_that_network(evaluator_, of, installed):
    network, other, teacher, data = small_network(), small_network(2), small_network(1), small_data()
    ask_weights = {"initial": network, "last": network, of: other}.__getitem__
    given, to = (
        dataclasses.replace(subject(each, data, teacher=teacher), ask_weights=ask_weights) for each in (network, other)
    )
    (asked,) = Sweep.model_validate({"evaluation": [evaluator_.dumped() | {"of": of}]}).evaluation
    found, expected = asked.measured(given), evaluator_.measured(to)
    assert found.metrics == {f"{of}/{name}": value for name, value in expected.metrics.items()} and found.metrics
    assert found.arrays.keys() == {f"{of}/{name}" for name in expected.arrays}
    declared = asked.declared(Digits())
    assert all(name.startswith(f"{of}/") and not metric.headline for name, metric in declared.items())


@each_evaluator
def test_when_it_measures_is_no_part_of_its_hash(evaluator_):
    if evaluator_.needs_last:
        with pytest.raises(ValidationError, match="looks at the last epoch's weights, which are not there before"):
            type(evaluator_)(**dict(evaluator_) | {"every": 3})
    else:
        assert type(evaluator_)(**dict(evaluator_) | {"every": 3}).hash == evaluator_.hash
    with pytest.raises(ValidationError, match="every measures the network as it trains, and of: last what is kept"):
        type(evaluator_)(**dict(evaluator_) | {"every": 3, "of": "last"})


@pytest.mark.parametrize(
    ("entry", "where", "message"),
    [
        ({"pgd": {}, "on": "test"}, ("on",), "'val'"),
        ({"pgd": {}, "of": "best"}, ("of",), "'last' or 'average'"),
        ({"pgd": {}, "onn": "val"}, ("onn",), "unknown key 'onn'; did you mean on?"),
        ({"pgd": {"on": "val"}}, ("pgd", "on"), "on stands beside pgd, not below it"),
        ({"on": "val"}, (), "names no evaluator"),
    ],
)
def test_what_stands_beside_an_evaluator_is_checked_there(entry, where, message):
    with pytest.raises(ValidationError) as refused:
        Sweep.model_validate({"evaluation": [entry]})
    (error,) = refused.value.errors()
    assert error["loc"] == ("evaluation", 0, *where) and message in error["msg"]


def test_test_and_held_out_images_may_stand_in_one_evaluation():
    both = [{"pgd": {"images": 20}}, {"pgd": {"images": 20}, "on": "val"}]
    sweep = Sweep.model_validate({"evaluation": both})
    assert sweep.evaluation == (PGD(images=20), PGD(images=20, on="val"))
    assert sweep.model_dump(mode="json") == {"evaluation": both}
    assert [each.writes_under for each in sweep.evaluation] == ["pgd", "val/pgd"]
    for entry, name in zip(both, ("pgd", "val/pgd"), strict=True):
        with pytest.raises(ValidationError, match=f"2 entries write the metrics '{name}'; one would hide the other"):
            Sweep.model_validate({"evaluation": [*both, entry]})


def test_hash_tells_the_images_and_nothing_where_nothing_is_said():
    assert PGD(on=None, of=None).hash == PGD().hash == "c8281fd31891"
    hashes = {each.hash for each in held_out} | {each.model_copy(update={"on": "val"}).hash for each in held_out}
    assert len(hashes) == 2 * len(held_out)
    assert PGD(on="val").hash == "e2a459e7eaa0"  # finished results lie under it


# An evaluator of one's own


@pytest.fixture
def likeness():
    class Likeness(Evaluator):
        """Percent of the images that the teacher answers alike, times what a file of the data folder says."""

        version: ClassVar[int] = 1
        file: Text

        def measure(self, subject):
            factor = float((subject.context.data_dir / self.file).read_text())
            assert subject.teacher is not None
            ours, theirs = (
                predict(each, subject.split.images).argmax(1) for each in (subject.network, subject.teacher)
            )
            alike = (ours == theirs).numpy()
            return Measurement({"agreement/teacher": factor * 100 * float(alike.mean())}, {"agreement": pack(alike)})

    return Likeness


def test_a_class_is_found_by_its_key_parsed_and_measured(likeness, tmp_path):
    (tmp_path / "factor").write_text("2")
    entry = {"likeness": {"file": "factor"}}
    sweep = Sweep.model_validate({"evaluation": ["accuracy", entry, entry | {"on": "val"}]})
    ours, ours_on_val = sweep.evaluation[1:]
    assert (ours, ours_on_val) == (likeness(file="factor"), likeness(file="factor", on="val"))
    assert Evaluator.kinds()["likeness"] is likeness and Evaluator.find("LIKENESS") == (likeness, {})
    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep
    assert len({ours.hash, ours_on_val.hash, likeness(file="other").hash}) == 3

    network, teacher, data = small_network(), small_network(1), small_data()
    given = subject(network, data, teacher=teacher, data_dir=tmp_path)
    for each, part, split_ in ((ours, "", data.test), (ours_on_val, "val/", data.validation)):
        with torch.no_grad():
            answers = [one.eval()(split_.images / 255).argmax(1) for one in (network, teacher)]
        alike = (answers[0] == answers[1]).numpy()
        found = each.measured(given)
        assert found.metrics == pytest.approx({f"{part}agreement/teacher": 200 * alike.mean()})
        assert np.array_equal(unpack(found.arrays[f"{part}agreement"], len(split_)), alike)


def test_its_errors_are_told_as_others_are(likeness):
    for entry, where, message in (
        ("likenes", (), "unknown evaluator 'likenes'; did you mean likeness? (One of your own: --with FILE.py)"),
        ("likeness", ("likeness", "file"), "Field required"),
        ({"likeness": {"fil": "x", "file": "x"}}, ("likeness", "fil"), "unknown key 'fil'; did you mean file?"),
    ):
        with pytest.raises(ValidationError) as refused:
            Sweep.model_validate({"evaluation": [entry]})
        (error,) = refused.value.errors()
        assert error["loc"] == ("evaluation", 0, *where) and error["msg"] == message


def test_evaluators_of_other_tests_are_forgotten():
    assert "likeness" not in Evaluator.kinds()


# Reading a network


def test_predictions_are_those_of_the_network_in_eval_mode():
    network, images = small_network().train(), split(1203, 5).images
    logits = predict(network, images)
    assert logits.shape == (1203, 4) and logits.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(logits, network.eval()(images / 255))


@pytest.mark.parametrize("answer", [lambda x: x.flatten(1).double(), lambda x: x, lambda x: x.flatten(1).bfloat16()])
def test_answers_of_another_kind_are_refused(answer):
    class Other(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return answer(images)

    with pytest.raises(EvaluationError, match=r"where torch\.float32 \[60, classes\] was expected"):
        predict(Other(), small_data().test.images)


def test_no_images_is_an_error():
    with pytest.raises(EvaluationError, match="no images"):
        predict(small_network(), split(0, 1).images)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_packed_bits_come_back(bits):
    assert unpack(pack(np.array(bits)), len(bits)).tolist() == bits
    assert unpack(pack(np.array([bits, bits])), len(bits)).tolist() == [bits, bits]


# Accuracy and calibration


def by_bins(confidence: np.ndarray, bits: np.ndarray, bins: int = 15) -> float:
    """Guo et al. 2017, equations 2 and 3, as they are written."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.sum() / len(bits) * abs(bits[inside].mean() - confidence[inside].mean())
    return 100 * total


def test_accuracy_nll_and_ece():
    network, data = small_network(), small_data(test=777)
    measured = Accuracy().measure(subject(network, data))
    with torch.no_grad():
        softmax = network.eval()(data.test.images / 255).double().softmax(1).numpy()
    labels = data.test.labels.numpy()
    bits = softmax.argmax(1) == labels
    assert measured.metrics["test/accuracy"] == pytest.approx(100 * bits.mean())
    assert 10 < measured.metrics["test/accuracy"] < 50
    assert measured.metrics["test/nll"] == pytest.approx(log_loss(labels, softmax, labels=range(4)), abs=1e-6)
    assert measured.metrics["test/ece"] == pytest.approx(by_bins(softmax.max(1), bits), abs=1e-3)
    assert measured.arrays["test/softmax"].dtype == np.float32
    np.testing.assert_allclose(measured.arrays["test/softmax"], softmax, atol=1e-6)
    assert np.array_equal(unpack(measured.arrays["test/correct"], 777), bits)
    assert accuracy(network, data.validation) == measured.metrics["val/accuracy"]
    swapped = dataclasses.replace(data, test=data.validation, validation=None)
    alone = Accuracy().measure(subject(network, swapped)).metrics
    assert {name.replace("test/", "val/"): value for name, value in alone.items() if name.startswith("test/")} == {
        name: value for name, value in measured.metrics.items() if name.startswith("val/")
    }


@given(
    st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=60),
    st.sampled_from([1, 2, 10, 15]),
)
def test_calibration_error_is_the_one_written_down(pairs, bins):
    confidence, bits = (np.array(values) for values in zip(*pairs, strict=True))
    # away from the edges of bins, where one rounding and another may differ
    confidence = np.where(np.abs(confidence * bins - np.rint(confidence * bins)) < 1e-9, confidence * 0.999, confidence)
    assert expected_calibration_error(confidence, bits, bins) == pytest.approx(
        by_bins(confidence, bits, bins), abs=1e-9
    )


def test_calibration_error_of_known_cases():
    assert expected_calibration_error(np.ones(8), np.ones(8, bool)) == 0
    assert expected_calibration_error(np.ones(8), np.zeros(8, bool)) == 100
    sure = np.array([0.75] * 4)
    assert expected_calibration_error(sure, np.array([True, True, True, False])) == pytest.approx(0)
    # 0.6 is the upper edge of the ninth of 15 bins: 0.59 and 0.6 share a bin, 0.61 is in the next
    assert expected_calibration_error(np.array([0.59, 0.6]), np.array([True, False])) == pytest.approx(9.5)
    assert expected_calibration_error(np.array([0.6, 0.61]), np.array([True, False])) == pytest.approx(50.5)


def test_likelihood_survives_great_logits():
    log_softmax = torch.tensor([[3000.0, 0.0], [0.0, 3000.0]]).double().log_softmax(1)
    assert negative_log_likelihood(log_softmax, torch.tensor([0, 0])) == pytest.approx(1500)


# Shifted sets


def test_shifted_sets_of_the_dataset():
    network, data = small_network(), small_data()
    measured = Shift().measure(subject(network, data))
    assert measured.metrics == {"shift/elsewhere": accuracy(network, data.shifted["elsewhere"])}
    count = int(measured.arrays["shift/elsewhere/images"])
    bits = unpack(measured.arrays["shift/elsewhere/correct"], count)
    assert count == 33 and 100 * bits.mean() == pytest.approx(measured.metrics["shift/elsewhere"])


def test_without_a_shifted_set_nothing_is_measured(caplog):
    data = dataclasses.replace(small_data(), shifted={})
    measured = Shift().measure(subject(small_network(), data))
    assert not measured.metrics and not measured.arrays
    assert "Blots has no shifted set" in caplog.text


def coloured(data: Data, class_names: tuple[str, ...]) -> Data:
    """The same data in three equal channels, its classes numbered in another order."""
    order = torch.tensor([class_names.index(name) for name in CLASSES])

    def part(split: Split) -> Split:
        return Split(split.images.expand(-1, 3, -1, -1).contiguous(), order[split.labels])

    return Data(
        "Blots",
        class_names,
        (3, 6, 6),
        part(data.train),
        None,
        part(data.test),
        {name: part(each) for name, each in data.shifted.items()},
    )


@pytest.mark.parametrize("class_names", [CLASSES, CLASSES[::-1]])
def test_a_folder_counts_as_the_same_set_in_memory(folder, tmp_path, class_names):
    data = coloured(small_data(), class_names)
    network = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    measured = Shift(folder={"path": str(folder), "name": "cinic"}).measure(subject(network, data, data_dir=tmp_path))
    assert measured.metrics == {"shift/cinic": Shift().measure(subject(network, data)).metrics["shift/elsewhere"]}
    assert int(measured.arrays["shift/cinic/images"]) == 33


def test_a_folder_is_its_content_and_name_not_its_path(folder, tmp_path):
    here = Shift(folder={"path": str(folder), "name": "cinic"})
    copy = shutil.copytree(folder, tmp_path / "moved")
    assert Shift(folder={"path": str(copy), "name": "cinic"}).hash == here.hash
    assert Shift(folder={"path": str(copy), "name": "other"}).hash != here.hash
    changed = shutil.copytree(folder, tmp_path / "changed")
    next(changed.glob("*/*.png")).unlink()
    assert Shift(folder={"path": str(changed), "name": "cinic"}).hash != here.hash


def test_a_folder_that_does_not_fit_is_refused(folder, tmp_path):
    shift = Shift(folder={"path": str(folder), "name": "cinic"})
    with pytest.raises(DataError, match=r"images of \[3, 6, 6\].*Blots of \[1, 6, 6\]"):
        shift.measure(subject(small_network(), small_data(), data_dir=tmp_path))
    with pytest.raises(DataError, match="gnu"):
        other = dataclasses.replace(small_data(), class_names=("ant", "bee", "cow", "gnu"))
        shift.measure(subject(small_network(), other, data_dir=tmp_path))
    with pytest.raises(DataError, match="nowhere"):
        _ = Shift(folder={"path": str(tmp_path / "nowhere"), "name": "cinic"}).hash


# PGD


def separate_attacks(network: nn.Module, data: Data, pgd: PGD, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """An attack for every loss, eps, step size, restart and step count by itself, over all images at once."""
    images, labels = inputs(data.test.images[chosen]), data.test.labels[chosen]
    found = {}
    for loss, eps, step, steps in itertools.product(pgd.loss, pgd.eps, pgd.step, pgd.steps):
        rows = []
        for restart in range(pgd.restarts):
            uniform = randomness.draw(0, f"evaluation.pgd.{eps!r}.{restart}").uniform(images)
            start = images + eps * (2 * uniform - 1)
            reached = attack.pgd(network, images, labels, start, eps, step, steps, loss=attack.LOSSES[loss])
            rows.append(attack.withstood(network, reached, labels)[steps].numpy())
        differs = [f"{eps}"] * (eps != pgd.eps[0]) + [f"step={step}"] * (step != pgd.step[0])
        differs += [loss] * (loss != "cross_entropy")
        found[f"robust/pgd{steps}" + "@" * bool(differs) + ",".join(differs)] = np.array(rows)
    return found


def fitted_network(data: Data) -> nn.Module:
    """Right on about three images in four, so that conditional and unconditional numbers differ."""
    network = small_network()
    labels = data.test.labels.clone()
    labels[::4] = (labels[::4] + 1) % 4
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    network.eval()
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(data.test.images / 255), labels).backward()
        optimizer.step()
    network.zero_grad(set_to_none=True)
    return network


@pytest.mark.parametrize("images", [None, 22])
@pytest.mark.parametrize("batch", [500, 7])
def test_pgd_is_as_many_separate_attacks(images, batch, monkeypatch):
    """Nor does the size of batches matter, on images that rounding does not decide."""
    data = small_data()
    network = fitted_network(data)
    monkeypatch.setattr(pgd_module, "BATCH", batch)
    pgd = PGD(eps=(0.06, 0.12), step=0.02, steps=(1, 3, 8), restarts=3, images=images)
    measured = pgd.measure(subject(network, data))
    chosen = measured.arrays["robust/images"]
    assert len(chosen) == (images or 60)
    clean = unpack(measured.arrays["robust/clean"], len(chosen))
    with torch.no_grad():
        right = (network(data.test.images / 255).argmax(1) == data.test.labels).numpy()[chosen]
    assert np.array_equal(clean, right)
    assert measured.metrics["robust/clean"] == pytest.approx(100 * right.mean())
    separate = separate_attacks(network, data, pgd, chosen)
    assert len(separate) == 6
    expected = {"robust/clean": 100 * right.mean()}
    for name, robust in separate.items():
        assert np.array_equal(unpack(measured.arrays[name], len(chosen)), robust), name
        expected[name] = 100 * min((row & right).sum() / right.sum() for row in robust)
        expected[f"{name}/unconditional"] = 100 * min(row.mean() for row in robust)
        expected[f"{name}/worst"] = 100 * (robust.all(0) & right).sum() / right.sum()
        expected[f"{name}/worst_unconditional"] = 100 * robust.all(0).mean()
    assert measured.metrics == pytest.approx(expected)
    headline = measured.metrics["robust/pgd8"]
    assert 0 < headline < measured.metrics["robust/pgd1"] <= 100  # numbers with something to tell apart
    assert headline > measured.metrics["robust/pgd8@0.12"]
    assert headline != measured.metrics["robust/pgd8/unconditional"]


GRID = PGD(eps=(0.06, 0.12), step=(0.02, 0.06), steps=(1, 3, 8), restarts=4, loss=("cross_entropy", "margin", "scaled"))


def test_every_eps_has_every_step_size_and_loss_from_the_same_starts():
    data = small_data()
    network = fitted_network(data)
    arrays = GRID.measure(subject(network, data)).arrays
    separate = separate_attacks(network, data, GRID, np.arange(60))
    assert len(separate) == 3 * 2 * 2 * 3
    assert "robust/pgd8@0.12,step=0.06,margin" in separate and "robust/pgd8@step=0.06" in separate
    for name, robust in separate.items():
        assert np.array_equal(unpack(arrays[name], 60), robust), name
    assert set(arrays) == {"robust/clean", "robust/images", *separate}
    for other in ("step=0.06", "margin", "scaled"):  # and all of them count
        assert not np.array_equal(arrays["robust/pgd3"], arrays[f"robust/pgd3@{other}"]), other


@pytest.mark.parametrize("images", [None, 22])
@pytest.mark.parametrize("batch", [500, 7])
def test_the_cheaper_worst_case_is_the_plain_one_exactly(images, batch, monkeypatch):
    data = small_data()
    network = fitted_network(data)
    monkeypatch.setattr(pgd_module, "BATCH", batch)
    plain = GRID.model_copy(update={"images": images})
    cheaper = plain.model_copy(update={"report": "worst"})
    shown = []
    network.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    everything = plain.measure(subject(network, data))
    first = sum(shown)
    worst = cheaper.measure(subject(network, data))
    assert sum(shown) - first < 0.8 * first  # what is broken is left alone
    kept = {name for name in everything.metrics if name.endswith(("/worst", "/worst_unconditional"))}
    assert len(kept) == 2 * 36
    assert worst.metrics == {name: everything.metrics[name] for name in {"robust/clean", *kept}}  # no tolerance
    count = len(worst.arrays["robust/images"])
    for name in set(everything.arrays) - {"robust/clean", "robust/images"}:
        plainly = unpack(everything.arrays[name], count).all(0)
        assert np.array_equal(unpack(worst.arrays[f"{name}/worst"], count), plainly), name
    assert len(worst.arrays) == 2 + 36
    # numbers with something to tell apart: restarts differ, and some images fall only at a later one
    one = unpack(everything.arrays["robust/pgd3"], count)
    assert (one[0] & ~one.all(0)).any() and one.all(0).any()


def test_the_cheaper_worst_case_where_everything_falls_at_once():
    data = small_data()
    keys = {"eps": (1.0,), "step": 0.2, "steps": (1, 20), "restarts": 3}
    given = subject(fitted_network(data), data)
    plain, cheaper = (PGD(**keys, report=report).measure(given) for report in (None, "worst"))
    assert cheaper.metrics.items() <= plain.metrics.items()
    assert cheaper.metrics["robust/pgd20/worst"] == 0


def test_what_an_evaluator_costs():
    assert PGD(images=200).passes(10_000, 0) == 3 * 20 * 5 * 200 + 10_000
    assert GRID.passes(60, 40) == 3 * 8 * 4 * (3 * 2 * 2) * 60 + 100
    assert Shift().passes(10, 5) == 15
    # as many as were shown: a step asks once, and its gradient counts as two
    data, network, shown = small_data(), nn.Sequential(*small_network()), []  # without `features`: all goes forward
    network.register_forward_pre_hook(
        lambda _, given: shown.append(len(given[0]) * (3 if given[0].requires_grad else 1))
    )
    masking = Masking(eps=0.01, step=0.001, images=60, queries=50)
    data = dataclasses.replace(data, test=labelled_by(network, data.test))
    masking.measure(subject(network, data, teacher=small_network(1)))
    assert masking.passes(60, 25) == pytest.approx(sum(shown), rel=0.1)
    shown.clear()
    planted = Planted(eps=0.01, step=1e-6, images=60, points=100, queries=1)
    assert planted.measure(subject(network, data)).metrics["planted/images"] > 55
    # The smoothed attack, two fifths of it all, asks no more about what it has found.
    assert 0.55 < sum(shown) / planted.passes(60, 25) < 1.05


def labelled_by(network: nn.Module, split: Split) -> Split:
    """The same images, on which this network makes no mistake."""
    return Split(split.images, predict(network, split.images).argmax(1))


def test_metrics_and_arrays_have_these_names():
    measured = PGD(**SMALL["pgd"]).measure(subject(small_network(), small_data()))
    heads = ["robust/pgd2", "robust/pgd4", "robust/pgd2@0.1", "robust/pgd4@0.1"]
    tails = ["", "/unconditional", "/worst", "/worst_unconditional"]
    assert set(measured.metrics) == {"robust/clean"} | {head + tail for head in heads for tail in tails}
    assert set(measured.arrays) == {"robust/clean", "robust/images", *heads}


def test_where_nothing_is_right_conditional_metrics_are_absent():
    data = small_data()
    network = fitted_network(data)
    with torch.no_grad():
        wrong = (network(data.test.images / 255).argmax(1) + 1) % 4
    data = dataclasses.replace(data, test=Split(data.test.images, wrong))
    measured = PGD(eps=(0.01,), steps=(2,), restarts=2).measure(subject(network, data))
    assert measured.metrics["robust/clean"] == 0
    assert set(measured.metrics) == {"robust/clean", "robust/pgd2/unconditional", "robust/pgd2/worst_unconditional"}


def test_radius_zero_leaves_clean_accuracy_and_a_great_one_nothing():
    data = small_data()
    metrics = (
        PGD(eps=(0.0, 1.0), step=0.1, steps=(20,), restarts=2).measure(subject(fitted_network(data), data)).metrics
    )
    assert metrics["robust/pgd20"] == 100
    assert metrics["robust/pgd20/unconditional"] == metrics["robust/clean"] > 50
    assert metrics["robust/pgd20@1/worst_unconditional"] < 5  # the floor of accuracy against epsilon


def test_the_seed_is_the_evaluations_own():
    data = small_data()
    network = fitted_network(data)
    pgd = PGD(eps=(0.15,), step=0.05, steps=(1,), restarts=6, images=40)
    first, again, other = (pgd.measure(subject(network, data, seed=seed)).arrays for seed in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["robust/images"], other["robust/images"])
    assert len(np.unique(first["robust/pgd1"], axis=0)) > 1  # restarts start elsewhere


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=80),
    st.integers(1, 90),
    st.integers(0, 5),
)
def test_subsets_are_balanced_and_nested(labels, count, seed):
    labels = np.array(labels)
    chosen = balanced(labels, count, seed)
    assert len(chosen) == min(count, len(labels))
    assert np.array_equal(chosen, np.unique(chosen))
    taken, there = np.bincount(labels[chosen], minlength=5), np.bincount(labels, minlength=5)
    short = taken < there  # classes that could have given more
    assert not short.any() or taken[short].min() >= taken.max() - 1
    assert set(chosen) <= set(balanced(labels, count + 1, seed))
    assert np.array_equal(balanced(labels, None, seed), np.arange(len(labels)))


def test_fields_say_what_they_may_be():
    adapter = TypeAdapter(PGD)
    assert adapter.validate_python({"eps": [0]}).eps == (0.0,)
    assert adapter.validate_json('{"steps": [5]}').steps == (5,)
    assert adapter.validate_json('{"steps": 5, "eps": 0.1, "step": 1, "loss": "scaled"}') == PGD(
        steps=(5,), eps=(0.1,), step=(1.0,), loss=("scaled",)
    )


# From the clean image


def test_pgd_from_the_clean_image_begins_there_and_once(monkeypatch):
    network, data = small_network(), small_data()
    begun = []
    whole = pgd_module.withstanding

    def noting(network, images, labels, start, *rest):
        begun.append(torch.equal(start, images))
        return whole(network, images, labels, start, *rest)

    monkeypatch.setattr(pgd_module, "withstanding", noting)
    attack = {"eps": [0.1], "step": 0.02, "steps": [4], "restarts": 1}
    found = [PGD(**attack, **more).measured(subject(network, data)).metrics for more in ({"start": "clean"}, {})]
    assert begun == [True, False]
    assert found[0].keys() == found[1].keys()
    assert PGD(**attack, start="clean").attack == "eps 0.1, step 0.02, from the clean image"
    with pytest.raises(ValidationError, match="start: clean makes all 2 restarts alike; write restarts: 1"):
        PGD(**attack | {"restarts": 2}, start="clean")
