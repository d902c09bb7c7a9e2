"""Networks: what `model:` may say, what a network costs, and the door to the files that build it.

    wrn-16-2                      WRN-d-k, any depth d = 6n + 4 >= 10 and width k >= 1 (wide_resnet.py)
    {wrn-40-2: {dropout: 0.2}}
    resnet-18                     (resnet.py)
    {cnn: {width: 32, dropout: 0.1}}, {mlp: {hidden: [64, 64], dropout: 0.1}}      (small.py)

Every network takes pixels in [0, 1] and returns logits, and is `classifier(features(x))` with flat features. Importing
this module loads no torch: a dry run asks for costs only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializationInfo, TypeAdapter, ValidationError, model_serializer, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from kdtune.settings import Count, Rate, Settings

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]  # channels, height, width of an image


class WideResNetSettings(Settings):
    """`dropout` is the rate between the two convolutions of every block."""

    dropout: Rate = 0.0


class ResNetSettings(Settings):
    """A ResNet-18 has nothing to set."""


class CNNSettings(Settings):
    """`width` is the channels of the first of three convolutions; `dropout` acts before the classifier."""

    width: Count
    dropout: Rate = 0.0


class MLPSettings(Settings):
    """`hidden` is the units of each hidden layer; `dropout` acts after each of them."""

    hidden: Annotated[tuple[Count, ...], Field(min_length=1)]
    dropout: Rate = 0.0


KINDS: dict[str, type[Settings]] = {"resnet-18": ResNetSettings, "cnn": CNNSettings, "mlp": MLPSettings}
NEEDED = {"cnn": "{cnn: {width: 32}}", "mlp": "{mlp: {hidden: [64, 64]}}"}  # what a bare name lacks, as it is written
KNOWN = "wrn-<depth>-<width>, " + ", ".join(KINDS)
_FAMILIAR = ["wrn-16-2", "wrn-40-2", "wrn-28-10", *KINDS]  # what a misspelt name is compared with


def recognise(name: str) -> tuple[str, type[Settings]]:
    """The canonical spelling of a model's name (lower case, hyphens) and the settings that may follow it.

    Raises ValueError, with the nearest name that would do, for a name or a WRN depth that does not exist.
    """
    spelling = name.lower().replace("_", "-")
    if spelling in KINDS:
        return spelling, KINDS[spelling]
    if wide := re.fullmatch(r"wrn-([0-9]{1,6})-([0-9]{1,6})", spelling):
        depth, width = int(wide[1]), int(wide[2])
        if width < 1:
            raise ValueError(f"{name!r} has width {width}; a width is at least 1, as in 'wrn-{depth}-1'")
        if depth < 10 or depth % 6 != 4:
            below = (depth - 4) // 6 * 6 + 4
            valid = " or ".join(f"'wrn-{near}-{width}'" for near in ((below, below + 6) if depth > 10 else (10,)))
            raise ValueError(f"{name!r} has depth {depth}; depths are 6n + 4, at least 10; the nearest: {valid}")
        return f"wrn-{depth}-{width}", WideResNetSettings
    nearest = get_close_matches(spelling, _FAMILIAR, n=1)
    meant = f". Did you mean {nearest[0]!r}?" if nearest else "."
    raise ValueError(f"unknown model {name!r}{meant} Known are {KNOWN}")


class Model(Settings):
    """A network by its canonical `name` and its `options`.

    Validated from a name or from a mapping of one name to its options; dumped as that mapping, with what is off left
    out, so that equal networks have equal dumps: this dump is part of a run's id.
    """

    name: str
    options: WideResNetSettings | ResNetSettings | CNNSettings | MLPSettings

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            name, kind = recognise(value)
            if name in NEEDED:
                raise ValueError(f"{value!r} alone does not say how large it is; write for example {NEEDED[name]}")
            return {"name": name, "options": kind()}
        if not isinstance(value, dict) or len(value) != 1 or not isinstance(next(iter(value)), str):
            came = f"names {' and '.join(map(str, value)) or 'none'}" if isinstance(value, dict) else f"is {value!r}"
            raise ValueError(f"a model {came}; write one name, 'wrn-16-2', or one with options, {NEEDED['cnn']}")
        (written,) = value
        try:
            name, kind = recognise(written)
        except ValueError as unknown:
            problem = PydanticCustomError("model_name", "{problem}", {"problem": str(unknown)})
            where = InitErrorDetails(type=problem, loc=(written,), input=value[written])
            raise ValidationError.from_exception_data(cls.__name__, [where]) from None
        # As a dictionary, so that an error's place is the name as it was written, then the key: wrn_40_2, dropout.
        options = TypeAdapter(dict[str, kind]).validate_python(value)  # type: ignore[valid-type]
        return {"name": name, "options": options[written]}

    @model_serializer
    def _as_written(self, info: SerializationInfo) -> dict[str, dict[str, Any]]:
        return {self.name: self.options.model_dump(mode=info.mode, exclude_defaults=True)}

    @property
    def title(self) -> str:
        """The architecture as papers write it: WRN-16-2, ResNet-18, CNN-32, MLP-64-64. Dropout is not part of it."""
        match self.options:
            case CNNSettings(width=width):
                return f"CNN-{width}"
            case MLPSettings(hidden=hidden):
                return "-".join(map(str, ("MLP", *hidden)))
        return self.name.upper().replace("RESNET", "ResNet")

    @property
    def depth_and_width(self) -> tuple[int, int]:
        """The d and k of WRN-d-k; ValueError for any other network."""
        _, depth, width = self.name.split("-")
        return int(depth), int(width)

    def cost(self, shape: Shape, classes: int) -> tuple[int, int]:
        """Parameters, and multiply-adds of one image's forward pass in convolutions and linear layers; both exact.

        Trained parameters only: running statistics of BatchNorm are buffers. `shape` is (channels, height, width).
        """
        match self.options:
            case WideResNetSettings():
                depth, width = self.depth_and_width
                channels, blocks = (16 * width, 32 * width, 64 * width), (depth - 4) // 6
                layers = _residual(shape, classes, 16, channels, blocks, preactivated=True)
            case ResNetSettings():
                layers = _residual(shape, classes, 64, (64, 128, 256, 512), 2, preactivated=False)
            case CNNSettings(width=width):
                layers = _cnn(shape, classes, width)
            case MLPSettings(hidden=hidden):
                sizes = [prod(shape), *hidden, classes]
                layers = (_linear(inputs, units) for inputs, units in pairwise(sizes))
        parameters, multiply_adds = zip(*layers, strict=True)
        return sum(parameters), sum(multiply_adds)


def build(model: Model, shape: Shape, classes: int) -> nn.Module:
    """The network, newly initialised from torch's global generator (seed it first), in training mode, on torch's
    default device. It maps pixels [N, *shape] in [0, 1] to logits [N, classes]."""
    match model.options:
        case WideResNetSettings(dropout=dropout):
            from kdtune.models.wide_resnet import WideResNet

            depth, width = model.depth_and_width
            return WideResNet(depth, width, shape[0], classes, dropout)
        case ResNetSettings():
            from kdtune.models.resnet import ResNet18

            return ResNet18(shape[0], classes)
        case CNNSettings(width=width, dropout=dropout):
            from kdtune.models.small import CNN

            return CNN(width, shape[0], classes, dropout)
        case MLPSettings(hidden=hidden, dropout=dropout):
            from kdtune.models.small import MLP

            return MLP(hidden, shape, classes, dropout)


Layer = tuple[int, int]  # its parameters, and its multiply-adds for one image


def _convolution(inputs: int, outputs: int, kernel: int, height: int, width: int) -> Layer:
    """Without bias; height and width are those of its output."""
    weights = inputs * outputs * kernel * kernel
    return weights, weights * height * width


def _batch_norm(channels: int) -> Layer:
    return 2 * channels, 0


def _linear(inputs: int, outputs: int) -> Layer:
    return inputs * outputs + outputs, inputs * outputs


def _half(size: int) -> int:
    return (size + 1) // 2  # of a 3 x 3 convolution with stride 2 and padding 1, and of pooling that rounds up


def _residual(
    shape: Shape, classes: int, stem: int, channels: tuple[int, ...], blocks: int, *, preactivated: bool
) -> Iterator[Layer]:
    """Layers of a network of basic blocks; BatchNorm stands before its convolution if preactivated, else after it."""
    colours, height, width = shape
    inputs = stem
    yield _convolution(colours, stem, 3, height, width)
    for group, outputs in enumerate(channels):
        if group > 0:
            height, width = _half(height), _half(width)
        for _ in range(blocks):
            yield _batch_norm(inputs if preactivated else outputs)
            yield _batch_norm(outputs)
            yield _convolution(inputs, outputs, 3, height, width)
            yield _convolution(outputs, outputs, 3, height, width)
            if inputs != outputs:
                yield _convolution(inputs, outputs, 1, height, width)
                if not preactivated:
                    yield _batch_norm(outputs)
            inputs = outputs
    yield _batch_norm(inputs if preactivated else stem)
    yield _linear(inputs, classes)


def _cnn(shape: Shape, classes: int, first: int) -> Iterator[Layer]:
    inputs, height, width = shape
    for outputs in (first, 2 * first, 4 * first):
        yield _convolution(inputs, outputs, 3, height, width)
        yield _batch_norm(outputs)
        inputs, height, width = outputs, _half(height), _half(width)
    yield _linear(inputs, classes)
