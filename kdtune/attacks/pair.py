"""A student and its teacher as one network, and what an attack climbs that is to part their answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdtune.attacks.pgd import Loss, cross_entropy


class Pair(nn.Module):
    """Answers images [N, C, H, W] with the logits of both, one beside the other: [N, 2 K]."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.student(images), self.teacher(images)], dim=1)


def distance(both: Tensor, labels: Tensor) -> Tensor:
    """Half the squared Euclidean distance of the logits, summed over the images. both: [N, 2 K]; labels: not read."""
    student, teacher = both.chunk(2, dim=1)
    return (student - teacher).square().sum() / 2


def divergence(both: Tensor, labels: Tensor) -> Tensor:
    """KL(teacher || student) of the softmax answers in nats, summed over the images. both, labels: as `distance`."""
    student, teacher = (logits.log_softmax(1) for logits in both.chunk(2, dim=1))
    return functional.kl_div(student, teacher, reduction="sum", log_target=True)


def misled(both: Tensor, labels: Tensor) -> Tensor:
    """The student's cross-entropy of labels [N], summed over the images. both: [N, 2 K]."""
    return cross_entropy(both.chunk(2, dim=1)[0], labels)


PARTING: tuple[Loss, ...] = (distance, divergence, misled)
