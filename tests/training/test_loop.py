"""The loop against numpy in double precision; resuming; what runs share; divergence."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from torch import Tensor, nn
from torch.nn import functional

from kdtune.data.loading import Split
from kdtune.losses.kd import KD
from kdtune.noise.noise import Noise
from kdtune.optimization.optimizers import SGD
from kdtune.randomness import draw
from kdtune.recipe import Recipe
from kdtune.training.lesson import Lesson
from kdtune.training.loop import Diverged, TrainingState, best_epoch, learning_rate, train
from kdtune.training.step import Row

CLASSES = 10
CROP_AND_FLIP = {"crop": {"padding": 1, "mode": "reflect"}, "flip": {}}


def recipe(epochs: int, augmentation: Any = CROP_AND_FLIP, batch_size: int = 16, lr: float = 0.1, **sgd: Any) -> Recipe:
    written = {
        "optimizer": {"sgd": {"lr": lr, "momentum": 0.9, "weight_decay": 5e-4, **sgd}},
        "schedule": {"step": {"milestones": [0.3, 0.6, 0.8], "factor": 0.2}},
        "augmentation": augmentation,
        "precision": "float32",
        "batch_size": batch_size,
        "epochs": epochs,
    }
    return Recipe.model_validate(written)


def digits(n: int = 70) -> Split:
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(256, (n, 1, 8, 8), generator=numbers, dtype=torch.uint8)
    return Split(images, torch.randint(CLASSES, (n,), generator=numbers))


class CrossEntropy:
    """The plainest lesson; remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, Tensor, Tensor]] = []

    def begin(self, epoch: int) -> None:
        self.epoch = epoch

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        self.batches.append((self.epoch, images, labels))
        return functional.cross_entropy(network(images), labels), {"images": torch.tensor(float(len(labels)))}

    def end(self) -> dict[str, float]:
        return {"noise/none": 0.5}


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))


