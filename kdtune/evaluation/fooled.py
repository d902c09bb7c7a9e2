"""Whether a network's adversarial examples fool the teacher that it learned from, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from kdtune.data.loading import inputs
from kdtune.evaluation.evaluator import BATCH, GRADIENT, Evaluator, Measurement, correct, pack, percent, predict
from kdtune.evaluation.masking import start
from kdtune.evaluation.metric import Metric
from kdtune.evaluation.pgd import balanced, sloping
from kdtune.settings import Count, Pixels

if TYPE_CHECKING:
    from kdtune.data.dataset import Dataset
    from kdtune.evaluation.subject import Subject


class Fooled(Evaluator):
    """`teacher/fooled`: of the images that both answer rightly when clean and that PGD on the student changes the
    student's answer to, percent whose adversarial example changes the teacher's answer as well. Absent where a run has
    no teacher, and where there is no such image; `teacher/fooled/images` says how many there are.

    One start, uniform in the l-infinity ball. Where few of its own examples fool the teacher, a student has another
    weakness than its teacher; where nearly all do, it has copied it.

    Arrays: `teacher/fooled` packed bits [ceil(images / 8)]; `teacher/fooled/places`, those images' places in the test
    set, int64.
    """

    eps: Annotated[Pixels, Field(gt=0)] = 0.031  # pixel units, images in [0, 1]
    step: Annotated[Pixels, Field(gt=0)] = 0.003  # pixel units
    steps: Count = 20
    images: Count | None = 1000  # at most so many are attacked, drawn once, balanced by class

    version: ClassVar[int] = 1
    needs_pixels: ClassVar[bool] = True

    def metrics(self, dataset: Dataset) -> tuple[Metric, ...]:
        flag = Metric("flags/zero_gradient", "0 or 1", always=False)
        images = Metric("teacher/fooled/images", "images", always=False)
        return flag, Metric("teacher/fooled", always=False), images

    def passes(self, test: int, validation: int) -> int:
        return (GRADIENT * self.steps + 4) * min(self.images or test, test)

    def measure(self, subject: Subject) -> Measurement:
        import torch

        from kdtune.attacks.pgd import pgd

        places = balanced(subject.split.labels.cpu().numpy(), self.images, subject.seed)
        chosen = subject.split[torch.from_numpy(places)]
        answers, teacher = predict(subject.network, chosen.images), subject.teacher
        if teacher is None:
            return Measurement()
        slope = sloping(subject.network, inputs(chosen.images[:BATCH]), chosen.labels[:BATCH])
        clean = answers, predict(teacher, chosen.images)
        both = np.logical_and(*(correct(logits, chosen.labels) for logits in clean))
        told = {} if slope else {"flags/zero_gradient": 1.0}
        if not both.any():
            return Measurement(told | {"teacher/fooled/images": 0.0})
        kept = torch.from_numpy(both).to(chosen.labels.device)
        x, y = inputs(chosen.images[kept]), chosen.labels[kept]
        begin, eps, step, steps = start(x, self.eps, subject.seed), self.eps, self.step, self.steps
        batches = zip(x.split(BATCH), y.split(BATCH), begin.split(BATCH), strict=True)
        moved = torch.cat([pgd(subject.network, *each, eps=eps, step=step, steps=steps)[steps] for each in batches])
        student, its_teacher = (~correct(predict(network, moved), y) for network in (subject.network, teacher))
        metrics = told | {"teacher/fooled/images": float(student.sum())}
        if student.any():
            metrics["teacher/fooled"] = percent(its_teacher[student])
        arrays = {"teacher/fooled": pack(its_teacher[student]), "teacher/fooled/places": places[both][student]}
        return Measurement(metrics, {name: np.asarray(array) for name, array in arrays.items()})
