"""Steps that are recorded and replayed: the numbers of eager ones, or eager ones.

What CUDA's graphs do is tested where there is a GPU. All that surrounds them is tested here on the CPU, with graphs
that do again what they were shown: from where a replay finds its batch, to where it leaves its record.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdtune.data.loading import Split
from kdtune.losses.ce import CE
from kdtune.losses.dkd import DKD
from kdtune.losses.kd import KD
from kdtune.losses.loss import Loss
from kdtune.models.small import CNN
from kdtune.noise.noise import Noise
from kdtune.optimization.optimizers import SGD, Adam
from kdtune.optimization.schedules import Step as Steps
from kdtune.randomness import seeded
from kdtune.recipe import Augmentation, Crop, Flip, Recipe
from kdtune.training.captured import Capture, Captured, CudaGraph, Graph, Recorded
from kdtune.training.lesson import Lesson
from kdtune.training.loop import TrainingState, train
from kdtune.training.snapshot import AtEpoch, AtStep, same
from kdtune.training.step import Step

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MOMENTUM = SGD(lr=0.05, momentum=0.9, weight_decay=1e-4)
IMAGES, BATCH = 70, 16  # the last batch of an epoch has 6


class Again(Graph):
    """Does again what it was shown. Recording moves nothing, as in CUDA: who records restores."""

    replays = 0

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def record(self, act: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Tensor:
        self.act, self.record_of = act, act()
        return self.record_of

    def replay(self) -> None:
        type(self).replays += 1
        self.record_of.copy_(self.act())


class Lying(Again):
    """Its first replay is right in what it records, and not in what it leaves."""

    def replay(self) -> None:
        super().replay()
        with torch.no_grad():
            next(iter(WEIGHTS[0].parameters()))[0] += 1e-6


class Unable(Again):
    """Breaks off in the midst of a recording."""

    def record(self, act: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Tensor:
        super().record(act, generators)
        raise RuntimeError("operation not permitted\nwhen stream is capturing")


WEIGHTS: list[nn.Module] = []


def network(seed: int, device: str, dropout: float = 0.0) -> nn.Module:
    with seeded(seed, "test"):
        return CNN(width=4, dropout=dropout).build((1, 8, 8), 10).to(device)


def recipe(optimizer: Any, precision: str, epochs: int = 3) -> Recipe:
    return Recipe(
        optimizer=optimizer, schedule=Steps(milestones=(0.5,), factor=0.1), precision=precision, batch_size=BATCH,
        epochs=epochs, augmentation=Augmentation(crop=Crop(padding=1, mode="zero"), flip=Flip()),
    )  # fmt: skip


def trained(
    graph: Callable[[], Graph] | None,
    device: str,
    loss: Loss | None = None,
    noise: Noise | None = None,
    optimizer: Any = MOMENTUM,
    precision: str = "float32",
    dropout: float = 0.3,
    answers: bool = False,
    stop: int | None = None,
) -> tuple[dict[str, Tensor], list[list[float]], Capture | None]:
    """The network's weights after training, the history without times, and what became of the capture."""
    drawn = torch.Generator().manual_seed(3)
    images = torch.randint(256, (IMAGES, 1, 8, 8), generator=drawn, dtype=torch.uint8)
    split = Split(images, torch.arange(IMAGES) % 10).to(device)
    if answers:
        split = replace(split, answers=torch.randn(IMAGES, 18, 10, generator=drawn).half().to(device))
    loss = loss or KD(alpha=0.9, temperature=4)
    student, teacher = network(1, device, dropout), network(2, device) if loss.needs_teacher else None
    WEIGHTS[:] = [student]
    lesson = Lesson(10, 0, noise or Noise(), loss, teacher, precision, device)
    how, capture = recipe(optimizer, precision), Capture(graph) if graph else None
    if stop:
        kept: list[bytes] = []

        class Stopped(Exception):
            pass

        def each_epoch(state: TrainingState, row: dict[str, float]) -> None:
            kept.append(state.to_bytes())
            if state.epoch == stop:
                raise Stopped

        with pytest.raises(Stopped):
            train(student, split, how, lesson, 0, each_epoch=each_epoch, capture=capture)
        student = network(5, device, dropout)
        lesson = Lesson(10, 0, noise or Noise(), loss, teacher, precision, device)
        start = TrainingState.from_bytes(kept[-1])
        assert isinstance(start.optimizer["param_groups"][0]["lr"], float), "a checkpoint has numbers for rates"
        history = train(student, split, how, lesson, 0, start=start, capture=Capture(graph) if graph else None)
    else:
        history = train(student, split, how, lesson, 0, capture=capture)
    rows = [[value for name, value in row.items() if not name.startswith("time/")] for row in history]
    return copy.deepcopy(student.state_dict()), rows, capture