def convolutional() -> nn.Module:
    """Everything that makes resuming hard: batch statistics and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(144, CLASSES)
    )


def fickle_and_noisy(seed: int = 0, sigma: float = 0.1) -> Lesson:
    noise = Noise.model_validate({"input": {"gaussian": {"sigma": sigma}}, "teacher": {"dropout": {"rate": 0.3}}})
    torch.manual_seed(99)
    return Lesson(CLASSES, seed, noise, KD(alpha=0.9, temperature=4), convolutional())


def fingerprint(network: nn.Module) -> str:
    values = [value.detach().numpy().tobytes() for value in network.state_dict().values()]
    return hashlib.sha256(b"".join(values)).hexdigest()


def without_times(history: list[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in history]


# the schedule


@pytest.mark.parametrize(
    ("epochs", "steps"), [(200, (60, 120, 160)), (250, (75, 150, 200)), (300, (90, 180, 240)), (350, (105, 210, 280))]
)
def test_learning_rate_falls_where_the_paper_says(epochs: int, steps: tuple[int, int, int]) -> None:
    r = recipe(epochs)
    optimizer = r.optimizer.build(linear().parameters())
    rates = [learning_rate(optimizer, r, epoch) for epoch in range(epochs)]
    assert tuple(epoch for epoch in range(1, epochs) if rates[epoch] != rates[epoch - 1]) == steps
    assert [rates[0], *(rates[step] for step in steps)] == pytest.approx([0.1, 0.02, 0.004, 0.0008])


# one run


def numpy_training(split: Split, r: Recipe, seed: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Softmax regression by SGD as torch documents it, in double precision: weights, bias, mean loss per epoch."""
    layer: Any = linear()[1]  # type: ignore[index]
    parameters = [value.detach().double().numpy() for value in (layer.weight, layer.bias)]
    velocities: list[Any] = [None, None]
    sgd, losses = cast(SGD, r.optimizer), []
    optimizer = sgd.build([layer.weight])
    pixels, labels = split.images.reshape(len(split), -1).double().numpy() / 255, split.labels.numpy()
    for epoch in range(r.epochs):
        order, total = draw(seed, "order", epoch).permutation(len(split)).numpy(), 0.0
        for begin in range(0, len(split), r.batch_size):
            x, y = pixels[order[begin : begin + r.batch_size]], labels[order[begin : begin + r.batch_size]]
            logits = x @ parameters[0].T + parameters[1]
            total -= log_softmax(logits, 1)[np.arange(len(y)), y].sum()
            error = (softmax(logits, 1) - np.eye(CLASSES)[y]) / len(y)
            for i, slope in enumerate((error.T @ x, error.sum(0))):
                gradient = slope + sgd.weight_decay * parameters[i]
                velocities[i] = gradient if velocities[i] is None else sgd.momentum * velocities[i] + gradient
                step = gradient + sgd.momentum * velocities[i] if sgd.nesterov else velocities[i]
                parameters[i] = parameters[i] - learning_rate(optimizer, r, epoch) * step
        losses.append(total / len(split))
    return parameters[0], parameters[1], losses


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_training_is_numpys(momentum: float, nesterov: bool, weight_decay: float) -> None:
    """70 images in batches of 16: the last six are learnt from too, and count as six."""
    r = recipe(3, augmentation={}, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    network, split = linear(), digits()
    history = train(network, split, r, CrossEntropy(), seed=4)
    weight, bias, losses = numpy_training(split, r, seed=4)
    np.testing.assert_allclose(network[1].weight.detach(), weight, rtol=1e-4, atol=1e-5)  # type: ignore[index]
    np.testing.assert_allclose(network[1].bias.detach(), bias, rtol=1e-4, atol=1e-5)  # type: ignore[index]
    assert [row["train/loss"] for row in history] == pytest.approx(losses, rel=1e-5)


def test_every_image_is_shown_once_an_epoch_in_a_new_order() -> None:
    lesson, split = CrossEntropy(), digits(70)
    split.images[:, 0, 0, 0] = torch.arange(70)
    train(linear(), split, recipe(2, augmentation={}), lesson, seed=0)
    assert [len(labels) for epoch, _, labels in lesson.batches if epoch == 0] == [16, 16, 16, 16, 6]
    shown = [torch.cat([x for e, x, _ in lesson.batches if e == epoch]) for epoch in range(2)]
    orders = [(255 * x[:, 0, 0, 0]).round().long() for x in shown]
    assert all(torch.equal(order.sort().values, torch.arange(70)) for order in orders)
    assert not torch.equal(*orders)
    assert torch.equal(torch.cat([y for e, _, y in lesson.batches if e == 1]), split.labels[orders[1]])
    assert torch.equal(shown[0], split.images[orders[0]].float() / 255)


def test_images_are_augmented_anew_every_epoch() -> None:
    lesson, split = CrossEntropy(), Split(digits(1).images.repeat(64, 1, 1, 1), torch.zeros(64, dtype=torch.int64))
    train(linear(), split, recipe(2, batch_size=64), lesson, seed=0)
    first, second = (images for _, images, _ in lesson.batches)
    assert 10 < len(first.unique(dim=0)) <= 18  # nine crops, two sides
    assert not torch.equal(first, second)
    assert first.dtype == torch.float32 and first.min() >= 0 and first.max() <= 1


def test_history_has_a_row_per_epoch() -> None:
    history = train(linear(), digits(), recipe(5), CrossEntropy(), seed=0)
    assert list(history[0]) == [
        "epoch", "lr", "train/loss", "train/images", "noise/none",
        "time/epoch", "time/data", "time/student", "time/images_per_second",
    ]  # fmt: skip
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5]
    assert [row["lr"] for row in history] == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008])
    assert history[0]["train/images"] == pytest.approx((4 * 16**2 + 6**2) / 70)  # batches weigh by their images
    assert history[0]["time/images_per_second"] == pytest.approx(70 / history[0]["time/epoch"])


