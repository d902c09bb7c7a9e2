"""A network of two modules, for a model that needs no class of its own."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """`classifier(features(x))`: pixels [N, C, H, W] in [0, 1], flat features [N, D], logits [N, K]."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(x))
        return logits
