"""Two linear layers with rectifiers between them, as teacher-student theory has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BIAS = -0.1  # of `from_grid`
TRIES = 100  # draws of rows that are not there yet


class TwoLayer(nn.Module):
    """W2 relu(W1 x + b1) + b2 on the flattened input."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, width)
        self.classifier = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Inputs [N, ...] to the hidden nodes' activations [N, width]."""
        return self.hidden(x.flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))

    @torch.no_grad()
    def from_normal(self, deviation: float) -> None:
        """Every weight from N(0, deviation^2), biases 0."""
        for layer in (self.hidden, self.classifier):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def from_grid(self, strength: float) -> None:
        """Weights as `kdtune.models.two_layer.Grid` says. ValueError where there are too few rows."""
        width, inputs = self.hidden.weight.shape
        with torch.device("cpu"):  # what is drawn is looked at
            self.hidden.weight.copy_(_rows(width, inputs))
            self.classifier.weight.copy_(_quarters(*self.classifier.weight.shape))
        self.classifier.weight.div_(torch.arange(1, width + 1) ** strength)
        for layer in (self.hidden, self.classifier):
            nn.init.constant_(layer.bias, BIAS)


def _quarters(*shape: int) -> Tensor:
    """Numbers from {-1, -0.75, ..., 1}, each as likely."""
    return torch.randint(-4, 5, shape) / 4


def _rows(count: int, inputs: int) -> Tensor:
    """Rows of quarters, scaled to unit norm, [count, inputs], no two alike. Raises ValueError."""
    found = torch.empty(0, inputs)
    for _ in range(TRIES):
        drawn = _quarters(count, inputs)
        drawn = drawn[drawn.any(1)]
        found = torch.cat([found, drawn / drawn.norm(dim=1, keepdim=True)])
        first = [not (found[:row] - found[row]).abs().amax(1).lt(1e-6).any() for row in range(len(found))]
        found = found[torch.tensor(first)][:count]
        if len(found) == count:
            return found
    raise ValueError(f"there are not {count} rows of {inputs} weights that differ; a smaller width would do")
