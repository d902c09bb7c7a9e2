"""Training on random images, and several such processes side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from simulated_gpu import simulated_gpu

from kdtune.extensions import read, use
from kdtune.launch.packing import part_of
from kdtune.planning.place import Place
from kdtune.planning.plan import build_plan
from kdtune.run import Run
from kdtune.sweepfile.load import load_sweep
from kdtune.training import rehearsal, together
from kdtune.training.rehearsal import Rehearsal
from kdtune.training.together import NotRehearsed, Part, Rehearsing, Together

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(ROOT.glob("sweeps/*.yaml"))

PRINTS = """\
from typing import ClassVar

from torch import Tensor, nn

from kdtune.attacks.space import Space
from kdtune.noise.input import InputKnob
from kdtune.randomness import Draw
from kdtune.settings import Pixels


class Chatty(InputKnob):
    strength: ClassVar[str] = "sigma"
    sigma: Pixels

    def __call__(
        self, images: Tensor, labels: Tensor, network: nn.Module, draw: Draw, teacher: nn.Module | None, space: Space
    ) -> Tensor:
        print("hello")
        if self.sigma > 0.5:
            raise ValueError("so much is too much")
        return images

    def measure(self, before: Tensor, after: Tensor) -> float:
        return 0.0
"""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "STEPS", 2)


def trained(file: Path | str, profile: str, folder: Path) -> tuple[Mapping[str, Place], list[Place]]:
    """A plan's runs, and of those that train one of each kind."""
    plan = build_plan(load_sweep(Path(file), profile), folder)
    kinds: dict[str, Place] = {}
    for place in plan.runs.values():
        if (recipe := place.run.recipe) is not None:
            loss = place.run.loss.model_dump_json() if place.run.loss else ""
            kinds.setdefault(f"{place.role} {place.run.model} {place.run.noise} {loss} {recipe.precision}", place)
    return plan.runs, [*kinds.values()]


def rehearsal_of(place: Place, runs: Mapping[str, Place], device: str = "cpu") -> Rehearsal:
    asked = part_of(place, runs, device)
    return Rehearsal(place.run, [Run.model_validate_json(each) for each in asked.teachers], device)


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_kind_of_run_can_be_rehearsed(file: Path, tmp_path: Path, short: None) -> None:
    runs, kinds = trained(file, "laptop", tmp_path)
    for place in kinds[:8] + kinds[8::5]:
        rehearsed = rehearsal_of(place, runs)
        before = [value.clone() for value in rehearsed.network.parameters()]
        rehearsed.epoch()
        assert any(not value.equal(was) for value, was in zip(rehearsed.network.parameters(), before, strict=True))
        rehearsed.attack()


def test_it_goes_on_for_longer_than_the_run(write_sweep: Any, tmp_path: Path, short: None) -> None:
    runs, (_, student, *_) = trained(write_sweep(), "paper", tmp_path)
    rehearsed = rehearsal_of(student, runs)
    for _ in range(student.run.recipe.epochs + 1):  # type: ignore[union-attr]
        rehearsed.epoch()
    assert rehearsed.rate(0.01) > 0


def test_on_a_gpu_too(write_sweep: Any, tmp_path: Path, short: None) -> None:
    """One that is not there: what lies where, not how fast it is."""
    runs, kinds = trained(write_sweep(), "paper", tmp_path)
    with simulated_gpu():
        for place in kinds:
            rehearsal_of(place, runs, "cuda").epoch()


def test_processes_side_by_side_are_as_alone_and_do_more_together(write_sweep: Any, tmp_path: Path) -> None:
    runs, kinds = trained(write_sweep(), "paper", tmp_path)
    found = together.together(part_of(kinds[-1], runs, "cpu"), most=2, seconds=0.3)
    assert found.alike and set(found.rates) == {1, 2} and found.rates[1] > 0 and found.room is None


def test_code_of_ones_own_may_print_and_what_it_raises_is_told(
    write_sweep: Any, small_sweep: str, tmp_path: Path
) -> None:
    own = tmp_path / "chatty.py"
    own.write_text(PRINTS)
    (extension,) = read([own])
    use([extension])
    try:
        for sigma, fails in ((0.1, False), (0.9, True)):
            noise = f"noise: {{input: {{chatty: {{sigma: {sigma}}}}}, teacher"
            runs, kinds = trained(write_sweep(small_sweep.replace("noise: {teacher", noise)), "paper", tmp_path)
            asked = part_of(kinds[-1], runs, "cpu")
            if fails:
                with pytest.raises(NotRehearsed, match=r"\nValueError: so much is too much$"):
                    together.together(asked, most=1, seconds=0.1)
            else:
                assert together.together(asked, most=1, seconds=0.1).count == 1
    finally:
        use(())


@pytest.mark.parametrize(
    ("rates", "alike", "count"),
    [
        ({1: 100.0}, True, 1),
        ({1: 100.0, 2: 150.0, 4: 210.0, 8: 215.0}, True, 4),
        ({1: 100.0, 2: 109.0}, True, 1),
        ({1: 100.0, 2: 111.0}, True, 2),
        ({1: 100.0, 2: 190.0, 4: 380.0, 8: 700.0}, True, 8),
        ({1: 100.0, 2: 190.0}, False, 1),
    ],
)
def test_twice_as_many_share_as_long_as_that_gives_a_tenth_more(
    rates: dict[int, float], alike: bool, count: int
) -> None:
    assert Together(rates, alike).count == count


