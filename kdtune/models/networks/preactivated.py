"""Residual networks whose blocks normalise and activate first: WRN-d-k and PreAct-ResNet-18."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.models.networks.resnet import initialise


class Block(nn.Module):
    """bn-relu-conv3x3-bn-relu-dropout-conv3x3 plus the shortcut: the input itself, or where the number of channels
    changes, a 1 x 1 convolution of the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        # There at rate 0 too, so that a fickle teacher can switch it on; at 0 it returns its input and draws nothing.
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(active)), inplace=True)
        out = self.conv2(self.dropout(out))
        return out + (x if self.shortcut is None else self.shortcut(active))


class Preactivated(nn.Module):
    """Groups of `blocks` blocks each, with so many channels, each group after the first at half the resolution."""

    def __init__(
        self, colours: int, classes: int, stem: int, channels: tuple[int, ...], blocks: int, dropout: float
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(colours, stem, 3, padding=1, bias=False)
        self.groups = nn.Sequential()
        inputs = stem
        for number, outputs in enumerate(channels):
            group = nn.Sequential(Block(inputs, outputs, 1 if number == 0 else 2, dropout))
            for _ in range(blocks - 1):
                group.append(Block(outputs, outputs, 1, dropout))
            self.groups.append(group)
            inputs = outputs
        self.bn = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Pixels [N, colours, H, W] in [0, 1] to the penultimate activations [N, the last group's channels]."""
        return F.relu(self.bn(self.groups(self.stem(x))), inplace=True).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
