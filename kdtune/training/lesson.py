"""What the student is shown and what it is asked: knobs applied, views of the batch made, the loss called.

    kd: loss = (1 - alpha) CE(student(x + delta), y') + alpha temperature^2 KL(student(x + delta), teacher(x))

Input knobs make x + delta, target knobs y', teacher knobs change teacher(x) (Arani et al., arXiv 1910.05057,
section 3). What a strength does is measured in the first batch of every epoch and logged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from math import isnan, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdtune.attacks.space import PIXELS, Space
from kdtune.losses.views import Answer, Views
from kdtune.randomness import GlobalStream, draw, set_global
from kdtune.training.stopwatch import Stopwatch

if TYPE_CHECKING:
    from kdtune.losses.loss import Loss
    from kdtune.noise.knob import Knob
    from kdtune.noise.noise import Noise


class Lesson:
    """The loss of one run, with a teacher or without: a `step.Objective`.

    The teacher is this lesson's own: it is put in eval mode, apart from what teacher knobs switch on, and gets no
    gradient; its parameters and buffers stay as they are. Each knob has its stream, begun anew every epoch and named
    by its path and by whether the run learns from a teacher (`learns.input.gaussian`) or alone: a teacher and its
    student of one seed draw apart. Dropout draws from torch's global generator: the network's own from the stream
    `dropout`, with which `begin` seeds it, the teacher's from `teacher.dropout`, and that of networks which input knobs
    ask from `input.dropout`. So a student's masks are the same whatever its teacher and its knobs do.

    Raises ValueError for a loss that needs a teacher without one and the reverse, for knobs that need a teacher
    without one and, in `begin`, for a knob that the teacher cannot follow.
    """

    def __init__(
        self,
        classes: int,
        seed: int,
        noise: Noise,
        loss: Loss,
        teacher: nn.Module | None = None,
        precision: str = "float32",
        device: torch.device | str = "cpu",
        space: Space = PIXELS,
    ) -> None:
        if loss.asks and teacher is None:
            raise ValueError(f"the loss {loss.key} needs a teacher, and this run has none")
        if teacher is not None and not loss.asks:
            raise ValueError(f"a teacher was given, and the loss {loss.key} asks none")
        if teacher is None and noise.knobs("teacher"):
            raise ValueError(f"noise.teacher names {', '.join(noise.knobs('teacher'))}, but this run has no teacher")
        if teacher is None and (asking := [name for name, knob in noise.knobs("input").items() if knob.asks_teacher]):
            raise ValueError(f"noise.input.{asking[0]} asks a teacher, but this run has no teacher")
        self.classes, self.seed, self.device = classes, seed, device
        self.loss, self.teacher, self.space = loss, teacher, space
        self.knobs: dict[str, dict[str, Knob]] = {point: noise.knobs(point) for point in ("input", "teacher", "target")}
        if (temperature := loss.softens_at) is not None:
            self.knobs["teacher"] = {
                name: knob.softened_at(temperature) for name, knob in self.knobs["teacher"].items()
            }
        self.cast: AbstractContextManager[Any] = nullcontext()  # made once: steps of small networks are short
        if precision == "bfloat16":
            # Nothing kept: what it keeps of weights lasts until the outermost autocast ends, and a run has one around
            # all of its steps (`backends.torch_for`), so that every step would compute with the weights of the first.
            self.cast = torch.autocast(torch.device(device).type, dtype=torch.bfloat16, cache_enabled=False)
        self.epoch = 0

    def begin(self, epoch: int) -> None:
        """Put every stream and the teacher at the start of an epoch, counted from 0."""
        self.epoch = epoch
        set_global(self.seed, self._stream("dropout"), epoch)
        paths = [f"{point}.{name}" for point, knobs in self.knobs.items() for name in knobs]
        self.draws = {path: draw(self.seed, self._stream(path), epoch, self.device) for path in paths}
        self.measured: dict[str, list[float]] = defaultdict(list)
        self.measuring = True
        self.asking = Stopwatch(self.device)  # a new one: an epoch may have been broken off
        self.apart = {
            point: GlobalStream(self.seed, self._stream(f"{point}.dropout"), epoch, self.device)
            for point in ("input", "teacher")
            if any(knob.draws_globally for knob in self.knobs[point].values())
        }
        if self.teacher is not None:
            self.teacher.eval()
            for knob in self.knobs["teacher"].values():
                knob.prepare(self.teacher)

    @property
    def generators(self) -> list[torch.Generator]:
        apart = [generator for stream in self.apart.values() for generator in stream.generators]
        return [draw.generator for draw in self.draws.values()] + apart

    def _apart(self, point: str) -> AbstractContextManager[Any]:
        """Inside, what a point's knobs draw from torch's global generators is their own stream's."""
        return self.apart[point].resumed() if point in self.apart else nullcontext()

    def _stream(self, name: str) -> str:
        return f"{'learns' if self.loss.needs_teacher else 'alone'}.{name}"

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, stored: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its detached parts; `accuracy`, in percent, is on images as shown, against the labels
        given. `stored`: the teacher's logits for these images, [N, K], which is then not asked."""
        with self._apart("input"):
            shown = self._apply(
                "input",
                images,
                lambda knob, images, draw: knob(images, labels, network, draw, self.teacher, self.space),
            )
        moved = shown - images if self.knobs["input"] and self.knobs["target"] else None
        targets = self._apply("target", labels, lambda knob, labels, draw: knob(labels, self.classes, draw, moved))
        seen = {"clean": images, "shown": shown}
        views = Views(
            labels=labels,
            targets=targets,
            epoch=self.epoch,
            differ=shown is not images,
            student=lambda which: self._forward(network, seen[which]),
            teacher=lambda which: self._answer(seen[which]) if stored is None else Answer(stored),
        )
        loss, parts = self.loss(views)
        right = (views.shown.logits.detach().argmax(dim=1) == labels).float().mean()
        self.measuring = False
        return loss, {"accuracy": 100 * right, **{name: part.detach() for name, part in parts.items()}}

    def end(self) -> dict[str, float]:
        """The measured strength of every knob, `noise/<point>.<knob>`; NaN where the first batch could not show it. And
        the seconds that the teacher's answers took, `time/teacher`."""
        seen = {path: [value for value in self.measured[path] if not isnan(value)] for path in self.draws}
        strengths = {f"noise/{path}": fmean(values) if values else nan for path, values in seen.items()}
        return strengths | ({} if self.teacher is None else {"time/teacher": self.asking.seconds()})

    def _forward(self, network: nn.Module, images: Tensor) -> Answer:
        """What a network says in the run's precision, as float32."""
        with self.cast:
            if not self.loss.needs_features:
                return Answer(network(images).float())
            features: Any = network.features(images)  # type: ignore[operator]
            return Answer(network.classifier(features).float(), features.float())  # type: ignore[operator]

    @torch.no_grad()
    def _answer(self, images: Tensor) -> Answer:
        """What the teacher says, with the noise of its knobs; the mean of several answers where that is asked for."""
        if self.teacher is None:
            raise ValueError(f"the loss {self.loss.key} asks a teacher; say so in its class: needs_teacher = True")
        knobs = self.knobs["teacher"]
        with self.asking, ExitStack() as stack:
            for name, knob in knobs.items() if self.measuring else ():
                for layer in knob.layers(self.teacher):
                    record = partial(self._record_layer, f"teacher.{name}", knob)
                    stack.callback(layer.register_forward_hook(record).remove)
            stack.enter_context(self._apart("teacher"))
            asks = max((knob.asks for knob in knobs.values()), default=1)
            answers = [self._forward(self.teacher, images) for _ in range(asks)]
        answer = answers[0] if asks == 1 else _mean(answers)
        logits = self._apply("teacher", answer.logits, lambda knob, logits, draw: knob(logits, draw))
        return Answer(logits, answer.features)

    def _apply(self, point: str, value: Tensor, call: Callable[[Any, Tensor, Any], Tensor]) -> Tensor:
        """The knobs of a point, one after the other in written order."""
        for name, knob in self.knobs[point].items():
            path, before = f"{point}.{name}", value
            value = call(knob, before, self.draws[path])
            if self.measuring and value is not before:  # a knob that acts in layers is measured there
                self.measured[path].append(knob.measure(before, value))
        return value

    def _record_layer(self, path: str, knob: Knob, layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.measured[path].append(knob.measure(inputs[0], output))


def _mean(answers: list[Answer]) -> Answer:
    features = [answer.features for answer in answers if answer.features is not None]
    return Answer(
        torch.stack([answer.logits for answer in answers]).mean(dim=0),
        torch.stack(features).mean(dim=0) if features else None,
    )