def test_a_lesson_with_a_teacher_adds_its_parts() -> None:
    torch.manual_seed(0)
    (row,) = train(convolutional(), digits(), recipe(1), fickle_and_noisy(), seed=0)
    assert row["train/loss"] == pytest.approx(0.1 * row["train/ce"] + 0.9 * row["train/kd"], rel=1e-5)
    assert 1 < row["train/accuracy"] <= 100, "percent, as val/accuracy"
    assert row["noise/input.gaussian"] == pytest.approx(0.1, rel=0.1)


def test_every_epoch_trains_in_train_mode_whatever_the_caller_does_between() -> None:
    modes = []
    network = linear().eval()
    network.register_forward_hook(lambda module, inputs, output: modes.append(module.training))

    def evaluate(state: TrainingState, row: Row) -> None:
        network.eval()

    train(network, digits(), recipe(3), CrossEntropy(), seed=0, each_epoch=evaluate)
    assert len(modes) == 15 and all(modes)


def test_the_caller_may_add_to_a_row() -> None:
    rows = []

    def validate(state: TrainingState, row: Row) -> None:
        assert state.history[-1] is row and state.epoch == row["epoch"] == len(state.history)
        row["val/accuracy"] = 0.1 * state.epoch
        rows.append(row)

    history = train(linear(), digits(), recipe(2), CrossEntropy(), seed=0, each_epoch=validate)
    assert history == rows and [row["val/accuracy"] for row in history] == [0.1, 0.2]


# resuming

EPOCHS = 5


def run(seed: int, start: TrainingState | None = None) -> tuple[str, list[Row], list[bytes]]:
    """A run with dropout, input noise, a fickle teacher and augmentation; with all its checkpoints."""
    torch.manual_seed(seed)
    network, checkpoints = convolutional(), []

    def keep(state: TrainingState, row: Row) -> None:
        row["val/accuracy"] = 0.5
        checkpoints.append(state.to_bytes())
        torch.rand(3)  # what the caller does between epochs takes nothing from the run's numbers

    lesson = fickle_and_noisy(seed)
    history = train(network, digits(), recipe(EPOCHS), lesson, seed, start=start, each_epoch=keep)
    return fingerprint(network), without_times(history), checkpoints


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, EPOCHS - 1), min_size=1, max_size=3, unique=True))
def test_interrupted_and_resumed_is_undisturbed(seed: int, cuts: list[int]) -> None:
    end, history, _ = run(seed)
    saved = None
    for cut in sorted(cuts):
        done = saved.epoch if saved else 0
        saved = TrainingState.from_bytes(run(seed, saved)[2][cut - done])
        assert saved.epoch == cut + 1
    resumed_end, resumed_history, _ = run(seed, saved)
    assert resumed_end == end
    assert resumed_history == history


SCORES = (0.25, 0.75, 0.5, 0.75, 0.1)  # the second epoch is the best, the fourth only as good


def keeping(seed: int, start: TrainingState | None = None) -> tuple[str, list[Row], list[bytes], list[str]]:
    """The same run, which ends with its best weights; with the weights of every epoch."""
    torch.manual_seed(seed)
    network, checkpoints, passed = convolutional(), [], []

    def keep(state: TrainingState, row: Row) -> None:
        row["val/accuracy"] = SCORES[state.epoch - 1]
        state.keep_best("val/accuracy")
        checkpoints.append(state.to_bytes())
        passed.append(fingerprint(network))

    history = train(network, digits(), recipe(EPOCHS), fickle_and_noisy(seed), seed, start=start, each_epoch=keep)
    return fingerprint(network), without_times(history), checkpoints, passed


def test_the_best_weights_are_kept_the_first_of_equals_and_training_goes_on_from_the_last() -> None:
    end, history, checkpoints, passed = keeping(0)
    assert end == passed[1] != passed[3] and best_epoch(history, "val/accuracy") == 2
    assert passed[-1] == run(0)[0], "the epochs are those of a run that keeps the last"
    assert [TrainingState.from_bytes(each).best is not None for each in checkpoints] == [True] * EPOCHS
    assert all(TrainingState.from_bytes(each).best is None for each in run(0)[2])