def knobs(**points: Any) -> Noise:
    return Noise.model_validate(points)


@pytest.mark.parametrize(("device", "graph"), [("cpu", Again), pytest.param("cuda", CudaGraph, marks=NO_GPU)])
@pytest.mark.parametrize(
    "run",
    [
        {},
        {"loss": CE()},
        {"loss": DKD(alpha=1.0, beta=2.0, temperature=4, warmup=2)},
        {"answers": True},
        {"precision": "bfloat16", "answers": True},
        {"optimizer": Adam(lr=0.01, betas=(0.9, 0.999))},
        {"noise": knobs(input={"gaussian": {"sigma": 0.1}})},
        {"noise": knobs(target={"variability": {"rate": 0.3}}), "dropout": 0.0},
        {"noise": knobs(teacher={"signal_noise": {"sigma": 0.1}})},
        {"noise": knobs(teacher={"swap": {"rate": 0.5, "threshold": 0.1, "difference": "relative", "pairs": "all"}})},
        {"noise": knobs(teacher={"dropout": {"rate": 0.2}})},  # masks of the teacher's own stream of global generators
        {"noise": knobs(input={"pgd": {"eps": 0.1, "step": 0.05, "steps": 2, "climbs": "teacher"}})},
        {"stop": 1},
    ],
    ids=str,
)  # fmt: skip
def test_the_numbers_are_those_of_eager_steps(device: str, graph: type[Graph], run: dict[str, Any]) -> None:
    weights, history, _ = trained(None, device, **run)
    Again.replays = 0
    ours, rows, capture = trained(graph, device, **run)
    assert all(torch.equal(ours[name], value) for name, value in weights.items())
    assert rows == history and len(rows) == 3
    assert capture is not None and capture.shown and capture.told == "captured"
    if graph is Again:  # of 5 batches an epoch the first and the last are eager
        assert Again.replays == 9


