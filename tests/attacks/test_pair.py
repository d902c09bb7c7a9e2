"""What parts a student's answers from its teacher's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from kdtune.attacks.pair import PARTING, Pair, distance, divergence, misled
from kdtune.attacks.pgd import gradient


def linear(seed: int) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.normal_(network[1].weight, generator=torch.Generator().manual_seed(seed))
    return network


def images() -> Tensor:
    return torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_losses_are_what_numpy_and_scipy_give() -> None:
    student, teacher = linear(1), linear(2)
    with torch.no_grad():
        both, s, t = Pair(student, teacher)(images()), student(images()), teacher(images())
    assert torch.equal(both, torch.cat([s, t], dim=1))
    p, q = (each.double().softmax(1).numpy() for each in (t, s))
    assert float(distance(both, LABELS)) == pytest.approx(float(((s - t).numpy() ** 2).sum() / 2), rel=1e-5)
    assert float(divergence(both, LABELS)) == pytest.approx(stats.entropy(p, q, axis=1).sum(), rel=1e-5)
    assert float(misled(both, LABELS)) == pytest.approx(-np.log(q[np.arange(5), LABELS]).sum(), rel=1e-5)


def test_the_gradient_goes_through_both_where_the_teacher_is_asked_there() -> None:
    student, teacher = linear(1), linear(2)
    s, t = student[1].weight.detach(), teacher[1].weight.detach()
    found = gradient(Pair(student, teacher), images(), LABELS, distance).flatten(1)
    apart = student(images()) - teacher(images())
    assert torch.allclose(found, apart.detach() @ (s - t), atol=1e-5)
    kept = gradient(Pair(student, teacher), images(), LABELS, misled)
    assert torch.equal(kept, gradient(Pair(student, linear(3)), images(), LABELS, misled)), "the teacher's class stays"


@pytest.mark.parametrize("loss", PARTING[:2])
def test_nothing_parts_a_network_from_itself(loss) -> None:
    network = linear(1)
    assert float(loss(Pair(network, network)(images()), LABELS).detach()) == pytest.approx(0, abs=1e-6)
    assert gradient(Pair(network, network), images(), LABELS, loss).abs().max() < 1e-6