@pytest.mark.parametrize("cut", range(EPOCHS))
def test_the_best_weights_survive_an_interruption(cut: int) -> None:
    end, history, checkpoints, _ = keeping(1)
    start = TrainingState.from_bytes(checkpoints[cut])
    before = start.to_bytes()
    assert keeping(1, start)[:2] == (end, history)
    assert start.to_bytes() == before


def test_an_epoch_that_was_not_measured_is_not_the_best() -> None:
    rows: list[Row] = [{"epoch": 1}, {"epoch": 2, "val/accuracy": 0.1}, {"epoch": 3}]
    assert best_epoch(rows, "val/accuracy") == 2
    assert best_epoch(rows[:1], "val/accuracy") is None
    TrainingState(1, {}, {}, rows[:1]).keep_best("val/accuracy")
    unmeasured = TrainingState(3, {"w": torch.ones(1)}, {}, rows)
    unmeasured.keep_best("val/accuracy")
    assert unmeasured.best is None


def test_a_finished_run_is_not_trained_again() -> None:
    end, history, checkpoints = run(0)
    assert run(0, TrainingState.from_bytes(checkpoints[-1])) == (end, history, [])


def test_training_leaves_the_state_it_started_from_alone() -> None:
    start = TrainingState.from_bytes(run(0)[2][1])
    before = copy.deepcopy(start)
    run(0, start)
    assert start.to_bytes() == before.to_bytes() and len(start.history) == 2


def test_bytes_hold_plain_numbers_whatever_the_caller_put_in_a_row() -> None:
    row: Row = {"epoch": 1, "val/accuracy": np.float64(0.5), "val/nll": np.float32(0.25)}  # type: ignore[dict-item]
    state = TrainingState.from_bytes(
        TrainingState(1, {"w": torch.ones(2)}, {"state": {}, "param_groups": []}, [row]).to_bytes()
    )
    assert state.history == [{"epoch": 1, "val/accuracy": 0.5, "val/nll": 0.25}]
    assert [type(value) for value in state.history[0].values()] == [int, float, float]
    assert torch.equal(state.network["w"], torch.ones(2))


def test_bytes_that_would_run_code_are_refused() -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (print, ("code ran",))

    with pytest.raises(pickle.UnpicklingError):
        TrainingState.from_bytes(TrainingState(1, {"w": Harm()}, {}, []).to_bytes())


# what runs share


def test_runs_that_differ_only_in_sigma_share_order_augmentation_and_noise() -> None:
    def shown(sigma: float) -> tuple[Tensor, Tensor]:
        """What teacher and student saw in all of a run."""
        seen: tuple[list[Tensor], list[Tensor]] = ([], [])
        torch.manual_seed(1)
        lesson, student = fickle_and_noisy(3, sigma), convolutional()
        for network, images in zip((lesson.teacher, student), seen, strict=True):
            assert network is not None
            network.register_forward_pre_hook(lambda _, inputs, images=images: images.append(inputs[0]))
        train(student, digits(), recipe(2), lesson, seed=3)
        return torch.cat(seen[0]), torch.cat(seen[1])

    (clean, weak), (also_clean, strong) = shown(0.1), shown(0.4)
    assert torch.equal(clean, also_clean)
    torch.testing.assert_close((strong - clean) / 0.4, (weak - clean) / 0.1, atol=1e-5, rtol=0)


def test_seeds_differ() -> None:
    assert run(0)[0] != run(1)[0]


# divergence


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    states: list[bytes] = []
    split, absurd = digits(), recipe(9, lr=1e30)

    def keep(state: TrainingState, row: Row) -> None:
        states.append(state.to_bytes())

    with pytest.raises(Diverged, match=r"training diverged: loss (nan|inf) in epoch 1$") as caught:
        train(linear(), split, absurd, CrossEntropy(), seed=0, each_epoch=keep)
    assert caught.value.epoch == 1 and len(caught.value.history) == len(states) == 1
    assert not math.isfinite(caught.value.history[-1]["train/loss"])
    with pytest.raises(Diverged) as again:
        train(linear(), split, absurd, CrossEntropy(), seed=0, start=TrainingState.from_bytes(states[0]))
    assert again.value.epoch == 1