@pytest.mark.parametrize(
    ("graph", "said", "level"),
    [
        (Lying, "its numbers differ from those of the eager step", logging.WARNING),
        (Unable, "RuntimeError: operation not permitted when stream is capturing", logging.INFO),
    ],
)
def test_what_cannot_be_trusted_is_eager_and_said_once(
    graph: type[Graph], said: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    weights, history, _ = trained(None, "cpu")
    with caplog.at_level(logging.INFO, "kdtune"):
        ours, rows, capture = trained(graph, "cpu")
    assert all(torch.equal(ours[name], value) for name, value in weights.items()) and rows == history
    assert capture is not None and capture.refused == said
    (record,) = (each for each in caplog.records if "captured" in each.name)
    assert said in record.getMessage() and record.levelno == level


def test_a_state_is_all_that_a_step_changes() -> None:
    """Restored, the same step gives the same bits; and it was changed by the step."""
    student = network(1, "cpu", 0.5)
    split = Split(torch.randint(256, (BATCH, 1, 8, 8), dtype=torch.uint8), torch.arange(BATCH) % 10)
    lesson = Lesson(10, 0, knobs(input={"gaussian": {"sigma": 0.1}}), CE())
    how = recipe(SGD(lr=0.05, momentum=0.9), "float32")
    step = Step(student, how.optimizer.build(student.parameters()), split, how, lesson)
    student.train()
    with seeded(0, "test"):
        lesson.begin(0)
        places, views = torch.arange(BATCH), torch.zeros(BATCH, dtype=torch.int64)
        step(places, views, 0.05)  # now there is momentum
        before = AtStep(step)
        first, after = step(places, views, 0.05), AtStep(step)
        assert before != after
        before.restore()
        assert AtStep(step) == before and torch.equal(step(places, views, 0.05), first) and AtStep(step) == after


def test_one_epoch_of_one_batch_records_nothing() -> None:
    class Never(Again):
        def record(self, act: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Tensor:
            raise AssertionError

    captured = Captured(_StepOf(BATCH), Capture(Never))  # type: ignore[arg-type]
    whole, part = torch.arange(BATCH), torch.arange(5)
    assert [float(captured(each, each, 0.1)) for each in (whole, part)] == [BATCH, 5]


class _StepOf:
    """A step that says how many images it was given."""

    def __init__(self, size: int) -> None:
        self.recipe = recipe(SGD(lr=0.1), "float32")

    def __call__(self, batch: Tensor, views: Tensor, rate: float) -> Tensor:
        return torch.tensor(float(len(batch)))


def test_where_a_recording_breaks_off_the_stream_is_as_before_and_no_other_is_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch 2.11 leaves it: the end of such a recording raises, and the stream of the recording stays."""
    streams, states = ["default"], list[str]()

    class Generator:
        device = torch.device("cuda")
        graphsafe_set_state = states.append

        def __init__(self, device: Any) -> None: ...

        def graphsafe_get_state(self) -> str:
            return "new"

    class Recording:
        def __init__(self, graph: Any, pool: Any, stream: Any) -> None:
            assert stream == "own"

        def __enter__(self) -> None:
            streams.append("recording")

        def __exit__(self, *_: object) -> None:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def act() -> Tensor:
        raise ValueError("no such step")

    ended: list[Any] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda *told: ended.append(told))
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: streams[-1])
    monkeypatch.setattr(torch.cuda, "set_stream", streams.append)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr("kdtune.training.captured.global_on_gpu", Generator)
    monkeypatch.setattr(CudaGraph, "broken", "")
    monkeypatch.setattr(CudaGraph, "stream", "own")
    for _ in range(2):
        graph = CudaGraph()
        graph.graph = SimpleNamespace(register_generator_state=lambda generator: None)  # type: ignore[assignment]
        with pytest.raises(RuntimeError):
            graph.record(act, [Generator("cuda")])  # type: ignore[list-item]
    assert streams == ["default", "recording", "default"] and states == ["new", "new"], "once"
    assert ended == [(0, "pool")] and CudaGraph.broken == "ValueError: no such step", "what went wrong first"


def test_the_step_before_a_recording_is_taken_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS and others are set up there by then; each stream waits for what the other has begun."""
    told: list[tuple[str, ...]] = []

    class Stream:
        def __init__(self, name: str = "own") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            told.append((self.name, "waits for", other.name))

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        told.append(("on", stream.name))
        yield
        told.append(("off", stream.name))

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("here"))
    monkeypatch.setattr(CudaGraph, "stream", None)
    first = CudaGraph()
    with first.aside():
        told.append(("a step",))
    assert told == [
        ("own", "waits for", "here"), ("on", "own"), ("a step",), ("off", "own"), ("here", "waits for", "own"),
    ]  # fmt: skip
    assert CudaGraph().own is first.own


class LyingLater(Again):
    """Right in the first epoch's graph, wrong in those of later epochs."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.number = type(self).made

    def replay(self) -> None:
        super().replay()
        if self.number > 1:
            self.record_of += 1


class LyingAtLast(Again):
    """Each first replay is right, the third one of the first epoch is not."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.replayed = 0

    def replay(self) -> None:
        super().replay()
        self.replayed += 1
        if self.replayed == 3 and self.made == 1:
            self.wrong()

    def wrong(self) -> None:
        self.record_of += 1


class Moving(LyingAtLast):
    """What is wrong is not in its record."""

    def wrong(self) -> None:
        with torch.no_grad():
            next(iter(WEIGHTS[0].parameters()))[0] += 1e-6


class Breaking(LyingAtLast):
    def wrong(self) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (LyingAtLast, "its numbers differ from those of the eager step"),
        (Moving, "its numbers differ from those of the eager step"),
        (Breaking, "AcceleratorError: CUDA error: an illegal memory access was encountered"),
    ],
)
@pytest.mark.parametrize("how", [{}, {"stop": 1}, {"optimizer": Adam(lr=0.01, betas=(0.9, 0.999))}], ids=str)
def test_a_whole_first_epoch_is_held_to_the_eager_one(
    graph: type[LyingAtLast], said: str, how: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    weights, history, _ = trained(None, "cpu", **how)
    graph.made = 0
    with caplog.at_level(logging.WARNING, "kdtune"):
        ours, rows, _ = trained(graph, "cpu", **how)
    assert all(torch.equal(ours[name], value) for name, value in weights.items()) and rows == history
    assert said in caplog.text
    assert graph.made == (3 if how == {"stop": 1} else 1), "no graph after it; a run that goes on tries anew"


@pytest.mark.parametrize(("batch", "epochs", "said"), [(32, 3, "full batches"), (16, 1, "fewer than two epochs")])
def test_where_a_graph_could_gain_nothing_no_epoch_is_trained_twice(batch: int, epochs: int, said: str) -> None:
    images = torch.randint(256, (IMAGES, 1, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    split, passes = Split(images, torch.arange(IMAGES) % 10), list[int]()
    student = network(1, "cpu")
    student.register_forward_pre_hook(lambda *_: passes.append(1))
    how = recipe(MOMENTUM, "float32", epochs).model_copy(update={"batch_size": batch})
    capture = Capture(Again)
    train(student, split, how, Lesson(10, 0, Noise(), CE()), 0, capture=capture)
    assert len(passes) == epochs * -(-IMAGES // batch)
    assert capture.told.startswith("eager: ") and said in capture.told


def test_what_a_replay_spends_on_what_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does an epoch that broke off leave its seconds to the next."""
    parts = {"time/data", "time/teacher", "time/student"}
    rows: list[dict[str, float]] = []
    original = Capture.train

    def kept(self: Capture, *told: Any) -> dict[str, float]:
        rows.append(original(self, *told))
        return rows[-1]

    monkeypatch.setattr(Capture, "train", kept)
    trained(Again, "cpu")
    assert all("time/epoch" in row and not parts & row.keys() for row in rows) and len(rows) == 3
    rows.clear()
    Breaking.made = 0
    trained(Breaking, "cpu")
    assert all(parts <= row.keys() and row["time/teacher"] < row["time/epoch"] for row in rows) and len(rows) == 3


@pytest.mark.parametrize(
    ("one", "other"), [(0.0, -0.0), (float("inf"), torch.finfo(torch.float32).max), (1.0, float("nan"))]
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_the_same_is_every_bit(one: float, other: float, kind: torch.dtype) -> None:
    a, b = torch.tensor([[one]], dtype=kind), torch.tensor([[other]], dtype=kind)
    assert same(a, a.clone()) and same(b, b.clone())
    assert same(a, b) is (kind == torch.bfloat16 and one == float("inf")), "which rounds to infinity"
    assert not same(a, a.to(torch.float16))
    assert same(torch.tensor(3), torch.tensor(3)) and not same(torch.tensor(3), torch.tensor(4))


def test_what_an_epoch_changes_is_all_put_back() -> None:
    """Before its first step an optimizer has no numbers, and has none again."""
    student = network(1, "cpu")
    optimizer = MOMENTUM.build(student.parameters())
    before = AtEpoch(student, optimizer)
    student(torch.rand(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    after = AtEpoch(student, optimizer)
    assert before != after and AtEpoch(student, optimizer) == after
    before.restore()
    assert AtEpoch(student, optimizer) == before and not optimizer.state
    after.restore()
    optimizer.step()
    after.restore()
    assert AtEpoch(student, optimizer) == after, "which a step has not written into"


def test_the_graph_of_a_later_epoch_is_checked_too() -> None:
    weights, history, _ = trained(None, "cpu")
    LyingLater.made = 0
    ours, rows, capture = trained(LyingLater, "cpu")
    assert LyingLater.made == 2 and capture is not None and "differ" in capture.refused
    assert all(torch.equal(ours[name], value) for name, value in weights.items()) and rows == history


def test_whoever_waits_for_signs_of_life_hears_replays() -> None:
    signs: list[int] = []
    captured = Captured(_StepOf(BATCH), Capture(Again, lambda: signs.append(1)))  # type: ignore[arg-type]
    captured.step.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    captured.step.lesson = SimpleNamespace(generators=[])  # type: ignore[assignment]
    whole = torch.arange(BATCH)
    recorded = Recorded(captured.step, Again(), whole, whole, 0.1)
    captured._replayed(recorded, whole, whole, 0.1)
    assert signs == [1]
