"""What training changes, kept to go back to and to compare bit by bit."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from kdtune.randomness import global_on_gpu
from kdtune.training.step import Step


def same(one: Tensor, other: Tensor) -> bool:
    """Equal in every bit, what is no number too: a run may have diverged."""
    if one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.view(bits), other.view(bits))


class AtStep:
    """All that a step changes: weights, buffers, the optimizer's tensors, where generators stand. It is restored in
    place, for a graph goes on with these very tensors."""

    def __init__(self, step: Step) -> None:
        kept = [
            tensor for state in step.optimizer.state.values() for tensor in state.values() if torch.is_tensor(tensor)
        ]
        self._live = [*step.network.state_dict().values(), *kept]
        self._values = [tensor.clone() for tensor in self._live]
        device = step.split.images.device
        shared = [torch.default_generator, *([global_on_gpu(device)] if device.type == "cuda" else [])]
        self._generators = [*step.lesson.generators, *shared]
        self._states = [generator.get_state() for generator in self._generators]

    @torch.no_grad()
    def restore(self) -> None:
        for live, value in zip(self._live, self._values, strict=True):
            live.copy_(value)
        for generator, state in zip(self._generators, self._states, strict=True):
            generator.set_state(state)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AtStep):
            return NotImplemented
        mine, theirs = ([*state._values, *state._states] for state in (self, other))
        return len(mine) == len(theirs) and all(map(same, mine, theirs))

    __hash__ = None  # type: ignore[assignment]


class AtEpoch:
    """What an epoch changes: weights, buffers, the optimizer's numbers, of which there are none before the first step.
    Generators are not among it: every epoch begins them anew."""

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._network, self._optimizer = network, optimizer
        self._weights = copy.deepcopy(network.state_dict())
        self._numbers = copy.deepcopy(optimizer.state_dict())

    def restore(self) -> None:
        self._network.load_state_dict(self._weights)
        self._optimizer.load_state_dict(copy.deepcopy(self._numbers))  # which would go on writing into these

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AtEpoch) and all(
            len(mine) == len(theirs) and all(map(same, mine, theirs))
            for mine, theirs in zip(self._tensors(), other._tensors(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]

    def _tensors(self) -> tuple[list[Tensor], list[Tensor]]:
        states = self._numbers["state"].values()
        return [*self._weights.values()], [each for state in states for each in state.values() if torch.is_tensor(each)]
