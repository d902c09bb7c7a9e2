"""A network that standardises its input first: for teachers of one's own that were trained on standardised images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """Takes pixels in [0, 1] like every network here; `mean` and `std` are per channel, on that scale."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def classifier(self) -> nn.Module:
        return self.network.classifier  # type: ignore[return-value]

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.features((images - self.mean) / self.std)  # type: ignore[operator]
        return features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
