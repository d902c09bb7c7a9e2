"""Layers as an estimate sees them: how many parameters, how many multiply-adds for one image."""

from __future__ import annotations

from collections.abc import Iterator

Layer = tuple[int, int]  # its parameters, and its multiply-adds for one image


def convolution(inputs: int, outputs: int, kernel: int, height: int, width: int) -> Layer:
    """Without bias; height and width are those of its output."""
    weights = inputs * outputs * kernel * kernel
    return weights, weights * height * width


def batch_norm(channels: int) -> Layer:
    return 2 * channels, 0


def linear(inputs: int, outputs: int) -> Layer:
    return inputs * outputs + outputs, inputs * outputs


def half(size: int) -> int:
    """Of a 3 x 3 convolution with stride 2 and padding 1, and of pooling that rounds up."""
    return (size + 1) // 2


def residual(
    shape: tuple[int, int, int], classes: int, stem: int, channels: tuple[int, ...], blocks: int, *, preactivated: bool
) -> Iterator[Layer]:
    """Layers of a network of basic blocks; BatchNorm stands before its convolution if preactivated, else after it."""
    colours, height, width = shape
    inputs = stem
    yield convolution(colours, stem, 3, height, width)
    for group, outputs in enumerate(channels):
        if group > 0:
            height, width = half(height), half(width)
        for _ in range(blocks):
            yield batch_norm(inputs if preactivated else outputs)
            yield batch_norm(outputs)
            yield convolution(inputs, outputs, 3, height, width)
            yield convolution(outputs, outputs, 3, height, width)
            if inputs != outputs:
                yield convolution(inputs, outputs, 1, height, width)
                if not preactivated:
                    yield batch_norm(outputs)
            inputs = outputs
    yield batch_norm(inputs if preactivated else stem)
    yield linear(inputs, classes)
