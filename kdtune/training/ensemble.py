"""Several teachers that answer as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """Answers with the mean of its members' logits [N, K]: softened at any temperature that is the geometric mean of
    their softened answers, normalised (Hinton et al., arXiv 1503.02531, section 1, names it beside the arithmetic)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([member(images) for member in self.members]).mean(dim=0)