class Fake(Rehearsing):
    """A process that answers at once: ten images a second, whoever is beside it."""

    begun: ClassVar[list[Fake]]
    memory: ClassVar[tuple[int, int]]
    odd: ClassVar[int]  # which of them ends with other weights
    lost: ClassVar[tuple[int, ...]]  # which of them do not get on

    def __init__(self, part: Part) -> None:
        self.number, self.answers = len(self.begun), list[Any]()
        weights = "b" if self.number == self.odd else "a"
        self.answers.append({"weights": weights, "taken": self.memory[0], "there": self.memory[1]})
        self.begun.append(self)

    def __exit__(self, *_: object) -> None: ...

    def ask(self, line: str) -> None:
        self.answers.append(10.0)

    def answer(self) -> Any:
        if self.number in self.lost:
            raise NotRehearsed("OutOfMemoryError: CUDA out of memory")
        return self.answers.pop(0)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def fakes(memory: tuple[int, int], odd: int = -1, lost: tuple[int, ...] = ()) -> None:
        monkeypatch.setattr(together, "Rehearsing", Fake)
        for name, value in {"begun": [], "memory": memory, "odd": odd, "lost": lost}.items():
            monkeypatch.setattr(Fake, name, value, raising=False)

    return fakes


@pytest.mark.parametrize(
    ("memory", "most", "begun", "count", "room"),
    [
        ((10, 100), 8, 8, 8, None),
        ((20, 100), 8, 4, 4, 4),
        ((30, 100), 8, 3, 2, 3),
        ((60, 100), 8, 1, 1, 1),
        ((95, 100), 8, 1, 1, 0),
        ((0, 0), 2, 2, 2, None),
        ((0, 0), 1, 1, 1, None),
    ],
)
def test_no_more_are_begun_than_there_is_memory_for(
    fakes: Any, memory: tuple[int, int], most: int, begun: int, count: int, room: int | None
) -> None:
    fakes(memory)
    found = together.together(Part("", (), "cpu"), most)
    assert (len(Fake.begun), found.count, found.room) == (begun, count, room)
    assert found.rates == {number: 10.0 * number for number in found.rates} and max(found.rates) == count
    assert ("there is memory for" in str(found)) is (room is not None)


def test_those_that_run_out_of_memory_set_the_limit_and_a_lone_one_that_does_is_told(fakes: Any) -> None:
    fakes((1, 100), lost=(5, 6, 7))
    found = together.together(Part("", (), "cpu"), 8)
    assert found.count == 4 and found.room == 5
    fakes((1, 100), lost=(0,))
    with pytest.raises(NotRehearsed, match="CUDA out of memory"):
        together.together(Part("", (), "cpu"), 8)


def test_where_one_differs_from_a_lone_one_none_shares(fakes: Any) -> None:
    fakes((1, 100), odd=3)
    found = together.together(Part("", (), "cpu"), 8)
    assert found.count == 1 and "do not end with the bits of a lone one" in str(found)


def test_what_hangs_is_ended(write_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, kinds = trained(write_sweep(), "paper", tmp_path)
    monkeypatch.setattr(together, "LONGEST_S", 0.2)
    with pytest.raises(NotRehearsed, match="killed, by the system or as it took longer than 0 s"):
        together.together(part_of(kinds[0], runs, "cpu"), most=2)


def test_another_kdtune_in_the_folder_is_not_taken(
    write_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, kinds = trained(write_sweep(), "paper", tmp_path)
    (tmp_path / "kdtune").mkdir()
    (tmp_path / "kdtune/__init__.py").write_text("raise ImportError('another')")
    monkeypatch.chdir(tmp_path)
    assert together.together(part_of(kinds[0], runs, "cpu"), most=1, seconds=0.1).count == 1


def test_memory_counts_what_a_run_will_have_beside(write_sweep: Any, small_sweep: str, tmp_path: Path) -> None:
    text = small_sweep.replace("digits: {}, train_size: 100, validation: 0.2", "cifar10: {}, validation: 0.2")
    text = text.replace("temperature: 4}", "temperature: 4, responses: stored}").replace(
        "grid: {rate: [0.0, 0.2]}", "grid: {rate: 0.0}"
    )
    text = text.replace("precision", "augmentation: {crop: {padding: 4, mode: reflect}, flip: {}}\n  precision")
    _, kinds = trained(
        write_sweep(text.replace("noise: {teacher: {dropout: {rate: $rate}}}", "noise: {}")), "paper", tmp_path
    )
    (teacher,), (student,) = ([each for each in kinds if each.role == role] for role in ("teacher", "student"))
    drawn = rehearsal.STEPS * 20
    images = (60_000 - drawn) * 3 * 32 * 32
    assert Rehearsal(teacher.run, [], "cpu").beside() == images
    assert Rehearsal(student.run, [teacher.run], "cpu").beside() == images + (50_000 - drawn) * 162 * 10 * 2


def test_an_epoch_that_is_timed_is_as_long_as_the_runs_own_or_long(
    write_sweep: Any, small_sweep: str, tmp_path: Path
) -> None:
    for size, batch, times in ((100, 20, 1), (900, 5, 7), (900, 2, 10)):
        text = small_sweep.replace("train_size: 100", f"train_size: {size}").replace("size: 20", f"size: {batch}")
        _, (teacher, *_) = trained(write_sweep(text), "paper", tmp_path)
        rehearsed = Rehearsal(teacher.run, [], "cpu")
        rehearsed.rate(0.01)
        assert rehearsed.split.repeat == times, (size, batch)
