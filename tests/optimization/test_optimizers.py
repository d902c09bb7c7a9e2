"""The contract of every optimizer; Adam and AdamW against their papers."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdtune.optimization.optimizers import SGD, Adam, AdamW, Optimizer

BETAS = (0.8, 0.95)
# What an optimizer is given beside its rate, a variant each; without an entry it is tested as it is.
FIELDS: dict[str, list[dict[str, Any]]] = {
    "sgd": [{}, {"momentum": 0.9}, {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}, {"weight_decay": 0.01}],
    "adam": [{"betas": BETAS}, {"betas": BETAS, "weight_decay": 0.01}],
    "adamw": [{"betas": BETAS}, {"betas": BETAS, "weight_decay": 0.01}],
}
every_optimizer = pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(kind(lr=0.05, **fields), id=" ".join([key, *map(str, fields.values())]))
        for key, kind in Optimizer.kinds().items()
        for fields in FIELDS.get(key, [{}])
    ],
)


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 3, dtype=dtype)


def inputs(step: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    (network(inputs(number, next(network.parameters()).dtype)) - 1).square().mean().backward()
    optimizer.step()


def content(network: nn.Module) -> list[bytes]:
    return [value.detach().numpy().tobytes() for value in network.state_dict().values()]


@every_optimizer
def test_a_step_changes_every_parameter_and_lowers_the_loss(optimizer: Optimizer) -> None:
    network = linear()
    before = copy.deepcopy(network)
    built = optimizer.build(network.parameters())
    step(network, built, 0)
    assert not any(torch.equal(*pair) for pair in zip(network.parameters(), before.parameters(), strict=True))
    losses = [(each(inputs(0)) - 1).square().mean() for each in (network, before)]
    assert losses[0] < losses[1]


@every_optimizer
def test_its_defaults_hold_the_rate_as_it_is_stated(optimizer: Optimizer) -> None:
    built = optimizer.build(linear().parameters())
    assert built.defaults["lr"] == optimizer.lr == 0.05  # type: ignore[attr-defined]
    for group in built.param_groups:
        group["lr"] = 0.001
    assert built.defaults["lr"] == 0.05


@every_optimizer
def test_copies_are_the_tensors_of_a_parameters_size_that_it_keeps(optimizer: Optimizer) -> None:
    network = linear()
    built = optimizer.build(network.parameters())
    step(network, built, 0)
    for parameter in network.parameters():
        kept = [value for value in built.state[parameter].values() if isinstance(value, Tensor)]
        assert sum(value.shape == parameter.shape for value in kept) == optimizer.copies
        assert sum(value.numel() for value in kept if value.shape != parameter.shape) <= 1  # the count of steps


@every_optimizer
def test_resumed_from_its_state_it_goes_on_bit_for_bit(optimizer: Optimizer) -> None:
    network = linear()
    built = optimizer.build(network.parameters())
    for number in range(3):
        step(network, built, number)
    file = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": built.state_dict()}, file)
    for number in range(3, 6):
        step(network, built, number)
    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other = nn.Linear(4, 3)
    again = optimizer.build(other.parameters())
    other.load_state_dict(saved["network"])
    again.load_state_dict(saved["optimizer"])
    for number in range(3, 6):
        step(other, again, number)
    assert content(other) == content(network)


@every_optimizer
def test_a_rate_of_zero_moves_nothing(optimizer: Optimizer) -> None:
    """The schedule's factor reaches all of a step, weight decay too."""
    network = linear()
    built, before = optimizer.build(network.parameters()), content(network)
    for group in built.param_groups:
        group["lr"] = 0.0
    step(network, built, 0)
    assert content(network) == before


def papers(
    parameters: list[np.ndarray], gradients: Any, lr: float, weight_decay: float, *, decoupled: bool
) -> list[np.ndarray]:
    """Adam (Kingma & Ba 2015, algorithm 1) with L2 regularisation, or decoupled (Loshchilov & Hutter 2019, algorithm 2,
    with the decay scaled by the rate, as all common code has it)."""
    first, second = ([np.zeros_like(value) for value in parameters] for _ in range(2))
    for t in range(1, 21):
        for i, gradient in enumerate(gradients(parameters, t)):
            decay = weight_decay * parameters[i]
            g = gradient if decoupled else gradient + decay
            first[i] = BETAS[0] * first[i] + (1 - BETAS[0]) * g
            second[i] = BETAS[1] * second[i] + (1 - BETAS[1]) * g**2
            m, v = first[i] / (1 - BETAS[0] ** t), second[i] / (1 - BETAS[1] ** t)
            parameters[i] = parameters[i] - lr * (m / (np.sqrt(v) + 1e-8) + (decay if decoupled else 0))
    return parameters


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_twenty_steps_are_those_of_the_papers(kind: Any, weight_decay: float) -> None:
    network = linear(torch.float64)
    start = [parameter.detach().numpy().copy() for parameter in network.parameters()]

    def gradients(parameters: list[np.ndarray], t: int) -> list[np.ndarray]:
        x = inputs(t, torch.float64).numpy()
        error = 2 * (x @ parameters[0].T + parameters[1] - 1) / (8 * 3)
        return [error.T @ x, error.sum(0)]

    built = kind(lr=0.05, betas=BETAS, weight_decay=weight_decay).build(network.parameters())
    for number in range(1, 21):
        step(network, built, number)
    expected = papers(start, gradients, 0.05, weight_decay, decoupled=kind is AdamW)
    for parameter, value in zip(network.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=0, atol=1e-10)


def test_adam_and_adamw_differ_in_weight_decay_alone() -> None:
    ends = {}
    for kind in (Adam, AdamW):
        for weight_decay in (0.0, 0.1):
            network = linear()
            built = kind(lr=0.05, betas=BETAS, weight_decay=weight_decay).build(network.parameters())
            for number in range(5):
                step(network, built, number)
            ends[kind, weight_decay] = content(network)
    assert ends[Adam, 0.0] == ends[AdamW, 0.0] and len({tuple(end) for end in ends.values()}) == 3


def test_a_sweep_file_names_an_optimizer() -> None:
    from kdtune.recipe import Recipe

    rest = {"schedule": "cosine", "precision": "float32", "batch_size": 1, "epochs": 1}
    for written, expected in (
        ({"sgd": {"lr": 0.1}}, SGD(lr=0.1)),
        ({"AdamW": {"lr": 0.1, "betas": [0.9, 0.999]}}, AdamW(lr=0.1, betas=(0.9, 0.999))),
    ):
        assert Recipe.model_validate({"optimizer": written, **rest}).optimizer == expected
