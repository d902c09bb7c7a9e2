"""Subspaces: parts of ways, and attacks that stay in them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdtune.attacks.pgd import pgd
from kdtune.attacks.space import PIXELS, Space, Within

DIMENSION, RANK = 12, 4


def space() -> Space:
    columns, _ = torch.linalg.qr(torch.randn(DIMENSION, RANK, generator=torch.Generator().manual_seed(0)))
    return Space(bounds=None, subspace=columns)


def ways(count: int = 9) -> Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(1))


def test_a_way_is_the_sum_of_its_parts_which_are_at_right_angles() -> None:
    inside, outside = (space().part(ways(), within) for within in ("subspace", "complement"))
    assert torch.allclose(inside + outside, ways(), atol=1e-6)
    assert (inside * outside).flatten(1).sum(1).abs().max() < 1e-5
    assert torch.allclose(space().part(inside, "subspace"), inside, atol=1e-6)
    assert space().part(inside, "complement").abs().max() < 1e-6


def test_without_a_subspace_there_is_no_part_of_it() -> None:
    with pytest.raises(ValueError, match="within: complement: of these inputs no subspace is known"):
        PIXELS.part(ways(), "complement")


@pytest.mark.parametrize("within", ["subspace", "complement"])
def test_an_attack_within_a_subspace_stays_there_and_in_the_ball(within: Within) -> None:
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(DIMENSION, 8), nn.ReLU(), nn.Linear(8, 3))
    inputs, labels = ways(), torch.arange(9) % 3
    start = inputs + 0.3 * ways().roll(1, 0)
    found = pgd(
        network, inputs, labels, start, eps=0.7, step=0.1, steps=20, at=(0, 5, 20), norm="l2", bounds=None,
        confine=lambda way: space().part(way, within),
    )  # fmt: skip
    other: Within = "complement" if within == "subspace" else "subspace"
    for moved in found.values():
        assert (moved - inputs).flatten(1).norm(dim=1).max() <= 0.7 + 1e-5
        assert space().part(moved - inputs, other).abs().max() < 1e-5
    assert (found[20] - inputs).flatten(1).norm(dim=1).median() > 0.69  # it goes as far as it may
    loss = nn.functional.cross_entropy
    assert loss(network(found[20]), labels) > loss(network(found[0]), labels) > 0


@pytest.mark.parametrize(("norm", "bounds"), [("linf", None), ("l2", (0.0, 1.0))])
def test_other_balls_are_not_cut_by_a_subspace(norm: str, bounds: tuple[float, float] | None) -> None:
    with pytest.raises(ValueError, match="only the l2 ball without bounds"):
        pgd(
            nn.Flatten(), ways(), torch.zeros(9).long(), ways(), 0.1, 0.1, 1, norm=norm, bounds=bounds,  # type: ignore[arg-type]
            confine=lambda way: way,
        )  # fmt: skip
