"""What runs cost: multiply-adds, seconds, bytes of checkpoints. Pure arithmetic, without torch.

For `--dry-run`, for the question before hours of work, and as weights of the time left. All are estimates, corrected by
what the finished runs of a plan took once there are some.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import TYPE_CHECKING

from kdtune.evaluation.evaluator import BATCH, GRADIENT, Evaluator
from kdtune.planning.devices import CPU_CORE, GPU, Device, available, has_usable_gpu
from kdtune.planning.responses import answering, asking, listening, storable
from kdtune.planning.sizes import Images, images, model_cost
from kdtune.run import Run
from kdtune.store.checkpoints import KEPT
from kdtune.store.state import PASSED_OVER, State

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset
    from kdtune.planning.plan import Plan
    from kdtune.store.standing import Standing

TRAINING = 3  # a training step costs about three forward passes: one forward, two backward (weights, inputs)
UNKNOWN = 0  # devices
WORTH = 0.05  # of the time that is left: what is less is not worth other runs
COMPARED = 20  # finished runs whose seconds correct the estimate


@dataclass(frozen=True)
class Work:
    """Seconds of one device."""

    training: float
    evaluation: float

    @property
    def seconds(self) -> float:
        return self.training + self.evaluation


@dataclass(frozen=True)
class Estimate:
    """What is left of a plan. `hours` are of waiting, `device_hours` of all devices together, at `price` dollars each.

    Where nobody knows the number of devices, as many are taken as can be used.
    """

    hours: float
    device_hours: float
    device: Device
    devices: int
    compared: int  # finished runs that the estimate was corrected by
    factor: float  # by which these took longer than was estimated
    checkpoint_bytes: int  # at most, at one time
    price: float | None = None

    @property
    def dollars(self) -> float | None:
        return None if self.price is None else self.device_hours * self.price

    def __str__(self) -> str:
        if self.device_hours == 0:
            return "nothing is left to compute"
        source = f"judged by {self.compared} finished runs" if self.compared else "a rough guess, none is finished yet"
        where = f"{self.devices or 'enough'} {self.device.name}{'' if self.devices == 1 else 's'}"
        size = f"checkpoints up to {self.checkpoint_bytes / 1e6:.0f} MB"
        total = f"{self.device_hours:,.1f} {self.device.name} hours"
        costs = "" if self.price is None else f"; {total} for {self.dollars:,.2f} dollars, at {self.price:g} each"
        return f"about {duration(self.hours * 3600)} on {where} ({source}){costs}; {size}"


def estimate(
    plan: Plan,
    states: Mapping[str, State],
    standing: Standing,
    device: Device | None = None,
    devices: int | None = None,
    price: float | None = None,
) -> Estimate:
    """What the runs of a plan that a command would do still cost, on so many devices (default: those here).

    Raises DataError where the data cannot be read.
    """
    device = device or (GPU if has_usable_gpu() else CPU_CORE)
    devices = available(device) if devices is None else devices
    seconds: dict[str, float] = {}
    for id, state in states.items():
        if state not in PASSED_OVER:
            trained = standing.look(id).done is not None
            missing = standing.missing(id) if trained else None
            work = work_of(plan, id, device, missing)
            seconds[id] = work.evaluation if trained else work.seconds
    ratios = compared(plan, states, standing, device)
    factor = median(ratios) if ratios else 1.0
    # A run cannot start before those it waits for are done, however many devices there are.
    earliest: dict[str, float] = {}  # the end of each run, if nothing else kept it waiting
    for id, planned in plan.runs.items():
        begins = max((earliest.get(other, 0.0) for other in planned.waits_for), default=0.0)
        earliest[id] = begins + seconds.get(id, 0.0)
    chain = max((earliest[id] for id in seconds), default=0.0)
    untrained = [id for id in seconds if standing.look(id).done is None]
    storing = sum(each.storing for each in listening(plan, untrained) if each.stored) / device.rate
    total = sum(seconds.values()) + storing
    sizes = sorted((checkpoint_bytes(plan.runs[id].run) for id in seconds), reverse=True)
    return Estimate(
        hours=factor * max(chain, total / devices if devices else 0.0) / 3600,
        device_hours=factor * total / 3600,
        device=device,
        devices=devices,
        compared=len(ratios),
        factor=factor,
        checkpoint_bytes=sum(sizes[: devices or None]),
        price=price,
    )


def on_responses(plan: Plan, ids: Collection[str], about: Estimate) -> str | None:
    """Whether stored answers of teachers would save time over these runs, or cost it where they are used; None where
    there is nothing to say. Advised only where every run that asks a teacher could: a comparison has them in all its
    arms or in none."""
    found = listening(plan, ids)
    seconds = about.factor * sum(each.asking - each.storing for each in found) / about.device.rate
    students, teachers = sum(each.students for each in found), len(found)
    told = f"{students} student{'s' * (students != 1)} of {teachers} teacher{'s' * (teachers != 1)}"
    if any(each.stored for each in found):
        return None if seconds >= 0 else f"responses: stored cost {duration(-seconds)} more than asking: {told}"
    worth = seconds > WORTH * 3600 * about.device_hours
    if not worth or not all(storable(plan.runs[id].run) for id in ids if asking(plan.runs[id].run)):
        return None
    saved = f"{duration(seconds)} of {duration(3600 * about.device_hours)} of a {about.device.name}"
    return f"responses: stored would save about {saved}: {told}; these would be other runs"


def compared(plan: Plan, states: Mapping[str, State], standing: Standing, device: Device) -> list[float]:
    """Seconds that finished runs took on this kind of device, each over what was estimated. A diverged one was cut, and
    one that is not trained says nothing of training."""
    ratios: list[float] = []
    for id in (id for id, state in states.items() if state == State.DONE):
        record = standing.look(id).provenance
        on_cpu = str(record.get("device", "")).endswith("CPU")
        if plan.runs[id].run.recipe is not None and record.get("seconds") and on_cpu == (device.name == CPU_CORE.name):
            ratios.append(record["seconds"] / work_of(plan, id, device).seconds)
        if len(ratios) == COMPARED:
            break
    return ratios


def work_of(plan: Plan, id: str, device: Device = CPU_CORE, evaluators: Iterable[str] | None = None) -> Work:
    """The seconds of one run of a plan; `evaluators` (hashes) are those to measure with, by default all."""
    run = plan.runs[id].run
    seen = images(run.dataset)
    chosen = plan.evaluation
    if evaluators is not None:
        wanted = set(evaluators)
        chosen = [evaluator for evaluator in plan.evaluation if evaluator.hash in wanted]
    chosen = [evaluator for evaluator in chosen if run.teacher is not None or not evaluator.needs_teacher]
    teacher, source = (
        plan.runs[choice.runs[0]].run if choice and choice.runs[0] in plan.runs else None
        for choice in (run.teacher, run.source)
    )
    _, forward = model_cost(run.model, seen.shape, seen.classes)
    shown = passes(chosen, seen)
    return Work(
        training=training(run, seen, teacher, source) / device.rate + steps(run, seen) * device.step,
        evaluation=shown * (forward / device.rate + device.step / TRAINING / BATCH),
    )


def training(run: Run, seen: Images, teacher: Run | None = None, source: Run | None = None) -> float:
    """Multiply-adds of training; an epoch ends with a forward pass over the held-out images, and what it is watched by
    is part of it. Answers that are stored count as free: what they cost, their students share (`estimate`)."""
    if run.recipe is None:
        return 0.0
    _, own = model_cost(run.model, seen.shape, seen.classes)
    teaching = model_cost(teacher.model, seen.shape, seen.classes)[1] if teacher is not None else 0
    asks = max((knob.asks for knob in run.noise.knobs("teacher").values()), default=1) * answering(run)
    listened = teaching * asks if run.loss is not None and run.loss.asks and not run.loss.stored else 0
    besides = sum(knob.student_passes for knob in run.noise.knobs("input").values())
    listened += teaching * answering(run) * sum(knob.teacher_passes for knob in run.noise.knobs("input").values())
    told = seen.train * _asked(run.dataset) * teaching * answering(run)
    if source is not None and run.dataset.robust is not None:
        told += seen.train * GRADIENT * run.dataset.robust.steps * model_cost(source.model, seen.shape, seen.classes)[1]
    shown = seen.train * seen.repeat
    watched = sum(ceil(run.recipe.epochs / (each.every or 1)) * passes([each], seen) for each in run.watch)
    epoch = shown * ((TRAINING + besides) * own + listened) + seen.validation * own
    return float(told + run.recipe.epochs * epoch + watched * own)


def _asked(dataset: Dataset) -> int:
    """How often the teacher is asked about each training image before training begins; its gradient counts thrice."""
    if not dataset.asks:
        return 0
    return 1 + (GRADIENT * dataset.perturbed.steps if dataset.perturbed else 0)


def steps(run: Run, seen: Images) -> int:
    """Batches of a whole training."""
    if run.recipe is None:
        return 0
    return run.recipe.epochs * seen.repeat * ceil(seen.train / run.recipe.batch_size)


def passes(evaluation: Iterable[Evaluator], seen: Images) -> int:
    """Images that evaluators send through a network, forward; a step of an attack counts like one of training."""
    return sum(each.passes(seen.validation if each.on == "val" else seen.test, seen.validation) for each in evaluation)


def checkpoint_bytes(run: Run) -> int:
    """Bytes of a run's checkpoints while it trains: weights, the optimizer's numbers, the best weights and the mean."""
    if run.recipe is None:
        return 0
    parameters, _ = model_cost(run.model, run.dataset.shape(), run.dataset.classes())
    copies = 1 + run.recipe.optimizer.copies + (run.recipe.keep is not None) + (run.recipe.average is not None)
    return KEPT * 4 * parameters * copies


def duration(seconds: float) -> str:
    """As a person says it: 12 s, 3 min, 2.5 h, 4 days."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
