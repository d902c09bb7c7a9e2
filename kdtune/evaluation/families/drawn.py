"""Random numbers for corruptions: drawn on the CPU, the same on every device, and moved to where the images lie."""

from __future__ import annotations

import torch
from torch import Tensor

from kdtune.randomness import draw


class Drawn:
    """One stream's numbers, float32 (int64) on `device`."""

    def __init__(self, seed: int, name: str, device: torch.device | str = "cpu") -> None:
        self.stream = draw(seed, name)
        self.device = device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return self.stream.normal(torch.empty(shape)).to(self.device)

    def uniform(self, *shape: int, low: float = 0, high: float = 1) -> Tensor:
        """Uniform numbers in [low, high)."""
        return (low + (high - low) * self.stream.uniform(torch.empty(shape))).to(self.device)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform whole numbers from `low` to `high` - 1."""
        return (low + self.stream.integers(high - low, torch.empty(shape))).to(self.device)

    def poisson(self, rates: Tensor) -> Tensor:
        """Poisson numbers of these rates, as floats of their shape."""
        return torch.poisson(rates.cpu(), generator=self.stream.generator).to(self.device)
