"""ResNet-18 for small images (He et al. 2016, arXiv 1512.03385): a 3 x 3 stem instead of 7 x 7 and pooling."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def initialise(network: nn.Module) -> None:
    """He initialisation in place: convolutions N(0, 2 / fan_out) (He et al. 2015, arXiv 1502.01852), linear biases 0.

    Linear weights keep torch's default. Draws from torch's global generator.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class Block(nn.Module):
    """conv3x3-bn-relu-conv3x3-bn, plus the shortcut, then relu."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module | None = None
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


class ResNet18(nn.Module):
    """Four groups of two blocks with 64, 128, 256, 512 channels, each group after the first at half the resolution."""

    def __init__(self, colours: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(colours, 64, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.groups = nn.Sequential()
        inputs = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            self.groups.append(nn.Sequential(Block(inputs, outputs, stride), Block(outputs, outputs, 1)))
            inputs = outputs
        self.classifier = nn.Linear(inputs, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Pixels [N, colours, H, W] in [0, 1] to the penultimate activations [N, 512]."""
        return self.groups(F.relu(self.bn(self.stem(x)), inplace=True)).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
