"""What the student is shown and what it should answer: knobs applied, the losses.

    loss = (1 - alpha) CE(student(x + delta), y') + alpha temperature^2 KL(student(x + delta), teacher(x))

Input knobs make x + delta, target knobs y', teacher knobs change teacher(x); without a teacher only CE is left (Arani
et al., arXiv 1910.05057, section 3). The teacher sees x or, where it is asked for, x + delta like the student. What a
strength does is measured in the first batch of every epoch and logged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import isnan, nan
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdtune.randomness import draw, stream_seed

if TYPE_CHECKING:
    from kdtune.config import Distillation, Noise
    from kdtune.noise.knob import Knob


def kd_loss(student: Tensor, teacher: Tensor, temperature: float, divergence: str = "forward") -> Tensor:
    """temperature^2 times the KL divergence between softened answers, summed over classes, averaged over images.

    `student` and `teacher` are logits [N, K]; `forward` is KL(teacher || student), `reverse` KL(student || teacher).
    The factor keeps gradients of one size at all temperatures (Hinton et al., arXiv 1503.02531, section 2.1).
    """
    log_s = functional.log_softmax(student / temperature, dim=1)
    log_t = functional.log_softmax(teacher / temperature, dim=1)
    approximation, reference = (log_s, log_t) if divergence == "forward" else (log_t, log_s)
    return temperature**2 * functional.kl_div(approximation, reference, reduction="batchmean", log_target=True)


class Lesson:
    """The loss of one run, with a teacher or without: a `training.Lesson`.

    The teacher is this lesson's own: it is put in eval mode, apart from what teacher knobs switch on, and gets no
    gradient; its parameters and buffers stay as they are. Each knob has its stream, named by its path
    (`input.gaussian`) and begun anew every epoch. Dropout, the student's and the teacher's, draws from torch's global
    generator, which `begin` seeds from the stream `dropout`.

    Raises ValueError for a teacher without settings of the distillation (or the reverse), for teacher knobs without a
    teacher and, in `begin`, for a knob that the teacher cannot follow.
    """

    def __init__(
        self,
        classes: int,
        seed: int,
        noise: Noise,
        teacher: nn.Module | None = None,
        distillation: Distillation | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if (teacher is None) != (distillation is None):
            raise ValueError("a teacher and the settings of the distillation come together; one of them is missing")
        if teacher is None and noise.knobs("teacher"):
            raise ValueError(f"noise.teacher names {', '.join(noise.knobs('teacher'))}, but this run has no teacher")
        self.classes, self.seed, self.device = classes, seed, device
        self.teacher, self.distillation = teacher, distillation
        self.knobs: dict[str, dict[str, Knob]] = {point: noise.knobs(point) for point in ("input", "teacher", "target")}
        if distillation is not None:
            asked = {name: knob.softened_at(distillation.temperature) for name, knob in self.knobs["teacher"].items()}
            self.knobs["teacher"] = asked

    def begin(self, epoch: int) -> None:
        """Put every stream and the teacher at the start of an epoch, counted from 0."""
        torch.manual_seed(stream_seed(self.seed, "dropout", epoch))
        paths = [f"{point}.{name}" for point, knobs in self.knobs.items() for name in knobs]
        self.draws = {path: draw(self.seed, path, epoch, self.device) for path in paths}
        self.measured: dict[str, list[float]] = defaultdict(list)
        self.measuring = True
        if self.teacher is not None:
            self.teacher.eval()
            for knob in self.knobs["teacher"].values():
                knob.prepare(self.teacher)

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and its detached parts; `accuracy` is on images as shown, against the labels given."""
        shown = self._apply("input", images, lambda knob, images, draw: knob(images, labels, network, draw))
        targets = self._apply("target", labels, lambda knob, labels, draw: knob(labels, self.classes, draw))
        logits = network(shown)
        loss = ce = functional.cross_entropy(logits, targets)
        parts = {"ce": ce.detach(), "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean()}
        if self.teacher is not None and (how := self.distillation) is not None:
            seen = shown if how.teacher_sees == "shown" else images
            kd = kd_loss(logits, self._answer(self.teacher, seen), how.temperature, how.divergence)
            loss = (1 - how.alpha) * ce + how.alpha * kd
            parts["kd"] = kd.detach()
        self.measuring = False
        return loss, parts

    def end(self) -> dict[str, float]:
        """The measured strength of every knob, `noise/<point>.<knob>`; NaN where the first batch could not show it."""
        seen = {path: [value for value in self.measured[path] if not isnan(value)] for path in self.draws}
        return {f"noise/{path}": fmean(values) if values else nan for path, values in seen.items()}

    @torch.no_grad()
    def _answer(self, teacher: nn.Module, images: Tensor) -> Tensor:
        """The teacher's logits for the images it sees, with the noise of its knobs; the mean of several where asked."""
        with ExitStack() as hooks:
            for name, knob in self.knobs["teacher"].items() if self.measuring else ():
                for layer in knob.layers(teacher):
                    record = partial(self._record_layer, f"teacher.{name}", knob)
                    hooks.callback(layer.register_forward_hook(record).remove)
            asks = max((knob.asks for knob in self.knobs["teacher"].values()), default=1)
            answers = [teacher(images) for _ in range(asks)]
        logits = answers[0] if asks == 1 else torch.stack(answers).mean(dim=0)
        return self._apply("teacher", logits, lambda knob, logits, draw: knob(logits, draw))

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
