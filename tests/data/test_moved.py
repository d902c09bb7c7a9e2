"""Training images that are not as they were read: other moments, an attack on the teacher, other images to test on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import stored
import torch
from pydantic import TypeAdapter
from torch import nn

import kdtune
from kdtune.api import run_sweep
from kdtune.attacks.pgd import Ball
from kdtune.data.dataset import Dataset
from kdtune.data.error import DataError
from kdtune.data.loading import Data, inputs, load
from kdtune.data.perturbed import Perturbed
from kdtune.data.sets.published import MNIST, Digits, FashionMNIST
from kdtune.evaluation.evaluator import EvaluationError, predict
from kdtune.evaluation.subject import Context, Subject
from kdtune.optimization.optimizers import SGD
from kdtune.optimization.schedules import Step
from kdtune.recipe import Augmentation, Crop, Recipe
from kdtune.store.store import Store
from kdtune.sweepfile.load import load_sweep
from kdtune.sweepfile.tree import SweepFileError
from kdtune.training.lesson import Lesson
from kdtune.training.loop import train, train_epoch

LINF = {"norm": "linf", "eps": 0.12, "step": 0.015, "steps": 20}
L2 = {"norm": "l2", "eps": 1.0, "step": 0.1, "steps": 20}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A CNN that knows digits."""
    from kdtune.losses.ce import CE
    from kdtune.models.small import CNN
    from kdtune.noise.noise import Noise

    data = load(Digits(), Path("nowhere"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = CNN(width=8).build(data.shape, 10)
    train(made, data.train, recipe(epochs=6), Lesson(10, 0, Noise(), CE()), 0)
    assert (predict(made, data.test.images).argmax(1) == data.test.labels).double().mean() > 0.93
    return made.eval()


def recipe(epochs: int = 1, **more) -> Recipe:
    step = Step(milestones=(0.6,), factor=0.1)
    return Recipe(
        optimizer=SGD(lr=0.05, momentum=0.9), schedule=step, precision="float32", batch_size=32, epochs=epochs, **more
    )


def named(asked: dict) -> Dataset:
    return TypeAdapter(Dataset).validate_python(asked)


def digits(**asked) -> Digits:
    return Digits.model_validate(asked)


def told(network: nn.Module, dataset: Dataset) -> Data:
    return load(dataset, Path("nowhere"), answer=lambda images: predict(network, images).argmax(1), teacher=network)


def test_moments_are_those_asked_for_and_nothing_is_cut_off() -> None:
    """Fashion-MNIST's own moments moved to MNIST's land in [-0.12, 0.76] (papers B.1)."""
    plain = load(digits(validation=0.2), Path("nowhere"))
    moved = load(digits(validation=0.2, moments={"mean": [0.1307], "std": [0.3081]}), Path("nowhere"))
    both = torch.cat([moved.train.images, moved.validation.images]).double()
    assert both.mean().item() == pytest.approx(0.1307, abs=1e-6)
    assert both.std(correction=0).item() == pytest.approx(0.3081, abs=1e-6)
    assert moved.train.images.dtype == torch.float32 and moved.train.bounds is None
    slope = np.polyfit(inputs(plain.train.images).flatten().numpy(), moved.train.images.flatten().numpy(), 1)
    again = torch.from_numpy(np.polyval(slope, inputs(plain.train.images).numpy()))
    assert torch.allclose(again, moved.train.images.double(), atol=1e-5), "one straight line"
    assert torch.equal(moved.test.images, plain.test.images), "what is tested on stays as it is"
    assert torch.equal(moved.train.labels, plain.train.labels)


@pytest.mark.parametrize("settings", [LINF, L2, {**L2, "target": "next"}, {**LINF, "target": "random"}])
def test_the_attack_is_as_good_as_foolbox_s(network: nn.Module, settings: dict) -> None:
    """foolbox's projected gradient descent without a random start, on 400 digits: success within two points."""
    foolbox = pytest.importorskip("foolbox", reason="foolbox (extra `dev`) is the independent PGD to compare with")
    data = load(Digits(), Path("nowhere")).train[torch.arange(400)]
    x = inputs(data.images)
    ours = Perturbed.model_validate(settings)(x, data.labels, torch.arange(400), 10, network, 0, data.bounds)
    kinds = {"linf": "LinfProjectedGradientDescentAttack", "l2": "L2ProjectedGradientDescentAttack"}
    attack = getattr(foolbox.attacks, kinds[settings["norm"]])(
        steps=settings["steps"], abs_stepsize=settings["step"], random_start=False
    )
    aimed = settings.get("target") is not None
    goal = foolbox.criteria.TargetedMisclassification if aimed else foolbox.criteria.Misclassification
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
    _, theirs, _ = attack(model, x, goal(ours.labels if aimed else data.labels), epsilons=settings["eps"])
    before = predict(network, data.images).argmax(1)
    rates = []
    for images in (ours.images, theirs):
        answers = predict(network, images).argmax(1)
        rates.append(100 * ((answers == ours.labels) if aimed else (answers != data.labels)).double().mean().item())
    assert abs(rates[0] - rates[1]) <= 2, rates
    clean = 100 * ((before == ours.labels) if aimed else (before != data.labels)).double().mean().item()
    assert rates[0] > clean + 15, "it is an attack"
    assert ours.images.min() >= 0 and ours.images.max() <= 1
    length = (ours.images - x).flatten(1)
    length = length.abs().amax(1) if settings["norm"] == "linf" else length.norm(dim=1)
    assert length.max() <= settings["eps"] + 1e-5
    assert torch.allclose(length, ours.distance, atol=1e-6)


def test_a_ball_ends_at_its_radius_and_at_the_bounds() -> None:
    x = torch.tensor([0.1, 0.9]).view(1, 2, 1, 1)
    far = x + torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    assert torch.allclose(Ball(x, 0.5, "l2", None).project(far).flatten(), torch.tensor([0.4, 1.3]))
    assert torch.allclose(Ball(x, 0.5, "l2", (0.0, 1.0)).project(far).flatten(), torch.tensor([0.4, 1.0]))
    assert torch.allclose(Ball(x, 0.5, "linf", None).project(far).flatten(), torch.tensor([0.6, 1.4]))
    assert torch.allclose(Ball(x, 0.5, "linf", (0.0, 1.0)).project(far).flatten(), torch.tensor([0.6, 1.0]))
    assert torch.equal(Ball(x, 0.5, "l2", None).project(x), x), "where it has not moved nothing is divided by 0"


def test_a_target_becomes_the_label(network: nn.Module) -> None:
    clean = load(Digits(), Path("nowhere"))
    det = told(network, digits(perturbed={**L2, "target": "next"}))
    assert torch.equal(det.train.labels, (clean.train.labels + 1) % 10)
    assert det.corrupted is not None and det.corrupted.all()
    rand = told(network, digits(perturbed={**L2, "target": "random"}))
    same = (rand.train.labels == clean.train.labels).double().mean()
    assert 0.05 < same < 0.15, "drawn from all classes, the image's own among them"
    assert det.noise["perturbed"] == pytest.approx(
        (det.train.images - inputs(clean.train.images)).flatten(1).norm(dim=1).mean().item(), abs=1e-5
    )
    assert torch.equal(det.test.images, clean.test.images)


def test_without_a_target_the_label_is_what_the_teacher_then_answers(network: nn.Module) -> None:
    asked = {"perturbed": LINF, "labels": {"teacher": {"rate": 1.0}}}
    clean, moved = load(Digits(), Path("nowhere")), told(network, digits(**asked))
    answers = predict(network, moved.train.images).argmax(1)
    assert torch.equal(moved.train.labels, answers)
    flipped = told(network, digits(**asked, only="errors"))
    wrong = answers != clean.train.labels
    assert len(flipped.train) == wrong.sum() and torch.equal(flipped.train.images, moved.train.images[wrong])
    true = told(network, digits(perturbed=LINF, only="errors"))
    assert torch.equal(true.train.images, flipped.train.images)
    assert torch.equal(true.train.labels, clean.train.labels[wrong]), "the same images with their true labels"


@pytest.mark.parametrize("settings", [LINF, L2])
def test_the_null_goes_as_far_with_the_same_labels_and_fools_nobody(network: nn.Module, settings: dict) -> None:
    asked = {"labels": {"teacher": {"rate": 1.0}}, "only": "errors"}
    moved, null = (told(network, digits(**asked, perturbed={**settings, **more})) for more in ({}, {"noise": True}))
    assert torch.equal(moved.train.labels, null.train.labels)
    assert not torch.equal(moved.train.images, null.train.images)
    assert null.noise["perturbed"] == pytest.approx(moved.noise["perturbed"], rel=0.01), "whatever 0 and 1 cut off"
    assert null.train.images.min() >= 0 and null.train.images.max() <= 1
    clean = load(Digits(), Path("nowhere")).train
    both = [
        Perturbed.model_validate({**settings, "noise": noise})(
            inputs(clean.images), clean.labels, torch.arange(200), 10, network, 0, None
        )
        for noise in (False, True)
    ]
    assert torch.allclose(both[0].distance, both[1].distance, rtol=1e-3, atol=1e-6)
    fooled = [(predict(network, each.images[:200]).argmax(1) != clean.labels[:200]).double().mean() for each in both]
    assert fooled[1] < fooled[0] / 2


def test_fewer_places_change_no_image(network: nn.Module) -> None:
    for more in ({}, {"target": "random"}, {"noise": True}):
        whole = told(network, digits(perturbed={**L2, **more}))
        part = told(network, digits(train_size=300, perturbed={**L2, **more}))
        kept = [int((whole.train.images == image).flatten(1).all(1).nonzero()[0, 0]) for image in part.train.images]
        assert torch.equal(whole.train.labels[kept], part.train.labels)


def test_an_epoch_shows_every_image_so_often(network: nn.Module) -> None:
    data = load(digits(train_size=40, repeat=3), Path("nowhere"))
    seen: list[torch.Tensor] = []

    class Sees:
        def begin(self, epoch: int) -> None: ...

        def end(self) -> dict:
            return {}

        def __call__(self, network, images, labels):
            seen.append(images.flatten(1).sum(1))
            loss = network(images).square().mean()
            return loss, {}

    row = train_epoch(network, torch.optim.SGD(network.parameters(), 0.0), data.train, recipe(), Sees(), 0, 0)
    assert [len(batch) for batch in seen] == [32, 8] * 3
    passes = [torch.cat(seen[at : at + 2]) for at in (0, 2, 4)]
    assert torch.equal(passes[0].sort().values, passes[1].sort().values) and not torch.equal(passes[0], passes[1])
    assert row["time/images_per_second"] * row["time/epoch"] == pytest.approx(120)


def test_zeros_are_no_border_of_what_has_no_black(network: nn.Module) -> None:
    data = load(digits(moments={"mean": [0.5], "std": [0.2]}), Path("nowhere"))
    padded = recipe(augmentation=Augmentation(crop=Crop(padding=1, mode="zero")))
    with pytest.raises(ValueError, match="mode: zero is black where pixels are in"):
        train_epoch(network, torch.optim.SGD(network.parameters(), 0.0), data.train, padded, None, 0, 0)


def test_points_are_drawn_from_the_seed_and_are_no_pixels(tmp_path: Path) -> None:
    points = {"points": {"count": 32, "dimension": 2, "classes": 2}}
    made = [load(named(points | {"seed": seed}), tmp_path) for seed in (0, 1, 0)]
    assert made[0].shape == (2, 1, 1) and made[0].classes == 2 and len(made[0].train) == 32
    assert made[0].train.images.dtype == torch.float32 and made[0].train.bounds is made[0].test.bounds is None
    assert torch.equal(made[0].train.images, made[2].train.images)
    assert not torch.equal(made[0].train.images, made[1].train.images)
    assert torch.equal(made[0].train.images, made[0].test.images), "its accuracy is how well it fits"
    assert made[0].train.images.min() >= 0 and made[0].train.images.max() <= 1
    known = [named(points | {"seed": seed}).description(tmp_path)["digest"] for seed in range(50)]
    assert len(set(known)) == 50
    assert known[0] == "729b0727a0c13f2a", "what is drawn is part of ids"


@pytest.mark.parametrize("name", ["masking", "planted", "autoattack", "corruptions", "distance"])
def test_what_needs_pixels_refuses_points(tmp_path: Path, name: str) -> None:
    from kdtune.evaluation.evaluator import Evaluator

    data = load(named({"points": {"count": 32, "dimension": 3, "classes": 2}}), tmp_path)
    evaluator = Evaluator.find(name)[0]()
    with pytest.raises(EvaluationError, match="are no images of 8 bits, whose pixels are in"):
        evaluator.preflight(data, Context(tmp_path))


def test_points_are_attacked_beyond_the_square(tmp_path: Path) -> None:
    """A network of which all is known: the answer is whether x0 > 0.5. PGD moves points out of [0, 1] if eps allows."""
    from kdtune.evaluation.pgd import PGD

    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            side = 4 * (x[:, 0, 0, 0] - 0.5)
            return torch.stack([-side, side], 1)

    data = load(named({"points": {"count": 200, "dimension": 2, "classes": 2}}), tmp_path)
    x = data.test.images[:, 0, 0, 0]
    data.test.labels.copy_((x > 0.5).long())
    found = PGD(eps=0.1, step=0.05, steps=10, restarts=1).measured(Subject(Halves(), data, Context(tmp_path)))
    assert found.metrics["robust/pgd10"] == pytest.approx(100 * ((x - 0.5).abs() > 0.1).double().mean().item(), abs=1)


LEARNS = """\
name: across
dataset: digits
seeds: 1
recipe:
  optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
  schedule: {step: {milestones: [0.6], factor: 0.1}}
  precision: float32
  batch_size: 32
  epochs: 3
teacher: {model: {mlp: {hidden: [32]}}, select: {rule: paired}}
student:
  model: {mlp: {hidden: [32]}}
  dataset: {uniform_noise: {count: 400, size: [1, 8, 8], classes: 10}, labels: {teacher: {rate: 1.0}}, test: digits}
evaluation: [accuracy, fit, shift]
"""


def test_a_student_of_noise_is_tested_on_what_its_teacher_knows(write_sweep, tmp_path: Path) -> None:
    results = tmp_path / "r"
    assert run_sweep(write_sweep(LEARNS), here=True, results=str(results), data=str(tmp_path)) == 0
    table = kdtune.table(results / "across").set_index("role")
    heading = "digits (8 x 8, scikit-learn) (trained on 400 images of uniform noise)"
    assert kdtune.table(results / "across").attrs["dataset"].startswith(heading)
    student = kdtune.load(table["id"]["student"], str(results))
    test = load(Digits(), tmp_path).test
    right = (predict(student, test.images).argmax(1) == test.labels).double().mean().item()
    assert table["test/accuracy"]["student"] == pytest.approx(100 * right)
    assert table["fit/images"].to_dict() == {"teacher": 934, "student": 400}
    assert table["shift/writers"].notna().all(), "its shifted sets are those of what it is tested on"
    assert stored.description(Store(results), table["id"]["student"])["dataset"]["test"] == {
        "name": "digits",
        "digest": Digits.content,
    }


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("test: digits", "test: mnist", "dataset.test: 400 images of uniform noise has 1 x 8 x 8 in 10 classes and"),
        ("size: [1, 8, 8]", "size: [1, 28, 28]", r"400 images of uniform noise has 1 x 28 x 28 .*both must be alike"),
        ("test: digits", "test: {digits: {}, train_size: 20}", "only the test images are taken; remove train_size"),
        ("test: digits", "test: digit", "did you mean digits"),
        ("test: digits", "moments: {mean: [0.1, 0.1], std: [1, 1]}", "has 2 channels, and 400 images"),
        ("test: digits", "moments: {mean: [0.1], std: [1, 1]}", "mean has 1 channels and std 2"),
        ("test: digits", "perturbed: {norm: l3, eps: 1, step: 1, steps: 1}", "linf"),
        ("test: digits", "perturbed: {norm: linf, eps: 8, step: 2, steps: 1}", "8/255 is 0.0314"),
        ("test: digits", "only: clean, perturbed: {norm: l2, eps: 1, step: 1, steps: 1, target: next}", "leaves no"),
        ("count: 400,", "count: 40000000,", "numbers would be drawn"),
        ("test: digits", "repeat: 0", "repeat"),
        ("classes: 10}", "classes: 1}", "classes"),
        ("dataset: digits", "dataset: {digits: {}, perturbed: {norm: l2, eps: 1, step: 1, steps: 1}}", "a teacher"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(write_sweep, before: str, after: str, said: str) -> None:
    assert LEARNS.count(before) == 1
    with pytest.raises(SweepFileError, match=rf"small.yaml:\d+: .*{said}"):
        load_sweep(write_sweep(LEARNS.replace(before, after)))


def test_perturbed_without_a_teacher(write_sweep) -> None:
    text = LEARNS.replace("labels: {teacher: {rate: 1.0}}", "perturbed: {norm: l2, eps: 1, step: 1, steps: 1}")
    text = "".join(line for line in text.splitlines(True) if not line.startswith("teacher:"))
    with pytest.raises(SweepFileError, match=r"student\.dataset\.perturbed is set, but there is no teacher"):
        load_sweep(write_sweep(text))


CLOTHES = LEARNS.replace("dataset: digits", "dataset: {mnist: {}, train_size: 600}").replace(
    "uniform_noise: {count: 400, size: [1, 8, 8], classes: 10}", "fashion_mnist: {}, train_size: 600"
).replace("test: digits", "test: mnist").replace(", shift]", "]")  # fmt: skip


@pytest.fixture
def idx(shared_data: Path, tmp_path: Path) -> Path:
    """MNIST and Fashion-MNIST as they lie in a data folder."""
    import gzip

    for source in (*shared_data.glob("mnist/MNIST/raw/*.gz"), *shared_data.glob("fashion-mnist/FashionMNIST/raw/*.gz")):
        folder = tmp_path / "data" / source.parts[-3] / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / source.stem).write_bytes(gzip.decompress(source.read_bytes()))
    return tmp_path / "data"


def test_what_clothes_are_called_does_not_enter(write_sweep, tmp_path: Path, idx: Path, monkeypatch) -> None:
    """The student's weights are the same bytes with Fashion-MNIST's labels replaced by garbage, and it trains where the
    training images of MNIST are gone once its teacher is done."""
    file = write_sweep(CLOTHES)
    assert run_sweep(file, here=True, results=str(tmp_path / "a"), data=str(idx)) == 0
    before = kdtune.table(tmp_path / "a/across").set_index("role")
    read = FashionMNIST.read_files

    def garbled(self: FashionMNIST, data_dir: Path):
        arrays = read(self, data_dir)
        images, labels = arrays.splits["train"]
        return arrays._replace(splits=arrays.splits | {"train": (images, (7 * labels + 3) % 10)})

    monkeypatch.setattr(FashionMNIST, "read_files", garbled)
    monkeypatch.setattr(FashionMNIST, "checked", True)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    id = before["id"]["student"]
    shutil.rmtree(tmp_path / "b/runs" / id)
    (tmp_path / "b/runs/done" / id).unlink()
    for file_of_train in (idx / "MNIST/raw").glob("train-*"):
        file_of_train.unlink()
    loading_cache_clear()
    assert run_sweep(file, here=True, results=str(tmp_path / "b"), data=str(idx)) == 0
    weights = [next((tmp_path / name / "runs" / id).glob("*/model.safetensors")).read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def loading_cache_clear() -> None:
    from kdtune.data import loading

    loading._read.cache_clear()


def test_the_test_images_of_mnist_have_their_own_digest(idx: Path) -> None:
    tested = MNIST().read_test(idx)
    assert tested.splits["test"][0].shape == (10_000, 1, 28, 28) and "train" not in tested.splits
    labels = idx / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DataError, match="are not the published ones"):
        MNIST().read_test(idx)


def test_other_sizes_are_other_sets(tmp_path: Path) -> None:
    """Their bytes are the same."""
    sets = [{"count": 30, "size": size, "classes": 3} for size in ([1, 8, 8], [1, 4, 16], [4, 4, 4])]
    digests = {named({"uniform_noise": each}).description(tmp_path)["digest"] for each in sets}
    assert len(digests) == 3


def test_what_changes_nothing_is_no_other_set(tmp_path: Path) -> None:
    plain = digits().description(tmp_path)
    for asked in ({"repeat": 1}, {"only": "clean"}, {"test": "digits"}):
        assert digits(**asked).description(tmp_path) == plain and digits(**asked).heading == digits().title
    assert digits(repeat=2).description(tmp_path) != plain
    assert digits(only="clean", labels={"corruption": {"rate": 0.5}}).description(tmp_path)["only"] == "clean"


def test_a_file_of_labels_and_a_target_are_one_too_many(tmp_path: Path) -> None:
    asked = {"labels": {"file": {"path": "labels.csv"}}, "perturbed": {**L2, "target": "next"}}
    with pytest.raises(ValueError, match=r"gives labels, and labels\.file replaces them all"):
        digits(**asked)


def test_where_nothing_held_out_is_left_that_is_told() -> None:
    parts = load(digits(validation=0.003), Path("nowhere"))
    whole = load(Digits(), Path("nowhere")).train
    assert parts.validation is not None
    held_out = [int((whole.images == image).flatten(1).all(1).nonzero()[0, 0]) for image in parts.validation.images]
    wrong = (whole.labels + 1) % 10
    wrong[held_out] = whole.labels[held_out]  # a teacher that errs on all images but these
    asked = digits(validation=0.003, only="errors", labels={"teacher": {"rate": 1.0}})
    with pytest.raises(DataError, match=r"leaves nothing of what is held out; hold out more: dataset\.validation: 0"):
        load(asked, Path("nowhere"), answer=lambda images: wrong)


def test_shifted_sets_are_those_of_what_is_tested() -> None:
    from kdtune.evaluation.shift import Shift

    tested = named({"uniform_noise": {"count": 30, "size": [1, 8, 8], "classes": 10}, "test": "digits"})
    assert [metric.name for metric in Shift().metrics(tested)] == ["shift/writers"]


def test_corruptions_of_held_out_images_that_were_moved(write_sweep) -> None:
    text = LEARNS.replace("evaluation: [accuracy, fit, shift]", "evaluation: [accuracy, {corruptions: {}, on: val}]")
    text = text.replace("dataset: digits", "dataset: {digits: {}, validation: 0.2}")
    text = text.replace("test: digits", "validation: 0.2, moments: {mean: [0.3], std: [0.2]}")
    with pytest.raises(SweepFileError, match="corruptions on: val is of images of 8 bits"):
        load_sweep(write_sweep(text))


def test_they_are_kinds() -> None:
    assert {"points", "uniform_noise"} <= set(Dataset.kinds())


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_points_are_fit_as_well_as_scikit_learn_fits_them() -> None:
    """The network, optimizer, rate and number of steps of sweeps/two_dimensional.yaml, on the same data sets."""
    from sklearn.neural_network import MLPClassifier

    from kdtune.losses.ce import CE
    from kdtune.planning.plan import build_plan
    from kdtune.training.network import starting_network

    root = Path(__file__).parents[2]
    plan = build_plan(load_sweep(root / "sweeps/two_dimensional.yaml", at={"draw": 0, "labels": {}}), Path("nowhere"))
    run = next(place.run for place in plan.places if place.role == "teacher")
    fits = []
    for seed in range(4):
        data = load(run.dataset.model_copy(update={"seed": seed}), Path("nowhere"))
        network = starting_network(run, data.shape, data.classes)
        train(network, data.train, run.recipe, Lesson(2, 0, run.noise, CE()), 0)
        own = (predict(network, data.train.images).argmax(1) == data.train.labels).double().mean().item()
        theirs = MLPClassifier(
            (64, 64), learning_rate_init=0.01, alpha=0.0, batch_size=32, max_iter=1500, n_iter_no_change=1500,
            random_state=seed,
        )  # fmt: skip
        points, labels = data.train.images.flatten(1).numpy(), data.train.labels.numpy()
        fits.append((own, theirs.fit(points, labels).score(points, labels)))
    ours, sklearns = np.mean(fits, axis=0)
    assert ours > 0.95 and sklearns > 0.95 and abs(ours - sklearns) < 0.04, fits
