"""Small networks for small images: a three-layer CNN, LeNet, and a multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from kdtune.models.layers import half
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


class LeNet(nn.Module):
    """Twice conv5x5-relu-pool, with `width` and twice `width` channels (padded: pooling alone halves sizes), then
    linear-relu, dropout and a classifier."""

    def __init__(self, width: int, hidden: int, shape: tuple[int, int, int], classes: int, dropout: float) -> None:
        super().__init__()
        colours, *sides = shape
        self.layers = nn.Sequential()
        for inputs, outputs in ((colours, width), (width, 2 * width)):
            pool = nn.MaxPool2d(2, ceil_mode=True)  # rounds up: an odd border column still counts
            self.layers.extend((nn.Conv2d(inputs, outputs, 5, padding=2), nn.ReLU(inplace=True), pool))
            sides = [half(side) for side in sides]
        self.layers.extend((nn.Flatten(), nn.Linear(2 * width * prod(sides), hidden), nn.ReLU(inplace=True)))
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden, classes)
        for layer in (layer for layer in self.layers if isinstance(layer, nn.Conv2d | nn.Linear)):
            # By what comes in: by what goes out, as where BatchNorm follows, signals would die away.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.classifier.bias)

    def features(self, x: Tensor) -> Tensor:
        """Pixels [N, colours, H, W] in [0, 1] to the hidden layer's activations [N, hidden], after dropout."""
        return self.dropout(self.layers(x))

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
