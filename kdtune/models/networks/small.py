"""Small networks for small images: a three-layer CNN and a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from kdtune.models.networks.resnet import initialise


class CNN(nn.Module):
    """Three times conv3x3-bn-relu, with `width`, twice and four times `width` channels, 2 x 2 max pooling between
    them, then the mean over positions, dropout and a linear classifier."""

    def __init__(self, width: int, colours: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        inputs = colours
        for outputs in (width, 2 * width, 4 * width):
            if len(self.layers):
                self.layers.append(nn.MaxPool2d(2, ceil_mode=True))  # rounds up: an odd border column still counts
            self.layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
            self.layers.append(nn.BatchNorm2d(outputs))
            self.layers.append(nn.ReLU(inplace=True))
            inputs = outputs
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(inputs, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Pixels [N, colours, H, W] in [0, 1] to the penultimate activations [N, 4 width], after dropout."""
        return self.dropout(self.layers(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class MLP(nn.Module):
    """Hidden layers of linear-relu-dropout on the flattened image, then a linear classifier; no BatchNorm."""

    def __init__(self, hidden: Sequence[int], shape: tuple[int, int, int], classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten())
        inputs = prod(shape)
        for units in hidden:
            linear = nn.Linear(inputs, units)
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            self.layers.extend((linear, nn.ReLU(inplace=True), nn.Dropout(dropout)))
            inputs = units
        self.classifier = nn.Linear(inputs, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Pixels [N, *shape] in [0, 1] to the last hidden layer's activations [N, hidden[-1]], after dropout."""
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))
